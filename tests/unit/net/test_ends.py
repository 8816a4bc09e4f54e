"""The far end of end-to-end connections, asked by a hand-made relay 1: what is carried, what is refused, what is cut."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from chainrelay.errors import Code, Refusal
from chainrelay.net import ends
from chainrelay.net.neighbours import Neighbour
from chainrelay.session.events import NextHop
from chainrelay.session.tables import PeerTable
from chainrelay.wire import codec
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.frame import frame
from chainrelay.wire.handshake import Initiator
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
    Protocol,
    Request,
    Status,
    Way,
)
from chainrelay.wire.states import State
from unit.client.fake_relay import run, until
from walklab import P6, Walk, pair_key
from wirelab import ephemeral

P1 = Endpoint(IPv4Address("127.0.0.1"), 4000)
P3 = Endpoint(IPv4Address("127.0.0.1"), 20000)


class Before:
    """Relay 1 and the client in one: hands octets to relay 2."""

    def __init__(self, row: Walk, neighbour: Neighbour) -> None:
        self.row, self.neighbour = row, neighbour
        self.session, self.connection = os.urandom(16), 1

    def outer(self, octets: bytes, **changes: Any) -> Extend:
        return replace(Extend(self.session, 2, "fw1", "fw2", self.connection, P3, octets), **changes)

    async def pass_on(self, octets: bytes, **changes: Any) -> Extended:
        """EXTEND and its answer; ERROR is raised. As a Neighbour's own caller would, bare or not."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.neighbour.ask(self.outer(octets, **changes), lambda reply, _: future.set_result(reply))
        reply = await future
        if isinstance(reply, Refusal):
            raise reply
        if isinstance(reply.message, Error):
            raise Refusal(reply.message.code, reply.message.text, reply.message.hop)
        assert isinstance(reply.message, Extended)
        return reply.message

    def client(self, key: PairKey | None = None, me: str = "alice") -> Connection:
        """The client's end."""
        place = Context.iterative(2, self.session, "fw1")
        key = key or pair_key("alice", "fw2")
        return Connection(Initiator(me, "fw2", key, Purpose.END_TO_END, place, nonce=os.urandom(32), ephemeral=ephemeral()))

    async def connect(self, **changes: Any) -> Connection:
        """A whole handshake."""
        wire = self.client()
        for _ in range(2):
            wire.receive((await self.pass_on(wire.outgoing(), **changes)).octets)
        assert wire.state is State.OPEN
        return wire

    async def ask(self, wire: Connection, message: Request, **changes: Any) -> tuple[Answer, Extended]:
        wire.send(1, message)
        extended = await self.pass_on(wire.outgoing(), **changes)
        ((_, answer),) = wire.receive(extended.octets)
        assert answer.principal == "fw2"
        assert isinstance(answer.message, Answer)
        return answer.message, extended

    def open(self, **changes: Any) -> Open:
        usual = Open(
            self.session, Protocol.UDP, Way.ITERATIVE, False, 1, P3, Target(P6.address, P6.port), "alice", P1, 0, ("fw1",), 15
        )
        return replace(usual, **changes)


def play(scenario: Callable[[Before], Awaitable[None]], *, keyed: bool = True, use_key: bool | None = None) -> None:
    async def whole() -> None:
        async with Walk(2, keyed=keyed) as row:
            key = pair_key("fw1", "fw2") if (keyed if use_key is None else use_key) else None
            neighbour = Neighbour("fw1", NextHop("fw2", row.at[1]), lambda: key, Purpose.RELAY_HOP, bare=True)
            try:
                await scenario(Before(row, neighbour))
            finally:
                await neighbour.close()

    run(whole())


@pytest.mark.parametrize("keyed", [True, False])
def test_what_a_client_says_inside(keyed: bool) -> None:
    async def scenario(before: Before) -> None:
        wire = await before.connect()
        assigned, extended = await before.ask(wire, before.open())
        assert isinstance(assigned, Assigned)
        assert (assigned.partner, assigned.next) == (P3, "")
        assert extended.client_side == assigned.client_side, "P4 outside for relay 1, inside for the client"
        last = before.row.relays[1]
        assert not last.datapath._backend.flows(), "nothing is installed before the client has confirmed"
        bound, extended = await before.ask(wire, Bind(before.session, Target(P6.address, P6.port)))
        assert isinstance(bound, Bound)
        assert extended.client_side is None
        assert last.datapath._backend.flows()
        closed, _ = await before.ask(wire, Close(before.session))
        assert isinstance(closed, Closed)
        assert not last.ends._ends, "CLOSED is the last word of an end-to-end connection"

    play(scenario, keyed=keyed)


def test_the_outer_part_against_the_inner_one() -> None:
    async def scenario(before: Before) -> None:
        wire = await before.connect()
        for changes, code in (
            ({"partner": P1}, Code.NOT_PARTNERS_ADDRESS),
            ({"path": ()}, Code.UNEXPECTED),
            ({"path": ("fw0", "fw1")}, Code.UNEXPECTED),
            ({"path": ("fw7",)}, Code.UNEXPECTED),
            ({"way": Way.RECURSIVE}, Code.UNEXPECTED),
            ({"user": "bob"}, Code.USER_NOT_ALLOWED),
        ):
            answer, _ = await before.ask(wire, before.open(**changes))
            assert isinstance(answer, Error)
            assert answer.code is code, changes
        assert before.row.left() == []

    play(scenario)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"relay": "fw3"}, Code.NO_ROUTE),
        ({"previous": "fw7"}, Code.UNEXPECTED),
        ({"hop": 3}, Code.NEXT_HOP_AUTHENTICATION),
        ({"session": bytes(16)}, Code.NEXT_HOP_AUTHENTICATION),
    ],
)
def test_m1_belongs_to_one_place(changes: dict[str, Any], code: Code) -> None:
    async def scenario(before: Before) -> None:
        with pytest.raises(Refusal) as refused:
            await before.pass_on(before.client().outgoing(), **changes)
        assert (refused.value.code, refused.value.hop) == (code, "fw2")
        assert not before.row.relays[1].ends._ends

    play(scenario)


def test_keys_of_others_and_of_relays_open_nothing() -> None:
    async def scenario(before: Before) -> None:
        for wire in (before.client(PairKey("2026a", bytes(32))), before.client(me="nobody"), before.client(pair_key("fw1", "fw2"), "fw1")):
            with pytest.raises(Refusal, match="did not verify") as refused:
                await before.pass_on(wire.outgoing())
            assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
        assert not before.row.relays[1].ends._ends

    play(scenario)


def test_records_out_of_order_or_of_no_connection_end_it_but_not_the_session() -> None:
    async def scenario(before: Before) -> None:
        wire = await before.connect()
        await before.ask(wire, before.open())
        wire.send(2, Status(before.session))
        record = wire.outgoing()
        wire.receive((await before.pass_on(record)).octets)
        with pytest.raises(Refusal) as refused:
            await before.pass_on(record)
        assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
        with pytest.raises(Refusal, match=r"no such end-to-end connection|did not verify"):
            await before.pass_on(record)
        assert len(before.row.relays[1].engine.sessions()) == 1
        before.connection = 2
        answer, _ = await before.ask(await before.connect(), Bind(before.session, Target(P6.address, P6.port)))
        assert isinstance(answer, Bound), "another connection of the same client goes on with the session"

    play(scenario)


def test_the_outer_part_stays_the_same() -> None:
    async def scenario(before: Before) -> None:
        wire = await before.connect()
        with pytest.raises(Refusal) as refused:
            await before.ask(wire, before.open(), partner=P1)
        assert refused.value.code is Code.UNEXPECTED
        assert before.row.left() == []

    play(scenario)


def test_one_request_at_a_time() -> None:
    async def scenario(before: Before) -> None:
        wire = await before.connect()
        wire.send(1, Status(before.session))
        wire.send(2, Status(before.session))
        with pytest.raises(Refusal, match="more than one request") as refused:
            await before.pass_on(wire.outgoing())
        assert refused.value.code is Code.UNEXPECTED

    play(scenario)


def test_handshakes_that_come_to_nothing_are_capped_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "END_TO_END_PER_LINK", 3)
    monkeypatch.setattr(ends, "HANDSHAKE_TIMEOUT", 0.2)

    async def scenario(before: Before) -> None:
        for before.connection in (1, 2, 3):
            await before.pass_on(before.client().outgoing())
        before.connection = 4
        with pytest.raises(Refusal) as refused:
            await before.pass_on(before.client().outgoing())
        assert refused.value.code is Code.RATE_LIMIT
        await until(lambda: not before.row.relays[1].ends._ends, 2)
        await before.connect()

    play(scenario)


def test_handshakes_of_all_links_together_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "END_TO_END_HALF_OPEN", 3)

    async def scenario(before: Before) -> None:
        hop = NextHop("fw2", before.row.at[1])
        other = Before(before.row, Neighbour("fw1", hop, lambda: pair_key("fw1", "fw2"), Purpose.RELAY_HOP, bare=True))
        for each, numbers in ((before, (1, 2)), (other, (1,))):
            for each.connection in numbers:
                await each.pass_on(each.client().outgoing())
        for each in (before, other):
            each.connection = 9
            with pytest.raises(Refusal, match="too many end-to-end handshakes are under way") as refused:
                await each.pass_on(each.client().outgoing())
            assert refused.value.code is Code.RATE_LIMIT
        await other.neighbour.close()

    play(scenario)


def test_handshakes_of_one_session_have_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "END_TO_END_PER_SECOND", 2.0)

    async def scenario(before: Before) -> None:
        for before.connection in (1, 2):
            await before.connect()
        before.connection = 3
        with pytest.raises(Refusal, match="for one session") as refused:
            await before.connect()
        assert refused.value.code is Code.RATE_LIMIT

    play(scenario)


def test_a_connection_without_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "HANDSHAKE_TIMEOUT", 0.2)

    async def scenario(before: Before) -> None:
        await before.connect()
        await until(lambda: not before.row.relays[1].ends._ends, 2)
        before.connection = 2
        wire = await before.connect()
        await before.ask(wire, before.open())
        await asyncio.sleep(0.5)
        assert before.row.relays[1].ends._ends, "one with a session stays"

    play(scenario)


def test_revoked_clients_and_lost_carriers() -> None:
    async def scenario(before: Before) -> None:
        last = before.row.relays[1]
        await before.connect()
        last.ends.cut("alice")
        assert not last.ends._ends
        assert not last.ends._by_link
        before.connection = 2
        await before.connect()
        await before.neighbour.close()
        await until(lambda: not last.ends._ends)

    play(scenario)


# without a key between the relays ------------------------------------------------


@pytest.mark.parametrize(
    "octets", [b"\0", b"\0\0\0\1\0", os.urandom(300), bytes([0, 0, 1, 0, 0x8E]) + bytes(255)], ids=["short", "empty", "noise", "like M1"]
)
def test_a_stranger_is_cut_in_silence(octets: bytes) -> None:
    async def scenario(before: Before) -> None:
        with pytest.raises(Refusal, match="ended the handshake") as refused:
            await before.pass_on(octets)
        assert (refused.value.code, refused.value.hop) == (Code.NEXT_HOP_AUTHENTICATION, "")
        await until(lambda: not before.row.relays[1].listener._visitors)
        assert not before.row.relays[1].listener._half_open

    play(scenario, keyed=False)


def test_after_a_client_has_authenticated_errors_are_told() -> None:
    async def scenario(before: Before) -> None:
        await before.connect()
        before.session = os.urandom(16)
        with pytest.raises(Refusal) as refused:
            await before.pass_on(before.client(PairKey("2026a", bytes(32))).outgoing())
        assert (refused.value.code, refused.value.hop) == (Code.NEXT_HOP_AUTHENTICATION, "fw2")
        await before.connect()

    play(scenario, keyed=False)


def test_who_has_a_key_must_use_it() -> None:
    async def scenario(before: Before) -> None:
        with pytest.raises(Refusal):
            await before.pass_on(before.client().outgoing())
        assert not before.row.relays[1].ends._ends

    play(scenario, keyed=True, use_key=False)


def test_a_key_that_came_later_is_used_from_then_on() -> None:
    async def scenario(before: Before) -> None:
        wire = await before.connect()
        last = before.row.relays[1]
        rows = tuple(
            replace(row, keys=(pair_key("fw1", "fw2"),)) if row.id == "fw1" else row for row in last.config.policy.peers.rows
        )
        last.reconfigure(replace(last.config, policy=replace(last.config.policy, peers=PeerTable(rows))))
        with pytest.raises(Refusal):
            await before.ask(wire, before.open())
        assert not last.listener._visitors, "the bare connection was cut, although a client had authenticated on it"

    play(scenario, keyed=False)


def test_a_claim_is_recorded_as_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario(before: Before) -> None:
        wire = await before.connect()
        await before.ask(wire, before.open())

    play(scenario, keyed=False)
    assert "previous='fw1 (claimed)'" in caplog.text
    caplog.clear()
    play(scenario, keyed=True)
    assert "previous=fw1" in caplog.text


def test_a_bare_connection_that_dawdles_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chainrelay.net.listener.HANDSHAKE_TIMEOUT", 0.2)

    async def scenario(before: Before) -> None:
        await before.pass_on(before.client().outgoing())  # M2 came, M3 never goes
        assert before.row.relays[1].listener._half_open.total() == 1, "it takes a stranger's place at the door"
        await until(lambda: not before.row.relays[1].listener._visitors, 2)
        assert not before.row.relays[1].ends._ends

    play(scenario, keyed=False)


def test_a_client_that_was_taken_out_of_the_table() -> None:
    async def scenario(before: Before) -> None:
        last = before.row.relays[1]
        wire = await before.connect()
        await before.ask(wire, before.open())
        rows = tuple(row for row in last.config.policy.peers.rows if row.id != "alice")
        last.reconfigure(replace(last.config, policy=replace(last.config.policy, peers=PeerTable(rows))))
        assert not last.ends._ends
        assert not last.engine.sessions()

    play(scenario)


def test_a_bare_connection_may_arrive_octet_by_octet() -> None:
    async def scenario(before: Before) -> None:
        at = before.row.at[1]
        reader, writer = await asyncio.open_connection(str(at.address), at.port)
        wire = before.client()
        for octet in frame(codec.encode(1, before.outer(wire.outgoing()))):
            writer.write(bytes([octet]))
            await writer.drain()
        length = int.from_bytes(await reader.readexactly(4), "big")
        _, answer = codec.decode(await reader.readexactly(length))
        assert isinstance(answer, Extended)
        wire.receive(answer.octets)
        assert wire.state is State.PROOF_SENT
        writer.close()
        await writer.wait_closed()

    play(scenario, keyed=False)


def test_an_extend_that_is_too_large_for_a_stranger_is_cut() -> None:
    async def scenario(before: Before) -> None:
        with pytest.raises(Refusal, match="ended the handshake"):
            await before.pass_on(bytes(5000))
        await before.connect()
        with pytest.raises(Refusal) as refused:
            await before.pass_on(bytes(5000))
        assert refused.value.hop == "fw2", "from a proved neighbour it is only wrong, not too large"

    play(scenario, keyed=False)
