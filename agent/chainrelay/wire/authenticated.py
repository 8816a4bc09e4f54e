"""The type that authentication changes: a message whose sender is known. Only wire/channel.py makes one (an import test
keeps it).

Whatever acts on a partner's words takes `Authenticated[...]`, so that unauthenticated bytes can't reach it by mistake.
`Claimed[...]` is the opposite: EXTEND and its answers between relays that share no key (docs/design.md §13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

M_co = TypeVar("M_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Authenticated(Generic[M_co]):
    """`message` came from `principal` over a channel that the handshake of docs/protocol.md opened."""

    principal: str
    message: M_co


@dataclass(frozen=True, slots=True)
class Claimed(Generic[M_co]):
    """`message` came over a bare connection: nobody vouches for it but the end-to-end connection inside of it."""

    message: M_co
