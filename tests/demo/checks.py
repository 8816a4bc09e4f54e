"""What the demo claims, as comparisons of what was observed at both ends and at every hop. Pure: values in, reasons out.

Every check can fail; tests/unit/demo feeds them a lost packet, a leftover and more.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RUN = 16
"""Octets in a row that a sealed datagram and its text must not have in common: one cipher block's worth is no chance."""


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
    sealed: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    """A sealed session's payloads on every stretch before the last relay, by its name; empty when the session is plain."""


def failures(seen: Observations) -> list[str]:
    """Every claim that does not hold; empty when all do."""
    return [*_payloads(seen), *_frames(seen), *_hops(seen), *_secrets(seen), *_empty("left over", seen.remains)]


def payload_hash(payloads: Iterable[bytes]) -> str:
    """SHA-256 over all payloads, whatever order they arrived in."""
    digests = sorted(hashlib.sha256(each).digest() for each in payloads)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def common_run(clear: Iterable[bytes], captured: Iterable[bytes], length: int = RUN) -> bytes | None:
    """`length` octets in a row that stand in both, wherever; None when there are none."""
    half = length // 2  # a run of `length` covers an aligned block of half the length
    blocks: dict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
    for text in clear:
        for at in range(0, len(text) - half + 1, half):
            blocks[text[at : at + half]].append((text, at))
    for datagram in captured:
        for at in range(len(datagram) - half + 1):
            for text, place in blocks.get(datagram[at : at + half], ()):
                start = max(0, place - half)
                around = text[start : place + length]
                windows = (around[k : k + length] for k in range(len(around) - length + 1))
                if (run := next((each for each in windows if each in datagram), None)) is not None:
                    return run
    return None


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


def _secrets(seen: Observations) -> list[str]:
    """On every stretch before the last relay as many datagrams as were sent, and nothing of what they say."""
    reasons = []
    for place, payloads in seen.sealed.items():
        if len(payloads) != len(seen.sent):
            reasons.append(f"{len(payloads)} sealed datagrams {place}, {len(seen.sent)} were sent")
        if (run := common_run(seen.sent, payloads)) is not None:
            reasons.append(f"clear text {place}: {run.hex()}")
    return reasons


def _empty(what: str, places: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{what} at {hop}: {lines[0]} ({len(lines)} in all)" for hop, lines in places.items() if lines]
