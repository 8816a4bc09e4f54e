"""Frames: 4-byte big-endian length, then the body. What the body means is not known here.

The reader refuses a frame as soon as its length is there, so a stranger can make it hold at most `limit` + 4 bytes.
"""

from __future__ import annotations

from chainrelay.errors import ProtocolError
from chainrelay.limits import FRAME_AFTER_AUTHENTICATION

HEADER = 4


def frame(body: bytes) -> bytes:
    """`body` with its length in front. 1–65536 octets; anything else is a local fault (ValueError)."""
    if not 1 <= len(body) <= FRAME_AFTER_AUTHENTICATION:
        raise ValueError(f"a frame carries 1-{FRAME_AFTER_AUTHENTICATION} octets, not {len(body)}")
    return len(body).to_bytes(HEADER, "big") + body


class FrameReader:
    """Cuts a stream into bodies. `limit` is the largest body in octets; it may be set at any time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that are complete now. Raises ProtocolError for an empty or too large one: cut the stream then."""
        held = self._held + data if self._held else data
        bodies: list[bytes] = []
        start = 0
        while len(held) - start >= HEADER:
            body = start + HEADER
            length = int.from_bytes(held[start:body], "big")
            if not 0 < length <= self.limit:
                self._held = b""
                raise ProtocolError(f"frame of {length} octets, 1-{self.limit} allowed")
            if len(held) - body < length:
                break
            start = body + length
            bodies.append(held[body:start])
        self._held = held[start:]
        return bodies
