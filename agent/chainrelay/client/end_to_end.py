"""A relay as the client talks with it: the first on its own link, any other one end to end, inside EXTEND through those before it.

    First       relay 1 on its own connection
    EndToEnd    a connection of its own with a relay, whose octets another one passes on (docs/protocol.md §12)

An end-to-end connection carries requests in the iterative way (walk.py) and REKEY of a sealed session in both ways (sealing.py):
then also with relay 1 itself, and in the recursive way straight to the last relay, relays replacing `partner` as it goes on. Which
one is needed when, and what answers are held to, is decided there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.client.leg import PATIENCE, Asker
from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.handshake import Initiator
from chainrelay.wire.keys import Context, PairKey, Purpose
from chainrelay.wire.messages import (
    Answer,
    Assigned,
    Bound,
    Closed,
    Error,
    Extend,
    Extended,
    Opened,
    Rekeyed,
    Renewed,
    Request,
    StatusReport,
)
from chainrelay.wire.primitives import Ephemeral
from chainrelay.wire.sealed import SealKeys
from chainrelay.wire.states import State

BROKEN = frozenset({Code.UNEXPECTED, Code.NEXT_HOP_AUTHENTICATION})
"""What the relays between say when an end-to-end connection has gone: another one is made, once."""

A = TypeVar("A", Opened, Assigned, Bound, Renewed, Closed, StatusReport, Rekeyed)


@dataclass(frozen=True, slots=True)
class Concluded:
    """What follows from the answers of all relays, as if one had given it."""

    message: Answer


class First:
    """Relay 1, on its own connection."""

    def __init__(self, relay: str, link: Asker) -> None:
        self.id, self._link = relay, link
        self.standing = False

    async def connect(self) -> None:
        """The link does it."""

    async def ask(self, message: Request) -> Answer:
        """Its answer. Raises Refusal."""
        return (await self._link.request(message, PATIENCE)).message


class EndToEnd:
    """An end-to-end connection with `relay`, whose octets `carrier` passes on; `context` says what it belongs to (§5)."""

    def __init__(
        self,
        me: str,
        relay: str,
        key: PairKey,
        carrier: First | EndToEnd,
        context: Context,
        partner: Endpoint,
        numbers: Iterator[int],
    ) -> None:
        self.id = relay
        self.told: Endpoint | None = None
        """P4 as the relay before says it."""
        self.standing = False
        """Whether the loop was completed: from then on a broken connection is a lost link, before it is a lie."""
        self._me, self._key, self._carrier, self._context, self._partner = me, key, carrier, context, partner
        self._wire: Connection | None = None
        self._numbers, self._connection = numbers, 0
        self._requests = 0

    @property
    def session(self) -> bytes:
        """The session that it belongs to."""
        return self._context.session

    async def connect(self) -> None:
        """A new connection: the handshake up to M2; M3 goes with the first request. Raises Refusal."""
        self._connection, self._wire = next(self._numbers), None
        wire = Connection(
            Initiator(
                self._me, self.id, self._key, Purpose.END_TO_END, self._context,
                nonce=os.urandom(32), ephemeral=Ephemeral(X25519PrivateKey.generate()),
            )
        )  # fmt: skip
        await self._exchange(wire)
        if wire.state is not State.PROOF_SENT:
            raise Refusal(Code.NEXT_HOP_AUTHENTICATION, f"{self.id} did not answer the handshake", self.id)
        self._wire = wire

    async def ask(self, message: Request) -> Answer:
        """Its answer. Raises Refusal. An end-to-end connection that broke since the last request is made again."""
        if self._wire is not None:
            try:
                answer = await self._ask(self._wire, message)
            except Refusal as refusal:
                if refusal.code not in BROKEN or not self.standing:
                    raise
                answer = None
            if answer is not None:
                return self._checked(answer)
        await self.connect()
        return await self.ask_here(message)

    async def ask_here(self, message: Request) -> Answer:
        """The same on the very connection that stands, for what belongs to it and to no other (REKEY). Raises Refusal."""
        return self._checked(await self._ask(self._standing(), message))

    def seal_keys(self, key_id: bytes) -> SealKeys:
        """The data keys of the connection that stands. Raises Refusal."""
        return self._standing().seal_keys(key_id)

    def _standing(self) -> Connection:
        if self._wire is None:
            raise Refusal(Code.UNEXPECTED, f"there is no end-to-end connection with {self.id}", self.id)
        return self._wire

    async def _ask(self, wire: Connection, message: Request) -> Answer:
        self._requests += 1
        number, self._wire = self._requests, None  # until the answer is there: a request that is broken off leaves a gap
        wire.send(number, message)
        messages = await self._exchange(wire)
        if [each[0] for each in messages] != [number]:
            raise Refusal(Code.UNEXPECTED, f"{self.id} answered with something other than was asked for", self.id)
        self._wire = wire
        return messages[0][1]

    def _checked(self, answer: Answer) -> Answer:
        if isinstance(answer, Error):
            raise Refusal(answer.code, answer.text, answer.hop or self.id)
        return answer

    async def _exchange(self, wire: Connection) -> list[tuple[int, Answer]]:
        """Octets there and back, through the carrier."""
        context, carrier = self._context, self._carrier
        extend = Extend(
            context.session, context.hop, context.previous, self.id, self._connection, self._partner, wire.outgoing()
        )
        extended = await carrier.ask(extend)
        if not isinstance(extended, Extended) or extended.session != context.session:
            raise Refusal(Code.UNEXPECTED, f"{carrier.id} answered EXTEND with something else", carrier.id)
        self.told = extended.client_side or self.told
        try:
            heard = wire.receive(extended.octets)
        except ProtocolError as fault:
            text = f"what {carrier.id} passed on is not {self.id}'s ({fault}): a wrong key, or a relay between that changes it"
            raise Refusal(Code.NEXT_HOP_AUTHENTICATION, text, self.id) from fault
        return [(number, each.message) for number, each in heard if isinstance(each.message, Answer)]


async def tell(hop: First | EndToEnd, message: Request, kind: type[A]) -> A:
    """Ask, and take an answer of that kind about the same session only. Raises Refusal."""
    return answer_of(await hop.ask(message), hop.id, message, kind)


def answer_of(answer: Answer, relay: str, message: Request, kind: type[A]) -> A:
    """`answer` as the one that `message` deserves. Raises Refusal."""
    if not isinstance(answer, kind) or answer.session != message.session:
        raise Refusal(Code.UNEXPECTED, f"{relay} answered {type(message).__name__.upper()} with something else", relay)
    return answer
