"""Sealed datagrams (M17, docs/protocol.md §13): their format, the keys of one epoch, and sealing and opening in Python. Pure.

    0..3 key id   4..11 counter, big endian   12.. ciphertext   last 16 Poly1305 tag          28 octets more than the text

The client library uses `Sealer` and `Opener`; the last relay does the same in ebpf/seal.c. No socket, no clock, no random here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chainrelay.errors import ProtocolError
from chainrelay.limits import SEAL_DATAGRAMS_PER_KEY, SEAL_WINDOW

SEALED_OVERHEAD: Final = 28
"""Octets that a sealed datagram has more than its text."""
KEY_ID_LENGTH: Final = 4
IV_LENGTH: Final = 12
HEADER_LENGTH: Final = 12
"""Key id and counter, which are the associated data as well."""
EPOCHS: Final = 16
VERSION_BITS: Final = 0b1101
"""The upper half of a key id's first octet: sealed datagrams, version 1. None of RFC 7983's first octets (STUN, ZRTP, DTLS, TURN, RTP)."""

_COUNTER_END: Final = 1 << 63


class OpenError(ValueError):
    """A datagram that is not opened; it has no effect but on a count."""


class UnknownKeyError(OpenError):
    """Not under this key: too short, another key's, or the other component's."""


class ReplayedError(OpenError):
    """Accepted before, or so old that nobody knows any more."""


class ForgedError(OpenError):
    """The tag does not verify."""


def is_key_id(octets: bytes) -> bool:
    """Whether these are 4 octets that name a key, for component 0."""
    return len(octets) == KEY_ID_LENGTH and octets[0] >> 4 == VERSION_BITS and not octets[3] & 1


def new_key_id(random: bytes, epoch: int) -> bytes:
    """The id of a session's key number `epoch` (modulo 16), of component 0, out of 4 random octets."""
    if len(random) != KEY_ID_LENGTH:
        raise ValueError(f"a key id takes {KEY_ID_LENGTH} random octets, not {len(random)}")
    return bytes((VERSION_BITS << 4 | epoch % EPOCHS, random[1], random[2], random[3] & 0xFE))


def of_component(key_id: bytes, component: int) -> bytes:
    """The key id as it stands in datagrams of component 0 or 1."""
    return key_id[:3] + bytes((key_id[3] & 0xFE | component,))


class Window:
    """Which counters were accepted, as far back as `size`. Ask `fresh` before the cipher, `mark` after the tag has verified."""

    __slots__ = ("_highest", "_seen", "_size")

    def __init__(self, size: int = SEAL_WINDOW) -> None:
        self._size = size
        self._highest = -1
        self._seen = 0  # bit n: highest − n was accepted

    @property
    def highest(self) -> int:
        """The highest counter accepted; −1: none yet."""
        return self._highest

    def fresh(self, counter: int) -> bool:
        """Whether it may be accepted: neither seen nor too old, and below 2⁶³."""
        age = self._highest - counter
        if age < 0:
            return counter < _COUNTER_END
        return age < self._size and not self._seen >> age & 1

    def mark(self, counter: int) -> None:
        """It was accepted. One that is not fresh must not be marked."""
        age = self._highest - counter
        if age > 0:
            self._seen |= 1 << age
            return
        # A jump beyond the window leaves nothing of it; shifting by it would ask for as many bits.
        self._seen = (self._seen << -age | 1) & (1 << self._size) - 1 if -age < self._size else 1
        self._highest = counter


class Sealer:
    """Seals under one key; the counter begins at 0 and never comes twice."""

    __slots__ = ("_cipher", "_ids", "_iv_head", "_iv_tail", "counter", "key_id")

    def __init__(self, key_id: bytes, key: bytes, iv: bytes) -> None:
        self.key_id = key_id
        self.counter = 0
        """Of the next datagram: how many were sealed."""
        self._ids = of_component(key_id, 0), of_component(key_id, 1)
        self._cipher = ChaCha20Poly1305(key)
        self._iv_head, self._iv_tail = _split(iv)

    def seal(self, text: bytes, component: int = 0) -> bytes:
        """The datagram. Raises ProtocolError when the key has been used up: nothing was sealed then."""
        counter = self.counter
        if counter >= SEAL_DATAGRAMS_PER_KEY:
            raise ProtocolError(f"a data key is used up after {SEAL_DATAGRAMS_PER_KEY} datagrams; the session takes a new one")
        header = self._ids[component] + counter.to_bytes(8, "big")
        nonce = self._iv_head + (self._iv_tail ^ counter).to_bytes(8, "big")
        self.counter = counter + 1  # before the cipher: whatever happens to it, this nonce is not taken again
        return header + self._cipher.encrypt(nonce, text, header)


class Opener:
    """Opens what was sealed under one key, each datagram once; counts what it does not open."""

    __slots__ = ("_cipher", "_ids", "_iv_head", "_iv_tail", "_window", "forged", "key_id", "opened", "replayed", "unknown")

    def __init__(self, key_id: bytes, key: bytes, iv: bytes) -> None:
        self.key_id = key_id
        self.opened = self.forged = self.replayed = self.unknown = 0
        self._ids = of_component(key_id, 0), of_component(key_id, 1)
        self._cipher = ChaCha20Poly1305(key)
        self._iv_head, self._iv_tail = _split(iv)
        self._window = Window()

    @property
    def highest(self) -> int:
        """The highest counter opened; −1: none yet."""
        return self._window.highest

    def open(self, datagram: bytes, component: int = 0) -> bytes:
        """The text. Raises UnknownKeyError, ReplayedError or ForgedError; the next datagram is not worse off for it."""
        if len(datagram) < SEALED_OVERHEAD or datagram[:KEY_ID_LENGTH] != self._ids[component]:
            self.unknown += 1
            raise UnknownKeyError("the datagram is not under this key and component")
        header = datagram[:HEADER_LENGTH]
        counter = int.from_bytes(header[KEY_ID_LENGTH:], "big")
        if not self._window.fresh(counter):
            self.replayed += 1
            raise ReplayedError(f"counter {counter} was accepted before, or is out of the window")
        nonce = self._iv_head + (self._iv_tail ^ counter).to_bytes(8, "big")
        try:
            text = self._cipher.decrypt(nonce, datagram[HEADER_LENGTH:], header)
        except InvalidTag:
            self.forged += 1
            raise ForgedError(f"the tag of counter {counter} does not verify") from None
        self._window.mark(counter)
        self.opened += 1
        return text


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

    def sealer(self) -> Sealer:
        """The client's: what it seals the relay opens. One of these per key, ever: a second one would begin at counter 0 again."""
        return Sealer(self.key_id, self.open_key, self.open_iv)

    def opener(self) -> Opener:
        """The client's: it opens what the relay seals. One of these per key: a second one would take replays."""
        return Opener(self.key_id, self.seal_key, self.seal_iv)


def _split(iv: bytes) -> tuple[bytes, int]:
    """An IV as the part that no counter touches and the part that each is XORed with."""
    if len(iv) != IV_LENGTH:
        raise ValueError(f"an IV has {IV_LENGTH} octets, not {len(iv)}")
    return iv[:4], int.from_bytes(iv[4:], "big")
