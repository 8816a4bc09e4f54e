"""A sealed session's key, over real connections: a hand-made client, relays in a row, kernels in memory that open and seal.

What the client library does of it has its own tests; here every step is taken by hand, so that any of them can be wrong.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any, TypeVar

import pytest

from chainrelay.datapath.fake import Drop, FakeBackend, Packet
from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.net import ends
from chainrelay.net.neighbours import Neighbour
from chainrelay.session.events import Ask, Effect, NextHop
from chainrelay.session.events import Reply as ReplyEffect
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.handshake import Initiator
from chainrelay.wire.keys import Context, Purpose
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
    Protocol,
    Rekey,
    Rekeyed,
    Renew,
    Renewed,
    Request,
    Status,
    StatusReport,
    Way,
)
from chainrelay.wire.sealed import SealKeys, new_key_id
from chainrelay.wire.states import State
from unit.client.fake_relay import run, until
from unit.net.test_ends import P3, Before
from unit.net.test_ends import play as play_before
from walklab import P6, Lie, Walk, pair_key
from wirelab import ephemeral

P1 = Endpoint(IPv4Address("127.0.0.1"), 4000)
A = TypeVar("A")


@dataclass
class Alice:
    """The client: her connection with relay 1, and what she has heard."""

    row: Walk
    link: Neighbour
    way: Way = Way.RECURSIVE
    session: bytes = field(default_factory=lambda: os.urandom(16))
    connection: int = 0
    path: tuple[str, ...] = ()
    told: list[Assigned] = field(default_factory=list)
    entry: Endpoint = P1
    """P2."""

    async def ask(self, message: Request, kind: type[A]) -> A:
        """Relay 1, on her own connection."""
        answer = (await self.link.request(message)).message
        assert isinstance(answer, kind), answer
        return answer

    def open(self, **changes: Any) -> Open:
        port = 0 if self.way is Way.RECURSIVE else P6.port
        usual = Open(self.session, Protocol.UDP, self.way, True, 1, P1, Target(P6.address, port), "alice", P1, 0, (), 15)
        return replace(usual, **changes)

    async def reserve(self) -> Opened:
        """Recursive: up to OPENED."""
        opened = await self.ask(self.open(), Opened)
        self.path, self.entry = opened.path, opened.client_side
        return opened

    def begin(self, me: str = "alice", context: Context | None = None, relay: str | None = None) -> Connection:
        """Her end of a connection with the last relay."""
        relay = relay or self.path[-1]
        place = Context.recursive if self.way is Way.RECURSIVE else Context.iterative
        context = context or place(len(self.path), self.session, "".join(self.path[-2:-1]))
        key = pair_key(me, relay)
        self.connection += 1
        return Connection(Initiator(me, relay, key, Purpose.END_TO_END, context, nonce=os.urandom(32), ephemeral=ephemeral()))

    def outer(self, octets: bytes, **changes: Any) -> Extend:
        before = "".join(self.path[-2:-1])
        usual = Extend(self.session, len(self.path), before, self.path[-1], self.connection, P1, octets)
        return replace(usual, **changes)

    async def exchange(self, wire: Connection, **changes: Any) -> list[Answer]:
        extended = await self.ask(self.outer(wire.outgoing(), **changes), Extended)
        assert extended.client_side is None, "nobody needs P4 here"
        return [each.message for _, each in wire.receive(extended.octets) if isinstance(each.message, Answer)]

    async def connect(self, me: str = "alice", **changes: Any) -> Connection:
        """A whole handshake."""
        wire = self.begin(me)
        for _ in range(2):
            assert await self.exchange(wire, **changes) == []
        assert wire.state is State.OPEN
        return wire

    async def inside(self, wire: Connection, message: Request) -> Answer:
        wire.send(1, message)
        (answer,) = await self.exchange(wire)
        return answer

    async def rekey(self, epoch: int = 0, wire: Connection | None = None) -> tuple[SealKeys, Rekeyed]:
        wire = wire or await self.connect()
        keys = wire.seal_keys(new_key_id(os.urandom(4), epoch))
        answer = await self.inside(wire, Rekey(self.session, keys.key_id))
        assert isinstance(answer, Rekeyed), answer
        return keys, answer

    # datagrams -----------------------------------------------------------------

    def kernels(self) -> list[FakeBackend]:
        kernels = [relay.datapath._backend for relay in self.row.relays]
        return [kernel for kernel in kernels if isinstance(kernel, FakeBackend)]

    def send(self, datagram: bytes) -> tuple[Packet | Drop, list[bytes]]:
        """What leaves the last relay, and what was on each wire before it."""
        packet: Packet | Drop = Packet(Protocol.UDP, P1, self.entry, datagram)
        seen = []
        for kernel in self.kernels():
            assert isinstance(packet, Packet), packet
            seen.append(packet.payload)
            packet = kernel.pass_packet(packet)
        return packet, seen

    def answer(self, leave: Endpoint, text: bytes) -> bytes:
        """What reaches the client of a text of the server's."""
        packet: Packet | Drop = Packet(Protocol.UDP, P6, leave, text)
        for kernel in reversed(self.kernels()):
            assert isinstance(packet, Packet)
            packet = kernel.pass_packet(packet)
        assert isinstance(packet, Packet)
        assert (packet.source, packet.destination) == (self.entry, P1)
        return packet.payload


def play(
    hops: int, scenario: Callable[[Alice], Awaitable[None]], way: Way = Way.RECURSIVE, *, lies: Mapping[int, Lie] | None = None
) -> None:
    async def whole() -> None:
        async with Walk(hops, lies=lies) as row:
            key = pair_key("alice", "fw1")
            link = Neighbour("alice", NextHop("fw1", row.at[0]), lambda: key, Purpose.CLIENT_HOP)
            try:
                await scenario(Alice(row, link, way))
            finally:
                await link.close()

    run(whole())


async def refused(what: Awaitable[object], code: Code, hop: str) -> None:
    with pytest.raises(Refusal) as refusal:
        await what
    assert (refusal.value.code, refusal.value.hop) == (code, hop), refusal.value


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_from_open_to_close_in_the_recursive_way(hops: int) -> None:
    async def scenario(alice: Alice) -> None:
        opened = await alice.reserve()
        assert opened.path == tuple(f"fw{k}" for k in range(1, hops + 1))
        keys, rekeyed = await alice.rekey()
        assert rekeyed.server_side == opened.exit
        assert not any(kernel.flows() for kernel in alice.kernels()), "a key alone forwards nothing"
        await alice.ask(Bind(alice.session, Target(P6.address, P6.port)), Bound)
        assert [{flow.sealed for flow in kernel.flows()} for kernel in alice.kernels()] == [{False}] * (hops - 1) + [{True}]
        sealer, opener = keys.sealer(), keys.opener()
        datagram = sealer.seal(b"question")
        assert alice.send(datagram) == (Packet(Protocol.UDP, opened.exit, P6, b"question"), [datagram] * hops)
        assert opener.open(alice.answer(opened.exit, b"answer")) == b"answer"
        assert alice.send(b"question")[0] is Drop.NOT_OPENED

        fresh, _ = await alice.rekey(1)
        assert alice.send(sealer.seal(b"late"))[0] == Packet(Protocol.UDP, opened.exit, P6, b"late")
        assert alice.send(fresh.sealer().seal(b"new"))[0] == Packet(Protocol.UDP, opened.exit, P6, b"new")
        assert fresh.opener().open(alice.answer(opened.exit, b"answer")) == b"answer"
        await alice.ask(Renew(alice.session, 60), Renewed)
        assert len((await alice.ask(Status(alice.session), StatusReport)).counters) == hops
        await alice.ask(Close(alice.session), Closed)
        assert alice.row.left() == []

    play(hops, scenario)


def test_one_relay_in_the_iterative_way() -> None:
    async def scenario(alice: Alice) -> None:
        assigned = await alice.ask(alice.open(), Assigned)
        alice.path, alice.entry = ("fw1",), assigned.client_side
        bind = Bind(alice.session, Target(P6.address, P6.port))
        await refused(alice.ask(bind, Bound), Code.WRONG_STATE, "fw1")
        keys, rekeyed = await alice.rekey()
        assert (rekeyed.partner, rekeyed.client_side, rekeyed.server_side) == (P1, assigned.client_side, assigned.server_side)
        await alice.ask(bind, Bound)
        assert alice.send(keys.sealer().seal(b"hello"))[0] == Packet(Protocol.UDP, assigned.server_side, P6, b"hello")

    play(1, scenario, Way.ITERATIVE)


def test_a_key_is_made_once_per_connection_and_the_latest_connection_counts() -> None:
    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        wire = await alice.connect()
        keys, rekeyed = await alice.rekey(0, wire)
        again = await alice.inside(wire, Rekey(alice.session, keys.key_id))
        assert again == rekeyed
        other = await alice.inside(wire, Rekey(alice.session, new_key_id(b"next", 1)))
        assert isinstance(other, Error)
        assert (other.code, other.hop) == (Code.WRONG_STATE, "fw2")
        first = alice.connection
        await alice.rekey(1)
        wire.send(9, Rekey(alice.session, keys.key_id))
        await refused(alice.exchange(wire, connection=first), Code.UNEXPECTED, "fw2")

    play(2, scenario)


@pytest.mark.parametrize(
    ("changes", "code", "hop"),
    [
        ({"hop": 3}, Code.UNEXPECTED, "fw1"),
        ({"previous": "fw3"}, Code.UNEXPECTED, "fw1"),
        ({"previous": "", "hop": 1}, Code.UNEXPECTED, "fw1"),
        ({"relay": "fw3", "hop": 3, "previous": "fw2"}, Code.NO_ROUTE, "fw2"),
        ({"relay": "fw1"}, Code.UNEXPECTED, "fw1"),
        ({"relay": "fw1", "hop": 1, "previous": ""}, Code.NEXT_HOP_AUTHENTICATION, "fw1"),
        ({"session": bytes(16)}, Code.UNKNOWN_SESSION, "fw1"),
        ({"octets": bytes(100)}, Code.UNEXPECTED, "fw2"),
    ],
)
def test_extend_goes_nowhere_else(changes: dict[str, Any], code: Code, hop: str) -> None:
    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        extend = alice.outer(alice.begin().outgoing(), connection=1)
        await refused(alice.ask(replace(extend, **changes), Extended), code, hop)

    play(2, scenario)


@pytest.mark.parametrize(
    "context",
    [
        lambda session: Context.iterative(2, session, "fw1"),
        lambda session: Context.recursive(3, session, "fw1"),
        lambda session: Context.recursive(2, session, "fw0"),
        lambda _: Context.recursive(2, bytes(16), "fw1"),
    ],
    ids=["way", "hop", "previous", "session"],
)
def test_m1_belongs_to_the_session_as_it_was_opened(context: Callable[[bytes], Context]) -> None:
    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        await refused(alice.exchange(alice.begin(context=context(alice.session))), Code.NEXT_HOP_AUTHENTICATION, "fw2")

    play(2, scenario)


def test_sessions_that_are_not_sealed_have_no_key() -> None:
    async def scenario(alice: Alice) -> None:
        await alice.ask(alice.open(sealed=False), Opened)
        alice.path = ("fw1", "fw2")
        await refused(alice.connect(), Code.WRONG_STATE, "fw1")
        alice.path = ("fw1",)
        await refused(alice.connect(), Code.UNKNOWN_SESSION, "fw1")

    play(2, scenario)


def test_on_such_a_connection_rekey_alone_is_in_place() -> None:
    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        wire = await alice.connect()
        for request in (Close(alice.session), Renew(alice.session, 0), alice.open(session=os.urandom(16))):
            answer = await alice.inside(wire, request)
            assert isinstance(answer, Error)
            assert (answer.code, answer.hop) == (Code.UNEXPECTED, "fw2")
        assert (await alice.rekey(0, wire))[1].session == alice.session

    play(2, scenario)


@pytest.mark.parametrize("hops", [1, 2])
def test_a_connection_speaks_of_its_own_session_alone(hops: int) -> None:
    """Under the same key another session's counters would begin at 0 again, and its nonces with them."""

    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        other = Alice(alice.row, alice.link)
        await other.reserve()
        wire = await alice.connect()
        keys, _ = await alice.rekey(0, wire)
        answer = await alice.inside(wire, Rekey(other.session, keys.key_id))
        assert isinstance(answer, Error)
        assert (answer.code, answer.hop) == (Code.UNEXPECTED, f"fw{hops}")
        await other.rekey()

    play(hops, scenario)


def test_a_relay_without_a_fast_path_says_so() -> None:
    async def whole() -> None:
        async with Walk(2, seals=False) as row:
            link = Neighbour("alice", NextHop("fw1", row.at[0]), lambda: pair_key("alice", "fw1"), Purpose.CLIENT_HOP)
            await refused(Alice(row, link).reserve(), Code.SEAL_NOT_AVAILABLE, "fw2")
            assert row.left() == []
            await link.close()

    run(whole())


def test_handshakes_for_keys_are_capped_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "END_TO_END_PER_LINK", 2)
    monkeypatch.setattr(ends, "HANDSHAKE_TIMEOUT", 0.2)

    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        for _ in range(2):
            await alice.exchange(alice.begin())
        await refused(alice.exchange(alice.begin()), Code.RATE_LIMIT, alice.path[-1])
        last = alice.row.relays[-1]
        await until(lambda: not last.ends._ends, 2)
        await alice.rekey()
        await alice.exchange(alice.begin())
        await until(lambda: len(last.ends._ends) == 1, 2)
        assert last.ends._by_link, "one that gave a key stays as long as the session"

    for hops in (1, 2):
        play(hops, scenario)


def test_the_relay_forgets_the_connection_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "HANDSHAKE_TIMEOUT", 0.2)
    monkeypatch.setattr(ends, "SWEEP", 0.2)

    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        await alice.rekey()
        await alice.ask(Close(alice.session), Closed)
        await until(lambda: not alice.row.relays[-1].ends._ends, 2)

    play(2, scenario)


# a relay in the middle that lies -------------------------------------------------------


def rewriting(change: Callable[[Extended], Extended]) -> Lie:
    """Relay 2's lie about what relay 3 answered to EXTEND."""

    def lie(effect: Effect) -> Effect:
        if isinstance(effect, ReplyEffect) and isinstance(effect.message, Extended):
            return replace(effect, message=change(effect.message))
        return effect

    return lie


def test_changed_and_replayed_answers_do_not_verify() -> None:
    kept: list[Extended] = []

    def replayed(answer: Extended) -> Extended:
        kept.append(answer)
        return replace(kept[0], session=answer.session)

    def changed(answer: Extended) -> Extended:
        return replace(answer, octets=answer.octets[:-1] + bytes((answer.octets[-1] ^ 1,)))

    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        with pytest.raises(ProtocolError):
            await alice.rekey()
        assert not any(flow.sealed for kernel in alice.kernels() for flow in kernel.flows())
        bind = Bind(alice.session, Target(P6.address, P6.port))
        await refused(alice.ask(bind, Bound), Code.WRONG_STATE, "fw3")

    play(3, scenario, lies={2: rewriting(changed)})
    play(3, scenario, lies={2: rewriting(replayed)})


def test_answers_for_another_session_do_not_count() -> None:
    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        await refused(alice.connect(), Code.UNEXPECTED, "fw2")

    play(3, scenario, lies={2: rewriting(lambda answer: replace(answer, session=bytes(16)))})


def asking(change: Callable[[Extend], Extend]) -> Lie:
    """Relay 2's lie about where the client's octets belong."""

    def lie(effect: Effect) -> Effect:
        if isinstance(effect, Ask) and isinstance(effect.message, Extend):
            return replace(effect, message=change(effect.message))
        return effect

    return lie


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda it: replace(it, hop=4), Code.NEXT_HOP_AUTHENTICATION),
        (lambda it: replace(it, previous="fw1"), Code.UNEXPECTED),
        (lambda it: replace(it, session=bytes(16)), Code.NEXT_HOP_AUTHENTICATION),
        (lambda it: replace(it, relay="fw9"), Code.NO_ROUTE),
    ],
    ids=["hop", "previous", "session", "relay"],
)
def test_octets_that_are_passed_on_as_something_else(change: Callable[[Extend], Extend], code: Code) -> None:
    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        await refused(alice.connect(), code, "fw3")

    play(3, scenario, lies={2: asking(change)})


def test_a_relay_that_says_it_sends_from_elsewhere() -> None:
    """Its OPEN said another P3: the key is refused, inside, so the client hears it from the last relay itself."""

    async def scenario(alice: Alice) -> None:
        await alice.reserve()
        wire = await alice.connect()
        answer = await alice.inside(wire, Rekey(alice.session, new_key_id(b"next", 0)))
        assert isinstance(answer, Error)
        assert (answer.code, answer.hop) == (Code.NOT_PARTNERS_ADDRESS, "fw3")

    play(3, scenario, lies={2: asking(lambda it: replace(it, partner=P1))})


def path_of(*path: str) -> Lie:
    def lie(effect: Effect) -> Effect:
        if isinstance(effect, ReplyEffect) and isinstance(effect.message, Opened):
            return replace(effect, message=replace(effect.message, path=path))
        return effect

    return lie


def test_a_relay_that_claims_to_be_the_last_gets_no_key_of_anothers() -> None:
    """It may say so (who must be last stands in the client's routes), but the key that it gets is its own, and the true last relay
    forwards nothing."""

    async def scenario(alice: Alice) -> None:
        opened = await alice.reserve()
        assert opened.path == ("fw1", "fw2")
        wire = await alice.connect()
        answer = await alice.inside(wire, Rekey(alice.session, new_key_id(b"next", 0)))
        assert isinstance(answer, Error)
        assert (answer.code, answer.hop) == (Code.WRONG_STATE, "fw2"), "an honest program would not; a liar would take it"
        await refused(alice.ask(Bind(alice.session, Target(P6.address, P6.port)), Bound), Code.WRONG_STATE, "fw3")

    play(3, scenario, lies={2: path_of("fw1", "fw2")})


def test_paths_that_cannot_be() -> None:
    async def scenario(alice: Alice) -> None:
        await refused(alice.reserve(), Code.ANSWER_DENIED, "fw1")
        await until(lambda: not alice.row.left())

    for path in ((), ("fw1",), ("fw2", "fw3"), ("fw1", "fw3"), ("fw1", "fw2", "fw1"), ("fw1", "fw2", "fw3", "fw3")):
        play(3, scenario, lies={2: path_of(*path)})


# the iterative way, by a hand-made relay 1 --------------------------------------------


@pytest.mark.parametrize("keyed", [True, False])
def test_iterative_on_the_connection_that_stands(keyed: bool) -> None:
    async def scenario(before: Before) -> None:
        wire = await before.connect()
        assigned, _ = await before.ask(wire, before.open(sealed=True))
        assert isinstance(assigned, Assigned)
        bind = Bind(before.session, Target(P6.address, P6.port))
        refusal, _ = await before.ask(wire, bind)
        assert isinstance(refusal, Error)
        assert refusal.code is Code.WRONG_STATE
        keys = wire.seal_keys(new_key_id(os.urandom(4), 0))
        rekeyed, outer = await before.ask(wire, Rekey(before.session, keys.key_id))
        assert rekeyed == Rekeyed(before.session, keys.key_id, P3, assigned.client_side, assigned.server_side)
        assert outer.client_side is None
        assert isinstance((await before.ask(wire, bind))[0], Bound)
        kernel = before.row.relays[1].datapath._backend
        assert isinstance(kernel, FakeBackend)
        passed = kernel.pass_packet(Packet(Protocol.UDP, P3, assigned.client_side, keys.sealer().seal(b"hello")))
        assert passed == Packet(Protocol.UDP, assigned.server_side, P6, b"hello")

        before.connection = 2  # a new key takes a new connection, on which everything else is asked as well
        wire = await before.connect()
        fresh = wire.seal_keys(new_key_id(os.urandom(4), 1))
        again, _ = await before.ask(wire, Rekey(before.session, fresh.key_id))
        assert isinstance(again, Rekeyed)
        answer = kernel.pass_packet(Packet(Protocol.UDP, P6, assigned.server_side, b"answer"))
        assert isinstance(answer, Packet)
        assert fresh.opener().open(answer.payload) == b"answer"
        assert isinstance((await before.ask(wire, Renew(before.session, 60)))[0], Renewed)
        assert isinstance((await before.ask(wire, Close(before.session)))[0], Closed)
        assert not kernel.flows()

    play_before(scenario, keyed=keyed)


def test_a_bare_connection_carries_nothing_for_relay_1() -> None:
    async def scenario(before: Before) -> None:
        with pytest.raises(Refusal, match="ended the handshake"):
            await before.pass_on(before.client().outgoing(), hop=1, previous="")
        await before.connect()
        with pytest.raises(Refusal) as refusal:
            await before.pass_on(before.client().outgoing(), hop=1, previous="", connection=2)
        assert refusal.value.code is Code.UNEXPECTED

    play_before(scenario, keyed=False)
