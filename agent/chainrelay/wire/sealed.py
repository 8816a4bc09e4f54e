"""Sealed datagrams (M17, docs/protocol.md §13): their format, the keys of one epoch, and sealing and opening in Python. Pure.

    0..3 key id   4..11 counter, big endian   12.. ciphertext   last 16 Poly1305 tag          28 octets more than the text

The client library uses `Sealer` and `Opener`; the last relay does the same in ebpf/seal.c. No socket, no clock, no random here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SEALED_OVERHEAD: Final = 28
"""Octets that a sealed datagram has more than its text."""
KEY_ID_LENGTH: Final = 4
IV_LENGTH: Final = 12
VERSION_BITS: Final = 0b1101
"""The upper half of a key id's first octet: sealed datagrams, version 1. None of RFC 7983's first octets (STUN, ZRTP, DTLS, TURN, RTP)."""


def is_key_id(octets: bytes) -> bool:
    """Whether these are 4 octets that name a key, for component 0."""
    return len(octets) == KEY_ID_LENGTH and octets[0] >> 4 == VERSION_BITS and not octets[3] & 1


@dataclass(frozen=True, slots=True)
class SealKeys:
    """One epoch's keys of a session, as the last relay uses them. `key_id` has component 0; never logged (`repr` hides the rest)."""

    key_id: bytes
    open_key: bytes = field(repr=False)
    """32 octets: client to relay (i>r)."""
    open_iv: bytes = field(repr=False)
    """12 octets."""
    seal_key: bytes = field(repr=False)
    """Relay to client (r>i)."""
    seal_iv: bytes = field(repr=False)
