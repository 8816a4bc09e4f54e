"""The key of a pair, what is derived from it, and what a handshake is for (docs/protocol.md, "Keys" and "Purposes")."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from chainrelay.limits import SESSION_ID_LENGTH
from chainrelay.wire.primitives import KEY_LENGTH, expand, extract

SALT: Final = b"chainrelay/1"


class Purpose(IntEnum):
    """Where a handshake takes place; authenticated, so that a token for one place opens no other."""

    CLIENT_HOP = 1
    RELAY_HOP = 2
    END_TO_END = 3
    CONTROL = 4
    """Between client and server (M15)."""


@dataclass(frozen=True, slots=True)
class Context:
    """What an end-to-end handshake belongs to. Every other purpose has exactly `Context()`: all zero."""

    way: int = 0
    hop: int = 0
    session: bytes = bytes(SESSION_ID_LENGTH)
    previous: str = ""
    """The id of the relay before the responder."""

    @staticmethod
    def iterative(hop: int, session: bytes, previous: str) -> Context:
        """Inside EXTEND on the iterative way (its number here is 1, unlike OPEN's)."""
        return Context(1, hop, session, previous)

    @staticmethod
    def recursive(hop: int, session: bytes, previous: str) -> Context:
        """Inside EXTEND on the recursive way, for a sealed session's key (its number here is 2, unlike OPEN's)."""
        return Context(2, hop, session, previous)


DIRECT: Final = Context()


def lp(*parts: bytes) -> bytes:
    """Each part with its 16-bit length in front: no two lists of parts give the same octets."""
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


@dataclass(frozen=True, slots=True, repr=False)
class PairSecrets:
    """The keys of one pair in one direction of initiating."""

    hello: bytes
    from_initiator: bytes
    from_responder: bytes
    mix: bytes

    @staticmethod
    def derive(secret: bytes, initiator: bytes, responder: bytes) -> PairSecrets:
        """From the pair's key and both ids (design §3)."""
        prk = extract(SALT, secret)
        return PairSecrets(
            hello=expand(prk, lp(b"hello", initiator, responder)),
            from_initiator=expand(prk, lp(b"9798-4-4 auth", initiator, responder)),
            from_responder=expand(prk, lp(b"9798-4-4 auth", responder, initiator)),
            mix=expand(prk, lp(b"mix", initiator, responder)),
        )


@dataclass(frozen=True, slots=True)
class PairKey:
    """A shared key with its id: 32 random octets, never used directly. What is derived from it dies with it."""

    kid: str
    secret: bytes = field(repr=False)
    _derived: dict[tuple[bytes, bytes], PairSecrets] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_LENGTH:
            raise ValueError(f"key {self.kid}: {KEY_LENGTH} octets wanted, not {len(self.secret)}")

    def secrets(self, initiator: bytes, responder: bytes) -> PairSecrets:
        """Derived once per direction. A key belongs to two ids, so there are two entries at most."""
        found = self._derived.get((initiator, responder))
        if found is None:
            found = self._derived[initiator, responder] = PairSecrets.derive(self.secret, initiator, responder)
        return found
