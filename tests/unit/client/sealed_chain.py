"""A row of relays in this process that carries sealed sessions in either way, with real handshakes and data keys.

    chain = SealedChain(3); owner = chain.owner(Way.RECURSIVE)

Stands where a Neighbour does, like the fake relay that it is made of; what the last relay's XDP program does is done by `Seal`. A
`lie` turns a relay's answer into another one before it leaves it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.client import Client
from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.session.tables import Kind, PeerRow, PeerTable, Route
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.handshake import Responder
from chainrelay.wire.keys import Context, PairKey, Purpose
from chainrelay.wire.messages import (
    Answer,
    Assigned,
    Bind,
    Bound,
    Close,
    Closed,
    Error,
    Extend,
    Extended,
    Open,
    Opened,
    Rekey,
    Rekeyed,
    Renew,
    Renewed,
    Request,
    Status,
    StatusReport,
    Way,
)
from chainrelay.wire.primitives import Ephemeral
from chainrelay.wire.sealed import Opener, OpenError, Sealer, SealKeys
from unit.client.fake_relay import HOP, FakeRelay, Forwarding, config

Lie = Callable[[str, Answer], Answer]
MTU = 1400


def pair_key(relay: str) -> PairKey:
    """Alice's key with a relay."""
    return PairKey("2026a", relay.encode().ljust(32, b"."))


class Seal:
    """What the last relay does with datagrams: opens by the last two keys, seals by the last one."""

    def __init__(self) -> None:
        self.keys: list[SealKeys] = []
        self.refused: list[OpenError] = []
        self._openers: list[Opener] = []
        self._sealer: Sealer | None = None

    def rekey(self, keys: SealKeys) -> None:
        """The same again is the same key."""
        if keys not in self.keys:
            self.keys.append(keys)
            self._openers = [*self._openers[-1:], Opener(keys.key_id, keys.open_key, keys.open_iv)]
            self._sealer = Sealer(keys.key_id, keys.seal_key, keys.seal_iv)

    def lose(self) -> None:
        """The map is gone."""
        self._openers, self._sealer = [], None

    @property
    def keyless(self) -> bool:
        """Whether a REKEY is needed."""
        return self._sealer is None

    def open(self, datagram: bytes, component: int) -> bytes | None:
        """The text, or None."""
        for opener in self._openers:
            if opener.key_id[:3] == datagram[:3]:
                try:
                    return opener.open(datagram, component)
                except OpenError as why:
                    self.refused.append(why)
                    return None
        return None

    def seal(self, text: bytes, component: int) -> bytes | None:
        """The datagram, or None."""
        return self._sealer.seal(text, component) if self._sealer is not None else None


class SealedChain(FakeRelay):
    """`hops` relays. `asked`: what reached relay 1; `order`: what any relay carried out, with its id."""

    def __init__(self, hops: int, lease: int = 120) -> None:
        super().__init__(lease)
        self.nodes = [Node(self, place, f"fw{place}") for place in range(1, hops + 1)]
        self.seals: dict[bytes, Seal] = {}
        self.order: list[tuple[str, type[Request]]] = []
        self.lie: Lie = lambda _relay, answer: answer
        self.connections = 0
        """End-to-end handshakes that were completed."""

    def owner(self, way: Way, *, last: str | None = None, seal: bool = True, **keys: PairKey | None) -> Client:
        """Alice. `keys`: instead of the usual one with a relay; None for none."""
        ids = [node.id for node in self.nodes]
        usual: dict[str, PairKey | None] = {relay: pair_key(relay) for relay in ids}
        rows = tuple(PeerRow(relay, Kind.RELAY, (key,) if key else ()) for relay, key in (usual | keys).items())
        route = Route("*", HOP, way, ids[-1] if last is None else last, seal)
        return self.client(config(route, peers=PeerTable(rows)))

    def seal(self) -> Seal:
        """That of the one session."""
        (one,) = self.seals.values()
        return one

    async def request(self, message: Request, _timeout: float = 5) -> Authenticated[Answer]:
        """As Neighbour.request."""
        self.asked.append(message)
        if waiting := self.refuse.get(type(message)):
            raise waiting.pop(0)
        answer = await self.nodes[0].answer(message)
        if isinstance(answer, Error):
            raise Refusal(answer.code, answer.text, answer.hop)
        return Authenticated("fw1", answer)

    def forget(self, session: bytes) -> None:
        super().forget(session)
        self.seals.pop(session, None)

    async def started(self, message: Open) -> Forwarding:
        """The session's sockets."""
        if message.session not in self.sessions:
            here = self.sessions[message.session] = await Forwarding.start(message, self.captured)
            if message.sealed:
                seal = self.seals[message.session] = Seal()
                here.open, here.seal = seal.open, seal.seal
                here.server = replace(message.server, port=0)  # nothing passes before BIND
        return self.sessions[message.session]


class Node:
    """One relay."""

    def __init__(self, chain: SealedChain, place: int, name: str) -> None:
        self.chain, self.place, self.id = chain, place, name
        self.partners: dict[bytes, Endpoint] = {}
        """As EXTEND or OPEN said it."""
        self._ends: dict[tuple[bytes, int], Connection] = {}

    @property
    def next(self) -> Node | None:
        return self.chain.nodes[self.place] if self.place < len(self.chain.nodes) else None

    def client_side(self, session: bytes) -> Endpoint:
        here = self.chain.sessions[session]
        return here.entry if self.place == 1 else Endpoint(IPv4Address(f"127.0.{self.place}.1"), 20000)

    def server_side(self, session: bytes) -> Endpoint:
        here = self.chain.sessions[session]
        return here.exit if self.next is None else Endpoint(IPv4Address(f"127.0.{self.place}.2"), 20000)

    async def answer(self, message: Request) -> Answer:
        """Carries out what arrived here; an ERROR is an answer as well."""
        try:
            answer = await self._answer(message)
        except Refusal as refusal:
            answer = Error(refusal.code, self.id, refusal.text)
        return self.chain.lie(self.id, answer)

    async def _answer(self, message: Request) -> Answer:
        chain, session = self.chain, message.session
        if not isinstance(message, Extend):
            chain.order.append((self.id, type(message)))
        if not isinstance(message, Open) and session not in chain.sessions:
            raise Refusal(Code.UNKNOWN_SESSION, "unknown session")
        match message:
            case Open():
                return await self._open(message)
            case Extend():
                return await self._extend(message)
            case Rekey():
                raise Refusal(Code.UNEXPECTED, "REKEY belongs on an end-to-end connection")
            case Bind():
                return self._bind(message)
            case Renew():
                if (self.next is None or self.place == 1) and session in chain.seals and chain.seals[session].keyless:
                    raise Refusal(Code.SEAL_KEY_MISSING, "the keys are gone")
                return Renewed(session, chain.lease)
            case Status():
                return StatusReport(session, chain.lease, ())
            case Close():
                if self.place == 1:
                    chain.forget(session)
                return Closed(session, ())

    async def _open(self, message: Open) -> Answer:
        chain, session = self.chain, message.session
        here = await chain.started(message)
        self.partners[session] = message.partner
        if message.way is Way.RECURSIVE:
            if message.sealed and message.server.port:
                raise Refusal(Code.UNEXPECTED, "a sealed session is reserved first")
            path = tuple(node.id for node in chain.nodes)
            return Opened(session, here.entry, here.exit, chain.lease, MTU, True, path)
        following = self.next.id if self.next else ""
        return Assigned(
            session, message.partner, self.client_side(session), self.server_side(session), following, chain.lease, MTU
        )

    def _bind(self, message: Bind) -> Answer:
        seal = self.chain.seals.get(message.session)
        at_last = self.next is None or self.chain.asked[0].way is Way.RECURSIVE  # type: ignore[union-attr]
        if at_last:
            if seal is not None and seal.keyless:
                raise Refusal(Code.WRONG_STATE, "BIND before REKEY")
            self.chain.sessions[message.session].server = message.server
        return Bound(message.session, MTU)

    async def _extend(self, message: Extend) -> Answer:
        way = next(each.way for each in self.chain.asked if isinstance(each, Open) and each.session == message.session)
        if message.relay != self.id:
            assert self.next is not None
            if way is Way.RECURSIVE:
                message = replace(message, partner=self.server_side(message.session))
            else:
                assert (message.hop, message.previous, message.relay) == (self.place + 1, self.id, self.next.id)
            answer = await self.next.answer(message)
            return replace(answer, client_side=None) if isinstance(answer, Extended) and way is Way.RECURSIVE else answer
        previous = self.chain.nodes[self.place - 2].id if self.place > 1 else ""
        assert (message.hop, message.previous) == (self.place, previous)
        key = message.session, message.connection
        if key not in self._ends:
            context = Context(1 if way is Way.ITERATIVE else 2, message.hop, message.session, message.previous)
            self._ends[key] = Connection(
                Responder(
                    self.id, find_key=lambda _who, _kid: pair_key(self.id), expected_purpose=lambda _who: Purpose.END_TO_END,
                    context=context, nonce=os.urandom(32), ephemeral=lambda: Ephemeral(X25519PrivateKey.generate()),
                )
            )  # fmt: skip
        wire = self._ends[key]
        try:
            heard = wire.receive(message.octets)
        except ProtocolError as fault:
            del self._ends[key]
            raise Refusal(Code.NEXT_HOP_AUTHENTICATION, str(fault)) from fault
        client_side = None
        for number, each in heard:
            inner = each.message
            if isinstance(inner, Rekey):
                self.partners[message.session] = message.partner
                answer = self._rekey(inner, wire)
            else:
                assert isinstance(inner, Request)
                answer = await self.answer(inner)
            if isinstance(answer, Assigned):
                client_side = answer.client_side
            wire.send(number, answer)
        return Extended(message.session, client_side, wire.outgoing())

    def _rekey(self, message: Rekey, wire: Connection) -> Answer:
        session = message.session
        self.chain.order.append((self.id, Rekey))
        if waiting := self.chain.refuse.get(Rekey):
            refusal = waiting.pop(0)
            return Error(refusal.code, self.id, refusal.text)
        self.chain.connections += 1
        self.chain.seals[session].rekey(wire.seal_keys(message.key_id))
        return self.chain.lie(
            self.id,
            Rekeyed(session, message.key_id, self.partners[session], self.client_side(session), self.server_side(session)),
        )


