"""The iterative way at one relay: EXTEND is passed on or refused, P4 is kept aside until the client confirms it, nobody is asked else."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from chainrelay.datapath.mapping import Install, Remove
from chainrelay.datapath.mapping import Renew as Prolong
from chainrelay.errors import Code
from chainrelay.limits import CONFIRM_TIMEOUT, EXTEND_OCTETS, EXTENDS_AT_ONCE
from chainrelay.session.engine import Engine
from chainrelay.session.events import Answered, Ask, Link, NextHop, Through
from chainrelay.session.prefixes import Prefixes
from chainrelay.session.tables import AccessTable, Allow, AnswerRow, AnswerTable, PeerTable
from chainrelay.wire.authenticated import Claimed
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import (
    Assigned,
    Bind,
    Bound,
    Closed,
    Error,
    Extend,
    Extended,
    Open,
    Opened,
    Renewed,
    StatusReport,
    Way,
)
from playbook import ALICE, FW1_SEEN, P1, P6, PEERS, SID, Play, an_open, an_opened, first, last, play, routes

P3 = Endpoint.parse("10.0.2.1:20000")
P4 = Endpoint.parse("10.0.2.2:20100")
INSIDE = Link(9, "alice", ip_address("10.0.2.1"), ip_address("10.0.2.2"), Through("fw1", True, 2, P3))
"""Alice at relay 2, inside EXTEND by relay 1."""


def extend(**changes: Any) -> Extend:
    return replace(Extend(SID, 2, "fw1", "fw2", 1, P3, b"octets"), **changes)


def assigned(engine: Engine | None = None, **changes: Any) -> Play:
    """A session at relay 1 whose ports are assigned."""
    playing = play(engine or first()).opens(way=Way.ITERATIVE, **changes).locates("10.0.2.2").located("10.0.2.2")
    told: list[Assigned] = []

    def check(it: Assigned) -> bool:
        told.append(it)
        return (it.partner, it.next, it.server_side) == (P1, "fw2", replace(P3, port=it.server_side.port))

    playing.replies(Assigned, check).done()
    assert told[0].server_side == P3, "the pool's first ports: the numbers of this file rest on them"
    return playing


def extended(client_side: Endpoint | None = P4) -> Extended:
    return Extended(SID, client_side, b"answer")


def at_relay_2(engine: Engine | None = None, link: Link = INSIDE, **changes: Any) -> Play:
    usual: dict[str, Any] = {"way": Way.ITERATIVE, "partner": P3, "path": ("fw1",), "hops_left": 7}
    return play(engine or last()).requests(an_open(**(usual | changes)), link)


# passing on ----------------------------------------------------------------------


def test_extend_goes_on_as_it_is_and_so_does_the_answer() -> None:
    playing = assigned().requests(extend()).asks(Extend, lambda it: it == extend()).done()
    playing.answered(extended()).replies(Extended, lambda it: it == extended(), request=2).done()


def test_nothing_is_installed_before_the_client_confirms_what_relay_2_said() -> None:
    playing = assigned().requests(extend()).asks(Extend).answered(extended()).replies(Extended).done()
    playing.binds("10.0.2.2:20102").refuses(Code.ANSWER_DENIED, "fw1", "has heard").done()
    playing.binds("10.0.2.2:20100").applies(Install, lambda it: it.mapping.server_partner == P4).applied().replies(Bound).done()
    playing.binds("10.0.2.2:20100").replies(Bound).done().holds(2, 1)


def test_without_an_answer_of_relay_2_there_is_nothing_to_confirm() -> None:
    assigned().binds("10.0.2.2:20100").refuses(Code.ANSWER_DENIED, text="no endpoint").done()


def test_octets_alone_change_nothing() -> None:
    playing = assigned().requests(extend()).asks(Extend).answered(extended()).replies(Extended)
    playing.requests(extend()).asks(Extend).answered(extended(None)).replies(Extended)
    playing.binds("10.0.2.2:20100").applies(Install, lambda it: it.mapping.server_partner == P4).applied().replies(Bound).done()


def test_after_the_confirmation_an_answer_changes_nothing() -> None:
    playing = assigned().requests(extend()).asks(Extend).answered(extended()).replies(Extended)
    playing.binds("10.0.2.2:20100").applies(Install).applied().replies(Bound)
    other = extended(replace(P4, port=20104))
    playing.requests(extend()).asks(Extend).answered(other).replies(Extended, lambda it: it == other).done()
    assert playing.engine.sessions()[0].server_partner == P4


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"relay": "fw3"}, Code.NO_ROUTE),
        ({"hop": 3}, Code.UNEXPECTED),
        ({"previous": "fw9"}, Code.UNEXPECTED),
        ({"partner": P4}, Code.UNEXPECTED),
        ({"octets": bytes(EXTEND_OCTETS + 1)}, Code.MALFORMED),
        ({"session": bytes(16)}, Code.UNKNOWN_SESSION),
    ],
)
def test_extend_is_refused(changes: dict[str, Any], code: Code) -> None:
    assigned().requests(extend(**changes)).refuses(code, "fw1").done().holds(2, 1)


def test_who_may_extend() -> None:
    mallory = replace(ALICE, number=2, principal="mallory", remote=ip_address("10.0.0.6"))
    assigned().requests(extend(), mallory).refuses(Code.UNKNOWN_SESSION).done()
    playing = play(first()).opens(way=Way.ITERATIVE).locates("10.0.2.2").requests(extend())
    playing.refuses(Code.WRONG_STATE, text="locating").done()
    play(last()).opens(way=Way.ITERATIVE).locates("10.9.0.9").located("10.9.0.9").replies(
        Assigned, lambda it: it.next == "", request=1
    ).requests(extend()).refuses(Code.NO_ROUTE, text="last relay").done()


def test_a_recursive_session_is_not_extended() -> None:
    playing = play(last()).opens().locates("10.9.0.9").located("10.9.0.9").applies(Install).applied()
    playing.effects.clear()
    playing.requests(extend()).refuses(Code.WRONG_STATE, text="recursive").done()


# a sealed session's, in the recursive way --------------------------------------------


def sealed(engine: Engine | None = None) -> Play:
    """Reserved at relay 1 of 2 or 3."""
    playing = play(engine or first()).opens(server=Target(P6.host, 0), sealed=True).locates("10.0.2.2").located("10.0.2.2")
    return playing.asks(Open).answered(an_opened(path=("fw1", "fw2", "fw3"))).replies(Opened, lambda it: it.path[-1] == "fw3").done()


@pytest.mark.parametrize(
    "on", [extend(), extend(hop=3, previous="fw2", relay="fw3", partner=P1), extend(hop=5, previous="fw9", relay="fw4", partner=P4)]
)
def test_a_sealed_recursive_one_goes_along_the_row(on: Extend) -> None:
    """Whom it is for is not this relay's business, but for the next one; where it sends from is."""
    playing = sealed().requests(on).asks(Extend, lambda it: it == replace(on, partner=P3)).done()
    playing.answered(extended(None)).replies(Extended, lambda it: it == extended(None)).done()
    playing.requests(on).asks(Extend).answered(extended(P4)).replies(Extended, lambda it: it == extended(None)).done()
    playing.binds("10.9.0.9:6000").asks(Bind, lambda it: it.server == Target(P6.host, 6000)).done()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hop": 3}, Code.UNEXPECTED),
        ({"previous": "fw9"}, Code.UNEXPECTED),
        ({"relay": "fw3"}, Code.UNEXPECTED),
        ({"relay": "fw3", "hop": 3}, Code.UNEXPECTED),
        ({"relay": "fw1", "hop": 1, "previous": ""}, Code.UNEXPECTED),
        ({"octets": bytes(EXTEND_OCTETS + 1)}, Code.MALFORMED),
        ({"session": bytes(16)}, Code.UNKNOWN_SESSION),
    ],
)
def test_a_sealed_recursive_one_is_refused(changes: dict[str, Any], code: Code) -> None:
    sealed().requests(extend(**changes)).refuses(code, "fw1").done().holds(2, 1)


def test_in_the_middle_of_the_row() -> None:
    """Relay 2 of 3, asked by relay 1 and by nobody else."""
    usual: dict[str, Any] = {"partner": P3, "path": ("fw1",), "hops_left": 7, "server": Target(P6.host, 0), "sealed": True}
    fw1, fw3 = Link(7, "fw1", ip_address("10.0.2.1"), ip_address("10.0.2.2")), NextHop("fw3", Endpoint.parse("10.0.3.3:9798"))
    engine = Engine("fw2", replace(first()._book.policy, routes=routes(("*", fw3))))
    playing = play(engine).requests(an_open(**usual), fw1).locates("10.0.3.3").located("10.0.3.3", source="10.0.3.2").asks(Open, hop=fw3)
    there = an_opened(client_side=Endpoint.parse("10.0.3.3:20000"), path=("fw1", "fw2", "fw3"))
    playing.answered(there, remote="10.0.3.3", principal="fw3").replies(Opened).done()
    on = extend(hop=3, previous="fw2", relay="fw3")
    playing.requests(on, fw1).asks(Extend, lambda it: it == replace(on, partner=Endpoint.parse("10.0.3.2:20000")), hop=fw3)
    playing.answered(extended(None), remote="10.0.3.3", principal="fw3").replies(Extended).done()
    playing.requests(on).refuses(Code.UNKNOWN_SESSION).requests(extend(), fw1).refuses(Code.UNEXPECTED).done()
    playing.requests(extend(hop=3, previous="fw1", relay="fw3"), fw1).refuses(Code.UNEXPECTED).done()


def test_how_long_it_may_take_is_told_by_the_relays_own_place() -> None:
    playing = sealed().requests(extend(hop=3, previous="fw2", relay="fw3"))
    assert playing.take(Ask).place == 1
    playing = assigned().requests(extend())
    assert playing.take(Ask).place == 1


def test_a_claim_does_not_answer_in_the_recursive_way() -> None:
    playing = sealed().requests(extend()).asks(Extend)
    playing.feed(Answered(playing.tokens[Ask].pop(0), P4.address, Claimed(extended()))).refuses(Code.NEXT_HOP_AUTHENTICATION).done()


def test_the_last_relay_passes_nothing_on() -> None:
    usual: dict[str, Any] = {"partner": P3, "path": ("fw1",), "hops_left": 7, "server": Target(P6.host, 0), "sealed": True}
    fw1 = Link(7, "fw1", ip_address("10.0.2.1"), ip_address("10.0.2.2"))
    playing = play(last(seals=True)).requests(an_open(**usual), fw1).locates("10.9.0.9").located("10.9.0.9").replies(Opened)
    playing.requests(extend(hop=3, previous="fw2", relay="fw3"), fw1).refuses(Code.NO_ROUTE, text="last relay").done()


def test_only_so_many_at_once() -> None:
    playing = assigned()
    for _ in range(EXTENDS_AT_ONCE):
        playing.requests(extend()).asks(Extend)
    playing.requests(extend()).refuses(Code.RATE_LIMIT).done()
    playing.answered(extended()).replies(Extended).requests(extend()).asks(Extend).done()


@pytest.mark.parametrize("client_side", ["10.0.9.9:20100", "10.0.2.2:80", "127.0.0.1:20100", "[2001:db8::2]:20100", "10.0.2.1:20100"])
def test_relay_2_may_name_its_own_address_only(client_side: str) -> None:
    playing = assigned().requests(extend()).asks(Extend).answered(extended(Endpoint.parse(client_side)))
    playing.refuses(Code.ANSWER_DENIED, "fw1").done().binds(client_side).refuses(Code.ANSWER_DENIED).done()


def test_an_answer_row_holds_for_the_entry() -> None:
    for entry, permitted in (("10.0.2.0/24", True), ("10.0.7.0/24", False)):
        rows = AnswerTable((AnswerRow("fw2", entry=Prefixes.of(entry)),))
        playing = assigned(first(answers=rows)).requests(extend()).asks(Extend).answered(extended())
        if permitted:
            playing.replies(Extended).done()
        else:
            playing.refuses(Code.ANSWER_DENIED, "fw1", "[[answer]]").binds(str(P4)).refuses(Code.ANSWER_DENIED).done()


def test_refusals_of_the_next_relay_go_back() -> None:
    playing = assigned().requests(extend()).asks(Extend).refused_further(Code.NEXT_HOP_AUTHENTICATION)
    playing.refuses(Code.NEXT_HOP_AUTHENTICATION, "fw2").requests(extend()).asks(Extend).ask_failed().refuses(Code.NEXT_HOP_TIMEOUT).done()
    playing.requests(extend()).asks(Extend).answered(replace(extended(), octets=bytes(EXTEND_OCTETS + 1))).refuses(Code.MALFORMED).done()
    playing.requests(extend()).asks(Extend).answered(replace(extended(), session=bytes(16))).refuses(Code.UNEXPECTED).done()
    playing.requests(extend()).asks(Extend).answered(extended(), principal="fw3").refuses(Code.NEXT_HOP_AUTHENTICATION).done()


def test_an_answer_after_the_end_reaches_who_asked() -> None:
    playing = assigned().requests(extend()).asks(Extend).closes().replies(Closed).done()
    playing.answered(extended()).replies(Extended).done().holds(0, 0)


# the session at each relay ----------------------------------------------------------


def test_a_client_that_never_completes_the_loop() -> None:
    for playing in (assigned(), at_relay_2().locates("10.9.0.9").located("10.9.0.9").replies(Assigned)):
        playing.passes(CONFIRM_TIMEOUT - 1).holds(2, 1)
        playing.renews(60, INSIDE if playing.engine._book.me == "fw2" else ALICE).refuses(Code.WRONG_STATE, text="confirm").done()
        why = "the client did not complete its loop through the relays"
        playing.passes(2).holds(0, 0).done().noted("ended", code="lease-ended", why=why)


def test_reserved_on_purpose_it_waits_as_long_as_it_is_renewed() -> None:
    playing = at_relay_2(server=Target(P6.host, 0)).locates("10.9.0.9").located("10.9.0.9").replies(Assigned)
    playing.passes(100).renews(120, INSIDE).replies(Renewed).passes(100).binds("10.9.0.9:7000", INSIDE)
    playing.applies(Install).applied().replies(Bound).done()


def test_the_lease_runs_from_the_confirmation() -> None:
    playing = at_relay_2(lease=60).locates("10.9.0.9").located("10.9.0.9").replies(Assigned, lambda it: it.lease == 60)
    playing.passes(20).binds("10.9.0.9:6000", INSIDE).applies(Install, lambda it: it.lease == 62).applied().replies(Bound)
    playing.passes(59).holds(2, 1).passes(2).applies(Remove).applied().holds(0, 0).done()


def test_renew_status_and_close_ask_nobody_further() -> None:
    playing = assigned().requests(extend()).asks(Extend).answered(extended()).replies(Extended)
    playing.binds("10.0.2.2:20100").applies(Install).applied().replies(Bound)
    playing.renews(60).applies(Prolong).applied().replies(Renewed).done()
    playing.asks_status().applies(Prolong).applied().replies(StatusReport, lambda it: [one.hop for one in it.counters] == ["fw1"]).done()
    playing.closes().applies(Remove).applied().replies(Closed, lambda it: [one.hop for one in it.counters] == ["fw1"]).done().holds(0, 0)


def test_relay_2_serves_the_client_and_nobody_in_its_name() -> None:
    playing = at_relay_2().locates("10.9.0.9").located("10.9.0.9").replies(Assigned, lambda it: (it.partner, it.next) == (P3, "")).done()
    playing.renews(60, FW1_SEEN).refuses(Code.UNKNOWN_SESSION).binds("10.9.0.9:6000", FW1_SEEN).refuses(Code.UNKNOWN_SESSION).done()
    playing.closes(FW1_SEEN).refuses(Code.UNKNOWN_SESSION).done()
    playing.binds("10.9.0.9:6001", INSIDE).refuses(Code.WRONG_STATE).binds("10.9.0.8:6000", INSIDE).refuses(Code.WRONG_STATE).done()
    playing.binds("10.9.0.9:6000", INSIDE).applies(Install, lambda it: it.mapping.client_partner == P3).applied().replies(Bound).done()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"way": Way.RECURSIVE}, Code.UNEXPECTED),
        ({"path": ("fw0", "fw1")}, Code.UNEXPECTED),
        ({"path": ("fw0",)}, Code.UNEXPECTED),
        ({"path": ()}, Code.UNEXPECTED),
        ({"partner": replace(P3, port=20003)}, Code.NOT_PARTNERS_ADDRESS),
        ({"user": "bob"}, Code.USER_NOT_ALLOWED),
        ({"sealed": True}, Code.SEAL_NOT_AVAILABLE),
    ],
)
def test_relay_2_refuses(changes: dict[str, Any], code: Code) -> None:
    at_relay_2(**changes).refuses(code, "fw2").done().holds(0, 0)


def test_no_relay_begins_a_loop_in_a_clients_name() -> None:
    fw1 = Link(7, "fw1", ip_address("10.0.2.1"), ip_address("10.0.2.2"))
    play(last()).requests(an_open(way=Way.ITERATIVE, partner=P3), fw1).refuses(Code.UNEXPECTED, text="by the client").done()


def test_p3_lies_at_the_relay_before() -> None:
    elsewhere = Endpoint.parse("10.0.7.7:20000")
    for keyed in (True, False):
        link = replace(INSIDE, through=Through("fw1", keyed, 2, elsewhere))
        at_relay_2(link=link, partner=elsewhere).refuses(Code.NOT_PARTNERS_ADDRESS, text="fw1").done()


def test_addresses_that_are_listed_for_a_relay_are_for_who_proves_to_be_it() -> None:
    elsewhere = Endpoint.parse("10.0.7.7:20000")
    rows = tuple(replace(row, addresses=Prefixes.of("10.0.7.0/24")) if row.id == "fw1" else row for row in PEERS.rows)
    for keyed in (True, False):
        link = replace(INSIDE, through=Through("fw1", keyed, 2, elsewhere))
        playing = at_relay_2(last(peers=PeerTable(rows)), link, partner=elsewhere)
        if keyed:
            playing.locates("10.9.0.9").done()
        else:
            playing.refuses(Code.NOT_PARTNERS_ADDRESS, "fw2").done()


def test_a_rule_can_demand_the_neighbours_key() -> None:
    claimed = replace(INSIDE, through=Through("fw1", False, 2, P3))
    strict: dict[str, Any] = {"access": AccessTable((Allow("*", neighbour_key=True),))}
    at_relay_2(last(**strict), claimed).refuses(Code.ACCESS_DENIED, text="give the two relays a key").done()
    at_relay_2(last(**strict)).locates("10.9.0.9").done()
    playing = at_relay_2(link=claimed).locates("10.9.0.9").located("10.9.0.9").replies(Assigned)
    playing.noted("reserved", previous="fw1 (claimed)")
    playing.takes(playing.engine.reconfigure(replace(last()._book.policy, access=strict["access"]), playing.now)).holds(0, 0)


def test_claimed_answers() -> None:
    """Over a bare connection EXTENDED counts, and nothing else does."""
    playing = assigned().requests(extend()).asks(Extend)
    playing.feed(Answered(playing.tokens[Ask].pop(0), P4.address, Claimed(extended()))).replies(Extended)
    playing.requests(extend()).asks(Extend)
    playing.feed(Answered(playing.tokens[Ask].pop(0), P4.address, Claimed(Error(Code.RATE_LIMIT, "fw2", "no")))).refuses(Code.RATE_LIMIT)
    playing.binds("10.0.2.2:20100").applies(Install).applied().replies(Bound).done()
    recursive = play(first()).opens().locates("10.0.2.2").located("10.0.2.2")
    recursive.asks(object)
    recursive.feed(Answered(recursive.tokens[Ask].pop(0), P4.address, Claimed(extended()))).refuses(Code.NEXT_HOP_AUTHENTICATION)
