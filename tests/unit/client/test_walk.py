"""The loop against real relays in this process: it opens, keeps and closes; a relay that lies is found out and nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from chainrelay.errors import Code, Refusal
from chainrelay.limits import CONFIRM_TIMEOUT
from chainrelay.session.events import Ask, Effect, Reply
from chainrelay.session.tables import AccessTable, Allow
from chainrelay.session.transitions import State
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.keys import PairKey
from chainrelay.wire.messages import Assigned, Extend, Extended, Way
from unit.client.fake_relay import run, until
from walklab import P6, Lie, Walk

ELSEWHERE = Endpoint.parse("127.0.0.1:29999")


def mappings(row: Walk) -> list[tuple[Endpoint, Endpoint, Endpoint, Endpoint]]:
    found = []
    for relay in row.relays:
        (one,) = relay.engine.sessions()
        assert one.client_side and one.server_side and one.server_partner
        found.append((one.client_partner, one.client_side, one.server_side, one.server_partner))
    return found


@pytest.mark.parametrize("keyed", [True, False], ids=["neighbours with keys", "neighbours without"])
@pytest.mark.parametrize("hops", [1, 2, 3, 5])
def test_a_session_from_end_to_end(hops: int, keyed: bool) -> None:
    async def scenario() -> None:
        async with Walk(hops, keyed=keyed) as row:
            session = await row.open()
            rows = mappings(row)
            assert rows[0][:2] == (session.local, session.entry)
            assert rows[-1][2:] == (session.exit, P6)
            for one, other in pairwise(rows):
                assert (one[2], one[3]) == (other[0], other[1]), "what relay k sends from and to is what relay k+1 expects"
            assert [each.hop for each in await session.counters()] == [f"fw{k}" for k in range(1, hops + 1)]
            assert [each.hop for each in await session.close()] == [f"fw{k}" for k in range(1, hops + 1)]
            assert row.left() == []

    run(scenario())


def test_reserve_binds_the_last_relay_later() -> None:
    async def scenario() -> None:
        async with Walk(2) as row:
            session = await row.client.reserve("127.0.9.9")
            first, last = (relay.datapath._backend.flows() for relay in row.relays)
            assert first
            assert not last
            await session.bind(str(P6))
            assert row.relays[1].datapath._backend.flows()
            await session.close()
            assert row.left() == []

    run(scenario())


def test_the_session_survives_a_lost_link_between_relays() -> None:
    async def scenario() -> None:
        for keyed in (True, False):
            async with Walk(3, keyed=keyed) as row:
                session = await row.open()
                before = mappings(row)
                for neighbour in row.relays[1]._neighbours.values():
                    assert neighbour._connection is not None
                    neighbour._connection.abort(ConnectionResetError("cut by the test"))
                await until(lambda: not row.relays[2].ends._ends)
                assert len(await session.counters()) == 3
                assert mappings(row) == before
                await session.close()
                assert row.left() == []

    run(scenario())


def test_a_relay_that_lost_the_session_gets_it_again() -> None:
    async def scenario() -> None:
        async with Walk(2) as row:
            session = await row.open()
            loop_time = row.relays[1]._now()
            row.relays[1]._perform(row.relays[1].engine.teardown(loop_time))
            await until(lambda: not row.relays[1].engine.sessions())
            row.relays[1].engine._book.draining = False
            session._leg.look_now()  # type: ignore[attr-defined]
            await until(lambda: len(row.relays[1].datapath._backend.flows()) == 2)
            assert len(await session.counters()) == 2
            assert mappings(row)[-1][2] == session.exit
            await session.close()
            assert row.left() == []

    run(scenario())


def test_leases_are_renewed_at_every_relay() -> None:
    async def scenario() -> None:
        async with Walk(3) as row:
            session = await row.client.open_to(str(P6), lease=3)

            def left() -> list[float]:
                return [relay.engine.sessions(relay._now())[0].lease_left for relay in row.relays]

            await until(lambda: max(left()) < 2.5, 2)
            await until(lambda: min(left()) > 2.7, 2)
            await session.close()

    run(scenario())


# what is refused -------------------------------------------------------------


@pytest.mark.parametrize("keyed", [True, False], ids=["neighbours with keys", "neighbours without"])
@pytest.mark.parametrize("stranger", [2, 3])
@pytest.mark.parametrize(
    "key", [None, PairKey("2026a", bytes(32)), PairKey("2025z", bytes(32))], ids=["no key", "another key", "another kid"]
)
def test_a_relay_that_does_not_know_the_client(key: PairKey | None, stranger: int, keyed: bool) -> None:
    async def scenario() -> None:
        async with Walk(3, keyed=keyed) as row:
            client = row.make_client(**{f"fw{stranger}": key})
            with pytest.raises(Refusal) as refused:
                await row.open(client)
            assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
            assert f"fw{stranger}" in str(refused.value)
            assert row.left() == []
            await client.close()

    run(scenario())


def test_a_relay_that_does_not_admit_the_client() -> None:
    async def scenario() -> None:
        for refusing in (1, 2, 3):
            async with Walk(3, policy={refusing: {"access": AccessTable((Allow("bob"),))}}) as row:
                with pytest.raises(Refusal) as refused:
                    await row.open()
                assert (refused.value.code, refused.value.hop) == (Code.ACCESS_DENIED, f"fw{refusing}")
                assert row.left() == []

    run(scenario())


@pytest.mark.parametrize("keyed", [True, False])
def test_a_rule_can_demand_the_key_between_neighbours(keyed: bool) -> None:
    async def scenario() -> None:
        async with Walk(2, keyed=keyed, policy={2: {"access": AccessTable((Allow("*", neighbour_key=True),))}}) as row:
            if keyed:
                await (await row.open()).close()
                return
            with pytest.raises(Refusal, match="fw1 has not; give the two relays a key") as refused:
                await row.open()
            assert (refused.value.code, refused.value.hop) == (Code.ACCESS_DENIED, "fw2")
            assert row.left() == []

    run(scenario())


def test_without_neighbour_keys_the_recursive_way_is_refused() -> None:
    async def scenario() -> None:
        async with Walk(2, keyed=False, way=Way.RECURSIVE) as row:
            with pytest.raises(Refusal, match="no key for fw2") as refused:
                await row.open()
            assert (refused.value.code, refused.value.hop) == (Code.NEXT_HOP_AUTHENTICATION, "fw1")
            assert row.left() == []

    run(scenario())


# relays that lie -------------------------------------------------------------


def on_extended(change: Callable[[Extended], Extended]) -> Lie:
    """Relay 1 changes what it passes back from relay 2."""

    def lie(effect: Effect) -> Effect:
        if isinstance(effect, Reply) and isinstance(effect.message, Extended):
            return replace(effect, message=change(effect.message))
        return effect

    return lie


def on_extend(change: Callable[[Extend], Extend]) -> Lie:
    """Relay 1 changes what it passes on to relay 2."""

    def lie(effect: Effect) -> Effect:
        if isinstance(effect, Ask) and isinstance(effect.message, Extend):
            return replace(effect, message=change(effect.message))
        return effect

    return lie


def on_assigned(**changes: Any) -> Lie:
    """A relay says something else of itself than its kernel will do."""

    def lie(effect: Effect) -> Effect:
        if isinstance(effect, Reply) and isinstance(effect.message, Assigned):
            return replace(effect, message=replace(effect.message, **changes))
        return effect

    return lie


class Replay:
    """Answers each EXTEND with what it answered to the one before."""

    def __init__(self) -> None:
        self.before: Extended | None = None

    def __call__(self, effect: Effect) -> Effect:
        if isinstance(effect, Reply) and isinstance(effect.message, Extended):
            told, self.before = self.before or effect.message, effect.message
            return replace(effect, message=told)
        return effect


LIES: dict[str, tuple[Lie, Code]] = {
    "another P4": (on_extended(lambda it: replace(it, client_side=it.client_side and ELSEWHERE)), Code.ANSWER_DENIED),
    "no P4": (on_extended(lambda it: replace(it, client_side=None)), Code.ANSWER_DENIED),
    "another P3 to relay 2": (on_extend(lambda it: replace(it, partner=ELSEWHERE)), Code.NOT_PARTNERS_ADDRESS),
    "another P3 to the client": (on_assigned(server_side=ELSEWHERE), Code.UNEXPECTED),
    "another P1 told": (on_assigned(partner=ELSEWHERE), Code.ANSWER_DENIED),
    "a next relay that the client does not know": (on_assigned(next="fw9"), Code.NEXT_HOP_AUTHENTICATION),
    "relay 3 in place of relay 2": (on_assigned(next="fw3"), Code.NO_ROUTE),
    "another hop": (on_extend(lambda it: replace(it, hop=3)), Code.NEXT_HOP_AUTHENTICATION),
    "another previous relay": (on_extend(lambda it: replace(it, previous="fw7")), Code.UNEXPECTED),
    "for another relay": (on_extend(lambda it: replace(it, relay="fw3")), Code.NO_ROUTE),
    "for another session": (on_extend(lambda it: replace(it, session=bytes(16))), Code.NEXT_HOP_AUTHENTICATION),
    "an answer of another session": (on_extended(lambda it: replace(it, session=bytes(16))), Code.UNEXPECTED),
    "changed octets": (on_extended(lambda it: replace(it, octets=it.octets[:-1] + b"\0")), Code.NEXT_HOP_AUTHENTICATION),
    "changed octets on the way there": (on_extend(lambda it: replace(it, octets=it.octets[:-1] + b"\0")), Code.NEXT_HOP_AUTHENTICATION),
}


def nothing_but_reservations(row: Walk) -> None:
    """A liar can keep CLOSE from relay 2 as well: what may be left there is a reservation of 30 s that forwards nothing."""
    assert [each for relay in row.relays for each in relay.datapath._backend.flows()] == [], "nothing was ever installed"
    assert not row.relays[0].engine.sessions()
    standing = [one for relay in row.relays[1:] for one in relay.engine.sessions()]
    assert all(one.state is State.RESERVED and one.lease_left <= CONFIRM_TIMEOUT for one in standing)


@pytest.mark.parametrize("lie", LIES)
def test_a_first_relay_that_lies_is_found_out(lie: str) -> None:
    async def scenario() -> None:
        telling, code = LIES[lie]
        async with Walk(3, lies={1: telling}) as row:
            with pytest.raises(Refusal) as refused:
                await row.open()
            assert refused.value.code is code, refused.value
            nothing_but_reservations(row)

    run(scenario())


def test_replayed_answers_are_found_out() -> None:
    async def scenario() -> None:
        async with Walk(3, lies={1: Replay()}) as row:
            with pytest.raises(Refusal) as refused:
                await row.open()
            assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
            nothing_but_reservations(row)

    run(scenario())


def test_an_answer_from_the_end_to_end_connection_of_another_session() -> None:
    """Relay 1 gives one session's answers to another one."""
    passed: list[Extended] = []

    def lie(effect: Effect) -> Effect:
        if isinstance(effect, Reply) and isinstance(effect.message, Extended):
            passed.append(effect.message)
            if len(passed) == 3 + 2:
                return replace(effect, message=replace(passed[1], session=effect.message.session))
        return effect

    async def scenario() -> None:
        async with Walk(2, lies={1: lie}) as row:
            session = await row.open()
            assert len(passed) == 3, "M2; READY and ASSIGNED; BOUND"
            with pytest.raises(Refusal) as refused:
                await row.open()
            assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
            assert all(len(relay.engine.sessions()) == 1 for relay in row.relays), "the first one stands, of the second nothing is left"
            await session.close()
            assert row.left() == []

    run(scenario())


OTHER_ENTRY = Endpoint.parse("127.0.3.1:29999")


@pytest.mark.parametrize("lies", [{}, {3: on_assigned(client_side=OTHER_ENTRY)}], ids=["honest", "another entry of its own"])
def test_a_later_relays_answer_changes_nothing_at_relay_1(lies: dict[int, Lie]) -> None:
    """What relay 3 names counts at relay 2; relay 1 sees nothing of it, so it can not take it for relay 2's."""
    passed: list[Extended] = []

    def lie(effect: Effect) -> Effect:
        if isinstance(effect, Reply) and isinstance(effect.message, Extended) and effect.message.client_side is not None:
            passed.append(effect.message)
        return effect

    async def scenario() -> None:
        async with Walk(3, lies={1: lie, **lies}) as row:
            session = await row.open()
            assert (mappings(row)[1][3] == OTHER_ENTRY) is bool(lies), "relay 2 sends to where relay 3 says"
            (entry,) = {each.client_side for each in passed}
            assert entry == mappings(row)[1][1], "relay 1 heard relay 2's endpoint, once, and no other"
            assert mappings(row)[0][3] == entry
            await session.close()

    run(scenario())


def test_a_chain_that_goes_on_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every relay names one more: the client has a limit of its own, whatever the relays make of theirs."""
    monkeypatch.setattr("chainrelay.client.walk.MAX_HOPS", 2)

    async def scenario() -> None:
        async with Walk(3) as row:
            with pytest.raises(Refusal, match="fw1 > fw2") as refused:
                await row.open()
            assert refused.value.code is Code.TOO_MANY_HOPS
            assert row.left() == []

    run(scenario())


def test_relays_in_the_wrong_order() -> None:
    """Relay 2 sends the client to relay 1 again."""

    async def scenario() -> None:
        async with Walk(3, lies={2: on_assigned(next="fw1")}) as row:
            with pytest.raises(Refusal) as refused:
                await row.open()
            assert refused.value.code is Code.LOOP
            assert row.left() == []

    run(scenario())
