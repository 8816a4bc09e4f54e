"""The library's sealed sessions through real relays in this process, whose kernels in memory open and seal.

test_sealing.py has the client's half against a chain of our own making; here is what both halves come to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from chainrelay.client import Client, Session
from chainrelay.client.leg import RelayedLeg
from chainrelay.datapath.fake import Drop, FakeBackend, Packet
from chainrelay.errors import Code, Refusal
from chainrelay.session.events import Effect, Reply
from chainrelay.session.tables import AccessTable, Allow
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Opened, Protocol, Way
from unit.client.fake_relay import run, until
from walklab import P6, Lie, Walk, pair_key

WAYS = pytest.mark.parametrize("way", list(Way), ids=lambda way: way.name.lower())
HOPS = pytest.mark.parametrize("hops", [1, 2, 3, 5])
Scenario = Callable[[Walk, Client], Awaitable[None]]


def play(hops: int, way: Way, scenario: Scenario, *, last: str | None = None, left: bool = False, **changes: Any) -> None:
    """A row and alice, who seals. `changes`: of the row. Nothing may be left behind but what the test says."""

    async def whole() -> None:
        async with Walk(hops, way=way, **changes) as row:
            async with row.sealing_client(last or f"fw{hops}") as alice:
                await scenario(row, alice)
            assert left or row.left() == []

    run(whole())


def kernels(row: Walk) -> list[FakeBackend]:
    return [relay.datapath._backend for relay in row.relays]  # type: ignore[misc]


def to_server(row: Walk, session: Session, datagram: bytes) -> tuple[Packet | Drop, list[bytes]]:
    """What leaves the row, and the payload before each relay."""
    packet: Packet | Drop = Packet(Protocol.UDP, session.local, session.entry, datagram)
    seen = []
    for kernel in kernels(row):
        assert isinstance(packet, Packet)
        seen.append(packet.payload)
        packet = kernel.pass_packet(packet)
    return packet, seen


def to_client(row: Walk, session: Session, text: bytes) -> bytes:
    packet: Packet | Drop = Packet(Protocol.UDP, P6, session.exit, text)
    for kernel in reversed(kernels(row)):
        assert isinstance(packet, Packet)
        packet = kernel.pass_packet(packet)
    assert isinstance(packet, Packet)
    assert (packet.source, packet.destination) == (session.entry, session.local)
    return packet.payload


def talk(row: Walk, session: Session) -> None:
    """Both ways, by the keys that the session holds."""
    assert session.keys is not None
    left, seen = to_server(row, session, session.keys.seal(b"question of the client"))
    assert left == Packet(Protocol.UDP, session.exit, P6, b"question of the client")
    assert not any(b"question" in each for each in seen)
    answer = to_client(row, session, b"answer of the server")
    assert b"answer" not in answer
    assert session.keys.open(answer) == b"answer of the server"


def leg_of(session: Session) -> RelayedLeg:
    assert isinstance(session._leg, RelayedLeg)
    return session._leg


async def rekey(session: Session) -> None:
    rekeying = leg_of(session)._rekeying
    assert rekeying is not None
    await rekeying.rekey()


def key_id(session: Session) -> bytes:
    """Of the key that seals."""
    assert session.keys is not None and session.keys._sealer is not None
    return session.keys._sealer.key_id


@WAYS
@HOPS
def test_from_open_to_close(hops: int, way: Way) -> None:
    async def scenario(row: Walk, alice: Client) -> None:
        async with alice.open_to(str(P6)) as session:
            assert session.sealed
            assert session.relays == tuple(f"fw{k}" for k in range(1, hops + 1))
            assert [{flow.sealed for flow in kernel.flows()} for kernel in kernels(row)] == [{False}] * (hops - 1) + [{True}]
            talk(row, session)
            assert len(await session.counters()) == hops

    play(hops, way, scenario)


@WAYS
@HOPS
def test_reserved_then_bound(hops: int, way: Way) -> None:
    async def scenario(row: Walk, alice: Client) -> None:
        async with alice.reserve("127.0.9.9") as session:
            assert not kernels(row)[-1].flows()
            await session.bind(str(P6))
            talk(row, session)

    play(hops, way, scenario)


@WAYS
@HOPS
def test_one_key_after_the_other(hops: int, way: Way) -> None:
    async def scenario(row: Walk, alice: Client) -> None:
        async with alice.open_to(str(P6)) as session:
            assert session.keys is not None
            for _ in range(3):
                before = session.keys.seal(b"under way")
                answer = to_client(row, session, b"under way")
                await rekey(session)
                assert to_server(row, session, before)[0] == Packet(Protocol.UDP, session.exit, P6, b"under way")
                assert session.keys.open(answer) == b"under way"
                assert to_server(row, session, before)[0] is Drop.NOT_OPENED, "once"
                talk(row, session)
                assert len(await session.counters()) == hops, "the connections that carry requests stand as before"

    play(hops, way, scenario)


def test_neighbours_without_keys() -> None:
    async def scenario(row: Walk, alice: Client) -> None:
        async with alice.open_to(str(P6)) as session:
            talk(row, session)
            await rekey(session)
            talk(row, session)

    play(3, Way.ITERATIVE, scenario, keyed=False)


@WAYS
def test_a_kernel_that_lost_everything_gets_another_key(way: Way) -> None:
    """RENEW is answered with SEAL_KEY_MISSING; the session stays, under its endpoints."""

    async def scenario(row: Walk, alice: Client) -> None:
        async with alice.open_to(str(P6)) as session:
            moved: list[Session] = []
            session.on_moved = moved.append
            endpoints = session.entry, session.exit
            before = key_id(session)
            kernels(row)[-1].flush_own()
            leg_of(session).look_now()
            await until(lambda: key_id(session) != before and bool(kernels(row)[-1].flows()))
            assert (session.entry, session.exit) == endpoints
            assert moved == []
            talk(row, session)

    play(2, way, scenario)


@WAYS
def test_a_relay_that_forgot_the_session(way: Way) -> None:
    async def scenario(row: Walk, alice: Client) -> None:
        async with alice.open_to(str(P6)) as session:
            last = row.relays[-1]
            last._perform(last.engine.teardown(last._now()))
            await until(lambda: not last.engine.sessions())
            last.engine._book.draining = False
            before = key_id(session)
            leg_of(session).look_now()
            await until(lambda: key_id(session) != before and bool(kernels(row)[-1].flows()))
            await until(lambda: bool(kernels(row)[0].flows()))
            talk(row, session)

    play(2, way, scenario)


@WAYS
def test_a_link_between_relays_that_was_lost_costs_no_key(way: Way) -> None:
    async def scenario(row: Walk, alice: Client) -> None:
        async with alice.open_to(str(P6)) as session:
            for neighbour in row.relays[0]._neighbours.values():
                assert neighbour._connection is not None
                neighbour._connection.abort(ConnectionResetError("cut by the test"))
            await until(lambda: not row.relays[1].ends._ends)
            talk(row, session)
            assert len(await session.counters()) == 2
            await rekey(session)
            talk(row, session)

    play(2, way, scenario)


# who says no -----------------------------------------------------------------------


def refused(hops: int, way: Way, code: Code, *, hop: str = "", last: str | None = None, **changes: Any) -> str:
    """What opening a sealed session is refused with."""
    said: list[str] = []

    async def scenario(_row: Walk, alice: Client) -> None:
        with pytest.raises(Refusal) as refusal:
            await alice.open_to(str(P6))
        assert refusal.value.code is code, refusal.value
        assert refusal.value.hop == hop
        said.append(str(refusal.value))

    play(hops, way, scenario, last=last, **changes)
    return said[0]


@WAYS
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_where_the_last_relay_can_not_seal(hops: int, way: Way) -> None:
    refused(hops, way, Code.SEAL_NOT_AVAILABLE, hop=f"fw{hops}", seals=False)


@WAYS
@pytest.mark.parametrize("place", [1, 2, 3])
def test_where_the_access_table_demands_a_seal(place: int, way: Way) -> None:
    demands: Mapping[int, dict[str, Any]] = {place: {"access": AccessTable((Allow("*", seal=True),))}}

    async def whole() -> None:
        async with Walk(3, way=way, policy=demands) as row:
            async with row.sealing_client("fw3", seal=False) as plain:
                with pytest.raises(Refusal) as refusal:
                    await plain.open_to(str(P6))
                assert (refusal.value.code, refusal.value.hop) == (Code.SEAL_REQUIRED, f"fw{place}")
                async with plain.open_to(str(P6), seal=True) as session:
                    talk(row, session)
            assert row.left() == []

    run(whole())


@WAYS
def test_a_chain_that_ends_elsewhere_than_the_client_demands(way: Way) -> None:
    assert "demands that fw2" in refused(3, way, Code.ANSWER_DENIED, last="fw2")


def on_opened(**changes: Any) -> Lie:
    def lie(effect: Effect) -> Effect:
        if isinstance(effect, Reply) and isinstance(effect.message, Opened):
            return replace(effect, message=replace(effect.message, **changes))
        return effect

    return lie


def test_relay_1_shortens_the_way() -> None:
    """It says that relay 2 were the last one, with whom alice has a key as well."""
    refused(3, Way.RECURSIVE, Code.ANSWER_DENIED, lies={1: on_opened(path=("fw1", "fw2"))})
    refused(3, Way.RECURSIVE, Code.UNEXPECTED, hop="fw1", lies={1: on_opened(path=("fw1", "fw3"))})


def test_relay_1_names_another_exit() -> None:
    said = refused(3, Way.RECURSIVE, Code.ANSWER_DENIED, lies={1: on_opened(exit=Endpoint.parse("127.0.0.9:20002"))})
    assert "the exit" in said
    assert "127.0.0.9:20002" in said


def test_relay_1_keeps_the_session_for_itself() -> None:
    """It opens the session at no other relay, and says that fw2 is behind it: fw2 has never heard of the session."""

    async def whole() -> None:
        async with Walk(1, way=Way.RECURSIVE, lies={1: on_opened(path=("fw1", "fw2"))}) as row, row.sealing_client(
            "fw2", keys={"fw2": pair_key("alice", "fw2")}
        ) as alice:
            with pytest.raises(Refusal) as refusal:
                await alice.open_to(str(P6))
            assert refusal.value.code is Code.NO_ROUTE
            assert row.left() == []

    run(whole())
