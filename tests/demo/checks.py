"""What the demo claims, as comparisons of what was observed at both ends and at every hop. Pure: values in, reasons out.

Every check can fail; tests/unit/demo feeds them a lost packet, a leftover and more.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Observations:
    """What was seen. Payloads are those of UDP datagrams as captured on the wire; frames are MD5s of decoded pictures."""

    hops: tuple[str, ...]
    sent: Sequence[bytes]
    received: Sequence[bytes]
    frames_expected: int
    frames_sent: Sequence[str]
    frames_received: Sequence[str]
    counted: Mapping[str, int]
    """Packets toward the client that each hop's kernel counted."""
    in_user_space: Mapping[str, Sequence[str]]
    """Sockets on pool ports at a relay while the video ran: the kernel alone was to carry it."""
    remains: Mapping[str, Sequence[str]]
    """What was left at each relay after the session was closed and torn down."""


def failures(seen: Observations) -> list[str]:
    """Every claim that does not hold; empty when all do."""
    return [*_payloads(seen), *_frames(seen), *_hops(seen), *_empty("left over", seen.remains)]


def payload_hash(payloads: Iterable[bytes]) -> str:
    """SHA-256 over all payloads, whatever order they arrived in."""
    digests = sorted(hashlib.sha256(each).digest() for each in payloads)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def verdict(reasons: Sequence[str]) -> tuple[str, int]:
    """The demo's last line and its exit status."""
    return (f"demo: FAILED {'; '.join(reasons)}", 1) if reasons else ("demo: ok", 0)


def _payloads(seen: Observations) -> list[str]:
    if not seen.sent:
        return ["the server sent nothing"]
    sent, received = Counter(seen.sent), Counter(seen.received)
    lost, foreign = (sent - received).total(), (received - sent).total()
    reasons = [f"{lost} of {len(seen.sent)} datagrams lost"] if lost else []
    reasons += [f"{foreign} datagrams at the client that the server did not send"] if foreign else []
    if not reasons and payload_hash(seen.sent) != payload_hash(seen.received):
        reasons.append("the payload hashes differ")
    return reasons


def _frames(seen: Observations) -> list[str]:
    if len(seen.frames_sent) != seen.frames_expected:
        return [f"the clip has {len(seen.frames_sent)} frames instead of {seen.frames_expected}"]
    if len(seen.frames_received) != len(seen.frames_sent):
        return [f"{len(seen.frames_received)} frames decoded at the client, {len(seen.frames_sent)} sent"]
    pairs = zip(seen.frames_sent, seen.frames_received, strict=True)
    wrong = sum(sent != received for sent, received in pairs)
    return [f"{wrong} decoded frames differ"] if wrong else []


def _hops(seen: Observations) -> list[str]:
    reasons = [f"no counters of {hop}" for hop in seen.hops if hop not in seen.counted]
    reasons += [
        f"{hop} counted {packets} packets to the client, {len(seen.sent)} were sent"
        for hop, packets in seen.counted.items()
        if packets != len(seen.sent)
    ]
    return reasons + _empty("in user space", seen.in_user_space)


def _empty(what: str, places: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{what} at {hop}: {lines[0]} ({len(lines)} in all)" for hop, lines in places.items() if lines]
