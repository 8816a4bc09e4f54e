"""Sealed sessions as scripts: who may give the key, when, once; what becomes of it; and that it shows nowhere."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from chainrelay.datapath.mapping import Install, Remove
from chainrelay.datapath.mapping import Rekey as Seal
from chainrelay.datapath.mapping import Renew as Prolong
from chainrelay.errors import Code
from chainrelay.limits import CONFIRM_TIMEOUT, LEASE_GRACE, SEAL_TEXT
from chainrelay.session.engine import Engine
from chainrelay.session.events import Link, Requested, RulesLost, Through
from chainrelay.session.policy import Policy
from chainrelay.session.record import Phase, pack
from chainrelay.session.tables import AccessTable, Allow, Kind, PeerRow, PeerTable
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import Assigned, Bind, Bound, Closed, Open, Opened, Protocol, Rekey, Rekeyed, Renew, Renewed, Status, Way
from playbook import ALICE, FW1_SEEN, P1, PEERS, SID, Play, an_open, an_opened, data_keys, first, key, last, play

RESERVE = Target.parse("10.9.0.9:0")
P3 = Endpoint.parse("10.0.2.1:20000")
P4, P5 = Endpoint.parse("10.0.2.2:20000"), Endpoint.parse("10.0.2.1:20000")
"""Of relay 2, which sends from 10.0.2.1 here as well: the playbook's usual source."""
ITERATIVE = Through("fw1", True, 2, P3)
RECURSIVE = replace(ITERATIVE, way=Way.RECURSIVE)
INSIDE = Link(9, "alice", ip_address("10.0.2.1"), ip_address("10.0.2.2"), ITERATIVE)
THROUGH = replace(INSIDE, through=RECURSIVE)
ITSELF = replace(ALICE, number=20, through=Through("", True, 1, P1, Way.RECURSIVE))
"""Alice inside her own connection with the only relay."""
WITH_KEY = PeerTable((*PEERS.rows, PeerRow("bob", Kind.CLIENT, (key("b"),), frozenset({"*"}))))


def again(link: Link, number: int = 50) -> Link:
    """A new end-to-end connection."""
    return replace(link, number=number)


def iterative(engine: Engine | None = None, **changes: Any) -> Play:
    """Reserved at relay 2 of 2, by the client itself."""
    usual: dict[str, Any] = {"way": Way.ITERATIVE, "partner": P3, "path": ("fw1",), "hops_left": 7, "sealed": True}
    playing = play(engine or last(seals=True)).requests(an_open(**(usual | changes)), INSIDE)
    return playing.locates("10.9.0.9").located("10.9.0.9").replies(Assigned, lambda it: it.next == "").done()


def recursive(engine: Engine | None = None, **changes: Any) -> Play:
    """Reserved at relay 2 of 2, by relay 1."""
    playing = play(engine or last(seals=True)).fw1_opens(**({"server": RESERVE, "sealed": True} | changes))
    return playing.locates("10.9.0.9").located("10.9.0.9").replies(Opened, lambda it: it.path == ("fw1", "fw2")).done()


def alone(**changes: Any) -> Play:
    """Reserved at the only relay."""
    playing = play(last("fw1", seals=True)).requests(an_open(**({"server": RESERVE, "sealed": True} | changes)))
    return playing.locates("10.9.0.9").located("10.9.0.9").replies(Opened, lambda it: it.path == ("fw1",)).done()


def opened(playing: Play, link: Link = THROUGH, owner: Link = FW1_SEEN) -> Play:
    """Forwarding, with its first key."""
    playing.rekeys(link).replies(Rekeyed).binds("10.9.0.9:6000", owner)
    return playing.applies(Install).applied().replies(Bound).done()


# how much fits ----------------------------------------------------------------------


@pytest.mark.parametrize(("mtu", "told"), [(1500, 1472), (SEAL_TEXT + 56, SEAL_TEXT + 28), (9000, SEAL_TEXT + 28), (65536, SEAL_TEXT + 28)])
def test_no_more_than_the_program_takes(mtu: int, told: int) -> None:
    """What is larger would be dropped here without a word; plain sessions take all of the path."""
    playing = play(last(seals=True)).fw1_opens(server=RESERVE, sealed=True).locates("10.9.0.9")
    playing.located("10.9.0.9", mtu=mtu).replies(Opened, lambda it: it.mtu == told).done()
    playing = play(last(seals=True)).fw1_opens(server=RESERVE).locates("10.9.0.9")
    playing.located("10.9.0.9", mtu=mtu).replies(Opened, lambda it: it.mtu == mtu - 28).done()


# the order -----------------------------------------------------------------------


def test_iterative() -> None:
    playing = iterative().binds("10.9.0.9:6000", INSIDE).refuses(Code.WRONG_STATE, "fw2", "no key yet").done()
    playing.rekeys(INSIDE).replies(Rekeyed, lambda it: it == Rekeyed(SID, data_keys().key_id, P3, P4, P5)).done()
    playing.binds("10.9.0.9:6000", INSIDE).applies(Install, lambda it: it.seal == data_keys() and it.mapping.sealed and it.lease == 122)
    playing.applied().replies(Bound).done().holds(2, 1).noted("rekeyed", client="alice", key_id=data_keys().key_id.hex())
    playing.closes(INSIDE).applies(Remove, lambda it: it.mapping.sealed).applied().replies(Closed).done().holds(0, 0)


def test_recursive() -> None:
    playing = recursive().binds("10.9.0.9:6000", FW1_SEEN).refuses(Code.WRONG_STATE, text="no key yet").done()
    playing.rekeys(THROUGH).replies(Rekeyed, lambda it: (it.partner, it.client_side, it.server_side) == (P3, P4, P5)).done()
    playing.binds("10.9.0.9:6000", FW1_SEEN).applies(Install, lambda it: it.seal == data_keys() and it.mapping.client_partner == P3)
    playing.applied().replies(Bound).done()


def test_one_relay() -> None:
    opened(alone(), ITSELF, ALICE)
    playing = play(last("fw1", seals=True)).opens(way=Way.ITERATIVE, sealed=True).locates("10.9.0.9").located("10.9.0.9").replies(Assigned)
    opened(playing, replace(ITSELF, through=replace(ITSELF.through, way=Way.ITERATIVE)), ALICE)  # type: ignore[type-var]


def test_relays_before_the_last_treat_it_as_any_other() -> None:
    playing = play(first()).opens(server=RESERVE, sealed=True).locates("10.0.2.2").located("10.0.2.2").asks(Open, lambda it: it.sealed)
    playing.answered(an_opened()).replies(Opened, lambda it: it.path == ("fw1", "fw2")).done()
    playing.binds("10.9.0.9:6000").asks(Bind).answered(Bound(SID, 1400))
    playing.applies(Install, lambda it: not it.mapping.sealed and it.seal is None).applied().replies(Bound).done()
    playing.rekeys(replace(ALICE, through=Through("", True, 1, P1, Way.RECURSIVE))).refuses(Code.WRONG_STATE, text="not the last").done()
    playing.renews().asks(Renew).refused_further(Code.SEAL_KEY_MISSING).refuses(Code.SEAL_KEY_MISSING, "fw2").done().holds(2, 1)


def test_a_rule_can_demand_a_seal() -> None:
    strict: dict[str, Any] = {"access": AccessTable((Allow("*", seal=True),))}
    play(last(seals=True, **strict)).fw1_opens(server=RESERVE).refuses(Code.SEAL_REQUIRED).done()
    recursive(last(seals=True, **strict))
    play(first(**strict)).opens(server=RESERVE).refuses(Code.SEAL_REQUIRED).opens(server=RESERVE, sealed=True).locates("10.0.2.2").done()


def test_what_cannot_be_sealed() -> None:
    play(last()).fw1_opens(server=RESERVE, sealed=True).refuses(Code.SEAL_NOT_AVAILABLE, "fw2", "XDP").done().holds(0, 0)
    play(last(seals=True)).fw1_opens(sealed=True).refuses(Code.UNEXPECTED, text="reserved first").done()
    play(last(seals=True)).fw1_opens(server=RESERVE, sealed=True, protocol=Protocol.TCP).refuses(Code.MALFORMED, text="UDP").done()
    inside = an_open(way=Way.ITERATIVE, partner=P3, path=("fw1",), hops_left=7, sealed=True, protocol=Protocol.TCP)
    play(last(seals=True)).requests(inside, INSIDE).refuses(Code.MALFORMED).done()


# who may give the key --------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hop": 3}, Code.UNEXPECTED),
        ({"previous": "fw3"}, Code.UNKNOWN_SESSION),
        ({"partner": replace(P3, port=20002)}, Code.NOT_PARTNERS_ADDRESS),
        ({"partner": Endpoint.parse("10.0.7.7:20000")}, Code.NOT_PARTNERS_ADDRESS),
        ({"way": Way.ITERATIVE}, Code.UNKNOWN_SESSION),
        ({"hop": 1, "previous": ""}, Code.UNKNOWN_SESSION),
    ],
)
def test_recursive_the_outer_part_fits_the_session(changes: dict[str, Any], code: Code) -> None:
    playing = recursive().rekeys(replace(THROUGH, through=replace(RECURSIVE, **changes))).refuses(code, "fw2").done()
    playing.binds("10.9.0.9:6000", FW1_SEEN).refuses(Code.WRONG_STATE).done()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hop": 3}, Code.UNEXPECTED),
        ({"previous": "fw3"}, Code.UNEXPECTED),
        ({"partner": replace(P3, port=20002)}, Code.NOT_PARTNERS_ADDRESS),
        ({"way": Way.RECURSIVE}, Code.UNKNOWN_SESSION),
    ],
)
def test_iterative_the_outer_part_fits_the_session(changes: dict[str, Any], code: Code) -> None:
    iterative().rekeys(replace(INSIDE, through=replace(ITERATIVE, **changes))).refuses(code, "fw2").done()


def test_somebody_elses_session() -> None:
    iterative().rekeys(replace(INSIDE, principal="mallory")).refuses(Code.UNKNOWN_SESSION).done()
    recursive().rekeys(replace(THROUGH, principal="mallory")).refuses(Code.USER_NOT_ALLOWED).done()
    recursive().rekeys(replace(THROUGH, principal="fw2")).refuses(Code.USER_NOT_ALLOWED).done()
    recursive().rekeys(replace(THROUGH, principal="nobody")).refuses(Code.USER_NOT_ALLOWED).done()
    alone().rekeys(replace(ITSELF, principal="mallory")).refuses(Code.UNKNOWN_SESSION).done()
    recursive().rekeys(THROUGH, session=bytes(16)).refuses(Code.UNKNOWN_SESSION).done()


def test_who_gave_the_key_gives_the_next_one() -> None:
    """Bob may speak for everybody, but it is Alice who seals."""
    playing = opened(recursive(last(seals=True, peers=WITH_KEY)))
    bob = replace(again(THROUGH), principal="bob")
    playing.rekeys(bob, data_keys(1)).refuses(Code.USER_NOT_ALLOWED, text="another client").done()
    recursive(last(seals=True, peers=WITH_KEY)).rekeys(bob).replies(Rekeyed).done()


def test_not_on_a_connection_of_its_own() -> None:
    alone().rekeys(ALICE).refuses(Code.UNEXPECTED, text="inside EXTEND").done()
    recursive().rekeys(FW1_SEEN).refuses(Code.UNEXPECTED).done()
    alone().requests(Rekey(SID, data_keys().key_id), ITSELF).refuses(Code.UNEXPECTED, text="no data keys").done()


def test_a_connection_for_the_key_carries_nothing_else() -> None:
    for playing, link in ((recursive(), THROUGH), (alone(), ITSELF)):
        for request in (Renew(SID, 0), Status(SID), Bind(SID, Target.parse("10.9.0.9:6000")), an_open(session=bytes(16))):
            playing.requests(request, link).refuses(Code.UNEXPECTED, text="for the data key alone").done()
        playing.closes(link).refuses(Code.UNEXPECTED).done().holds(2, 1)


def test_a_session_that_is_not_sealed() -> None:
    play(last(seals=True)).fw1_opens(server=RESERVE).locates("10.9.0.9").located("10.9.0.9").replies(Opened).rekeys(THROUGH).refuses(
        Code.WRONG_STATE, text="not sealed"
    ).done()


def test_not_before_its_ports_are_assigned() -> None:
    playing = play(last(seals=True)).fw1_opens(server=RESERVE, sealed=True).locates("10.9.0.9").rekeys(THROUGH)
    playing.refuses(Code.WRONG_STATE, text="locating").done()


# one connection, one key --------------------------------------------------------------


def test_asked_again_it_is_the_same_key() -> None:
    playing = recursive().rekeys(THROUGH).replies(Rekeyed).rekeys(THROUGH).replies(Rekeyed).done()
    playing.rekeys(THROUGH, data_keys(1)).refuses(Code.WRONG_STATE, text="this end-to-end connection has").done()
    playing.binds("10.9.0.9:6000", FW1_SEEN).applies(Install).rekeys(THROUGH).replies(Rekeyed).done()
    playing.rekeys(again(THROUGH), data_keys(1)).refuses(Code.WRONG_STATE, text="installing").done()
    playing.applied().replies(Bound).rekeys(THROUGH).replies(Rekeyed).rekeys(THROUGH, data_keys(1)).refuses(Code.WRONG_STATE).done()


def test_while_it_is_reserved_another_key_takes_the_place_of_the_first() -> None:
    playing = recursive().rekeys(THROUGH).replies(Rekeyed).rekeys(again(THROUGH), data_keys(0, b"n")).replies(Rekeyed).done()
    playing.rekeys(THROUGH).refuses(Code.WRONG_STATE, text="a later end-to-end connection").done()
    playing.binds("10.9.0.9:6000", FW1_SEEN).applies(Install, lambda it: it.seal == data_keys(0, b"n")).applied().replies(Bound).done()


def test_a_new_key_under_traffic() -> None:
    playing = opened(recursive()).rekeys(again(THROUGH), data_keys(1))
    playing.applies(Seal, lambda it: it.seal == data_keys(1) and it.mapping.sealed)
    playing.rekeys(again(THROUGH), data_keys(1)).done()
    playing.rekeys(again(THROUGH, 60), data_keys(2)).refuses(Code.WRONG_STATE, text="on its way").done()
    playing.applied().replies(Rekeyed, lambda it: it.key_id == data_keys(1).key_id).replies(Rekeyed).done()
    playing.rekeys(again(THROUGH), data_keys(1)).replies(Rekeyed).done()
    playing.rekeys(THROUGH).refuses(Code.WRONG_STATE, text="a later end-to-end connection").done()
    for used in (data_keys(0, b"x"), data_keys(1, b"x")):
        taken = replace(used, key_id=(data_keys(0) if used.key_id[0] == 0xD0 else data_keys(1)).key_id)
        playing.rekeys(again(THROUGH, 70), taken).refuses(Code.WRONG_STATE, text="next epoch").done()
    playing.rekeys(again(THROUGH, 70), data_keys(2)).applies(Seal).applied().replies(Rekeyed).done()


def test_the_kernel_refuses_a_new_key_and_the_old_one_stays() -> None:
    playing = opened(recursive()).rekeys(again(THROUGH), data_keys(1)).applies(Seal).apply_failed(full=True)
    playing.refuses(Code.DATAPATH_FULL, "fw2", "stays in force").done().holds(2, 1).rekeys(THROUGH).replies(Rekeyed).done()
    playing.rekeys(again(THROUGH), data_keys(1)).applies(Seal).applied().replies(Rekeyed).done()


def test_a_key_that_comes_too_late() -> None:
    playing = opened(recursive()).rekeys(again(THROUGH), data_keys(1)).applies(Seal).closes(FW1_SEEN)
    playing.refuses(Code.UNKNOWN_SESSION, text="closed by its owner").applies(Remove).apply_failed(keyless=True).done()
    playing.applied().replies(Closed).done().holds(0, 0).rekeys(again(THROUGH, 60), data_keys(2)).refuses(Code.UNKNOWN_SESSION).done()


# the time to give it -------------------------------------------------------------------


@pytest.mark.parametrize("way", [Way.ITERATIVE, Way.RECURSIVE])
def test_without_a_key_it_ends_soon(way: Way) -> None:
    playing, owner = (iterative(server=RESERVE), INSIDE) if way is Way.ITERATIVE else (recursive(), FW1_SEEN)
    assert not playing.journal, "what nobody has confirmed is not remembered"
    playing.passes(CONFIRM_TIMEOUT - 1).renews(60, owner).refuses(Code.SEAL_KEY_MISSING, text="has no key").done().holds(2, 1)
    playing.passes(2).holds(0, 0).done().noted("ended", code="lease-ended", why="the client gave no data key")


@pytest.mark.parametrize("way", [Way.ITERATIVE, Way.RECURSIVE])
def test_with_a_key_it_waits_as_long_as_it_is_renewed(way: Way) -> None:
    playing, link, owner = (iterative(server=RESERVE), INSIDE, INSIDE) if way is Way.ITERATIVE else (recursive(), THROUGH, FW1_SEEN)
    playing.passes(20).rekeys(link).replies(Rekeyed).done()
    (record,) = playing.journal.values()
    assert (record.phase, record.sealer) == (Phase.RESERVED, "alice")
    playing.passes(100).renews(120, owner).replies(Renewed).passes(100).binds("10.9.0.9:7000", owner)
    playing.applies(Install, lambda it: it.seal == data_keys()).applied().replies(Bound).done()


def test_a_key_does_not_confirm_the_loop() -> None:
    iterative().rekeys(INSIDE).replies(Rekeyed).passes(CONFIRM_TIMEOUT + 1).holds(0, 0).done()


# the kernel has lost it ------------------------------------------------------------------


def test_lost_keys_end_nothing_and_a_new_one_mends() -> None:
    playing = opened(recursive()).passes(40).renews(60, FW1_SEEN).applies(Prolong).apply_failed(keyless=True)
    playing.refuses(Code.SEAL_KEY_MISSING, "fw2", "REKEY").done().holds(2, 1)
    playing.rekeys(again(THROUGH), data_keys(1)).applies(Seal).apply_failed(keyless=True)
    playing.applies(Install, lambda it: it.seal == data_keys(1) and it.mapping.sealed and it.lease == 80 + LEASE_GRACE).done()
    playing.applied().replies(Rekeyed).done().renews(60, FW1_SEEN).applies(Prolong).applied().replies(Renewed).done()


def test_its_lease_goes_on_meanwhile() -> None:
    playing = opened(recursive()).passes(100).renews(60, FW1_SEEN).applies(Prolong).apply_failed(keyless=True)
    playing.refuses(Code.SEAL_KEY_MISSING).passes(21).applies(Remove).applied().done().holds(0, 0).noted("ended", code="lease-ended")


def test_a_session_that_ends_between_the_two_orders_gets_no_second_one() -> None:
    playing = opened(recursive()).rekeys(again(THROUGH), data_keys(1)).applies(Seal).closes(FW1_SEEN).refuses(Code.UNKNOWN_SESSION)
    playing.applies(Remove).apply_failed(keyless=True).done().applied().replies(Closed).done()


def test_status_of_a_session_whose_keys_are_lost() -> None:
    playing = opened(recursive()).asks_status(FW1_SEEN).applies(Prolong).apply_failed(keyless=True)
    assert len(playing.effects) == 1, "an answer without new counts"


def test_rules_that_were_flushed() -> None:
    playing = opened(recursive()).feed(RulesLost()).applies(Prolong, lambda it: it.mapping.sealed).apply_failed(keyless=True).done()
    playing.noted("refused", code="seal-key-missing").holds(2, 1)


# no word of it ---------------------------------------------------------------------------


def test_keys_show_nowhere() -> None:
    keys = data_keys(0, b"s")
    secrets = (b"s" * 32, b"s" * 12)
    asked = Requested(THROUGH, 1, Authenticated("alice", Rekey(SID, keys.key_id)), keys)
    playing = recursive().rekeys(THROUGH, keys).replies(Rekeyed)
    (session,) = playing.engine._book.sessions.values()
    kept = [session.keys]
    texts = [repr(session), repr(asked), repr(playing.notes)]
    playing.binds("10.9.0.9:6000", FW1_SEEN)
    texts.append(repr(playing.effects))
    playing.applies(Install).applied().replies(Bound)
    records = b"".join(map(pack, playing.journal.values()))
    assert [*kept, session.keys] == [keys, None], "the kernel has them"
    assert not any(secret in records for secret in secrets)
    assert not any("ssssssssssss" in text or "73" * 12 in text for text in texts)


# a new configuration ---------------------------------------------------------------------


def reloaded(playing: Play, **policy: Any) -> Play:
    now: Policy = playing.engine._book.policy
    return playing.takes(playing.engine.reconfigure(replace(now, **policy), playing.now))


def test_a_client_that_loses_its_key_loses_what_it_sealed() -> None:
    rows = tuple(row for row in PEERS.rows if row.id != "alice")
    reloaded(opened(recursive()), peers=PeerTable(rows)).applies(Remove).applied().done().holds(0, 0).noted("ended", code="revoked")
    fresh = PeerTable((*rows, PeerRow("alice", Kind.CLIENT, (key("z"),), frozenset({"alice"}))))
    reloaded(opened(recursive()), peers=fresh).applies(Remove).applied().done().noted("ended", code="revoked")
    reloaded(opened(recursive()), rest=1).done().holds(2, 1)


def test_a_datapath_that_can_seal_by_now() -> None:
    engine = last()
    play(engine).fw1_opens(server=RESERVE, sealed=True).refuses(Code.SEAL_NOT_AVAILABLE)
    engine.can_seal(True)
    recursive(engine)
