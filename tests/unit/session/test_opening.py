"""OPEN at the first and at the last relay: the straight way, every refusal, every late answer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from chainrelay.datapath.mapping import Install, Remove
from chainrelay.errors import Code
from chainrelay.session.engine import Engine
from chainrelay.session.prefixes import PortRange, Prefixes
from chainrelay.session.tables import AccessTable, Allow, AnswerRow, AnswerTable, Kind, PeerRow, PeerTable
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import Close, Closed, Error, Open, Opened, Protocol, Way
from playbook import ALICE, FW2, P1, PEERS, SID, Play, an_opened, first, key, last, play, routes


def test_first_relay_straight_way() -> None:
    play(first()).opens().locates("10.0.2.2").done().located("10.0.2.2", mtu=1500).asks(
        Open,
        lambda ask: (
            str(ask.partner) == "10.0.2.1:20000" and ask.path == ("fw1",) and ask.hops_left == 7 and ask.origin == P1 and ask.lease == 120
        ),
    ).done().answered(an_opened(mtu=1400)).applies(
        Install,
        lambda op: (
            op.lease == 122
            and (str(op.mapping.client_partner), str(op.mapping.client_side)) == ("10.0.0.5:5000", "10.0.0.1:20000")
            and (str(op.mapping.server_side), str(op.mapping.server_partner)) == ("10.0.2.1:20000", "10.0.2.2:20100")
        ),
    ).done().applied().replies(
        Opened,
        lambda it: (
            (str(it.client_side), str(it.exit)) == ("10.0.0.1:20000", "10.3.0.2:20102")
            and (it.lease, it.mtu, it.complete) == (120, 1400, True)
        ),
        request=1,
    ).done().holds(2, 1).noted("opened", principal="alice", user="alice", session=SID.hex(), next="fw2")


def test_last_relay_straight_way() -> None:
    play(last()).fw1_opens().locates("10.9.0.9").located("10.9.0.9", source="10.3.0.2", mtu=1500).applies(
        Install, lambda op: str(op.mapping.server_partner) == "10.9.0.9:6000"
    ).done().applied().replies(Opened, lambda it: str(it.exit) == "10.3.0.2:20000" and it.mtu == 1472).done()


@pytest.mark.parametrize(("protocol", "components", "held"), [(Protocol.UDP, 2, 4), (Protocol.TCP, 1, 2)])
def test_ipv6_and_pairs_and_tcp(protocol: Protocol, components: int, held: int) -> None:
    link = replace(ALICE, remote=ip_address("fd00::5"), local=ip_address("fd00::1"))
    p1 = Endpoint.parse("[fd00::5]:5000")
    play(last()).opens(
        link, partner=p1, origin=p1, server=Target.parse("[fd09::9]:6000"), components=components, protocol=protocol
    ).locates("fd09::9").located("fd09::9", source="fd03::2").applies(
        Install, lambda op: op.mapping.family == 6 and op.mapping.client_side.port % 2 == 0 and op.mapping.protocol is protocol
    ).applied().replies(Opened, lambda it: it.mtu == 1500 - 48).holds(held)


def test_a_retry_joins_and_then_gets_the_same_answer() -> None:
    answers: list[Opened] = []

    def remember(answer: Opened) -> bool:
        answers.append(answer)
        return True

    playing = play(first()).opens().locates("10.0.2.2").opens().done().located("10.0.2.2").asks(Open).opens().done()
    playing.answered(an_opened()).applies(Install).opens().done().applied()
    for request in (1, 2, 3, 4):
        playing.replies(Opened, remember, request=request)
    playing.done().opens(lease=60).replies(Opened, remember, request=5).done().holds(2, 1)
    assert len(set(answers)) == 1


def test_a_retry_is_told_the_lease_that_is_left() -> None:
    opened(first()).passes(60).opens().replies(Opened, lambda it: it.lease == 60).done()


def opened(engine: Engine, **changes: Any) -> Play:
    """A session at the first relay."""
    playing = play(engine).opens(**changes).locates("10.0.2.2").located("10.0.2.2").asks(Open)
    return playing.answered(an_opened()).applies(Install).applied().replies(Opened).done()


def test_ids_are_taken() -> None:
    mallory = replace(ALICE, number=2, principal="mallory", remote=ip_address("10.0.0.6"))
    theirs = Endpoint.parse("10.0.0.6:5000")
    playing = opened(first()).opens(mallory, user="mallory", partner=theirs, origin=theirs).refuses(Code.SESSION_ID_TAKEN).done()
    playing.opens(replace(mallory, remote=ALICE.remote)).refuses(Code.SESSION_ID_TAKEN).done()
    playing.opens(user="bob").refuses(Code.SESSION_ID_TAKEN).opens(server=Target.parse("10.9.0.8:1")).refuses(Code.SESSION_ID_TAKEN).done()
    playing.renews(link=mallory).refuses(Code.UNKNOWN_SESSION).closes(mallory).refuses(Code.UNKNOWN_SESSION).done()
    playing.binds("10.9.0.9:1", mallory).refuses(Code.UNKNOWN_SESSION).asks_status(mallory).refuses(Code.UNKNOWN_SESSION).done()
    playing.holds(2, 1).noted("refused", principal="mallory", code="session-id-taken")


P4X = Endpoint.parse("10.0.9.9:20100")


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"way": Way.ITERATIVE, "path": ("fw0",)}, Code.UNEXPECTED, "inside EXTEND"),
        ({"sealed": True}, Code.UNEXPECTED, "reserved first"),
        ({"sealed": True, "protocol": Protocol.TCP, "server": Target.parse("10.9.0.9:0")}, Code.MALFORMED, "UDP"),
        ({"components": 3}, Code.MALFORMED, "components"),
        ({"components": 2, "server": Target.parse("10.9.0.9:65535")}, Code.MALFORMED, "port"),
        ({"path": ("fw1",)}, Code.LOOP, "passed here before"),
        ({"path": ("fw2",)}, Code.LOOP, "leads back"),
        ({"path": ("fw0",)}, Code.UNEXPECTED, "alice, a client, asks, but the path says that it came by fw0"),
        ({"components": 2, "protocol": Protocol.TCP}, Code.MALFORMED, "a TCP session has one"),
        ({"hops_left": 0}, Code.TOO_MANY_HOPS, "one too many"),
        ({"path": tuple(f"r{n}" for n in range(15)), "hops_left": 99}, Code.TOO_MANY_HOPS, "one too many"),
        ({"user": "bob"}, Code.USER_NOT_ALLOWED, "peers.toml"),
        ({"partner": P4X, "origin": P4X}, Code.NOT_PARTNERS_ADDRESS, "behind a NAT"),
        ({"origin": P4X}, Code.NOT_PARTNERS_ADDRESS, "origin"),
        ({"server": Target.parse("10.8.0.9:6000")}, Code.NO_ROUTE, "routes.toml"),
    ],
)
def test_refused_at_once(changes: dict[str, Any], code: Code, text: str) -> None:
    play(first()).opens(**changes).refuses(code, "fw1", text).done().holds(0, 0).noted("refused", principal="alice")


def test_the_route_to_itself_is_a_loop() -> None:
    itself = replace(FW2, peer="fw1")
    play(first(routes=routes(("10.9.0.0/16", itself)))).opens().refuses(Code.LOOP).done()


def test_addresses_of_the_peers_row_are_the_partners_too() -> None:
    listed = PeerTable((*PEERS.rows[1:], replace(PEERS.rows[0], addresses=Prefixes.of("10.0.9.0/24"))))
    play(first(peers=listed)).opens(partner=P4X, origin=P4X).locates("10.0.2.2").done()


def test_access_is_checked_on_origin_at_every_relay() -> None:
    only = AccessTable((Allow("alice", source=Prefixes.of("10.0.0.0/24"), source_ports=PortRange(5000, 5001)),))
    play(last(access=only)).fw1_opens().locates("10.9.0.9").done()
    other = Endpoint.parse("10.0.7.5:5000")
    play(last(access=only)).fw1_opens(origin=other).refuses(Code.ACCESS_DENIED, "fw2", "source 10.0.7.5 is not in").done()
    play(last(access=only)).fw1_opens(user="bob").refuses(Code.ACCESS_DENIED, "fw2", "no row for user bob").done()
    play(first(access=only)).opens(components=2).locates("10.0.2.2")
    narrow = AccessTable((Allow("alice", source_ports=PortRange(5000, 5000)),))
    play(first(access=narrow)).opens(components=2).refuses(Code.ACCESS_DENIED, text="source port").done()


def test_seal_required() -> None:
    play(first(access=AccessTable((Allow("*", seal=True),)))).opens().refuses(Code.SEAL_REQUIRED).done()


def test_a_name_is_resolved_by_the_last_relay_and_access_is_checked_on_the_address() -> None:
    row = Allow("*", destination=Prefixes.of("10.9.0.0/16"), destination_names=frozenset({".example.org"}))
    name = Target.parse("tv.example.org:6000")
    play(first(access=AccessTable((row,)))).opens(server=name).locates("10.0.2.2").located("10.0.2.2").asks(
        Open, lambda ask: ask.server == name
    )
    playing = play(last(access=AccessTable((row,)))).fw1_opens(server=name).locates("tv.example.org")
    playing.located("fd09::9", "10.8.0.9", "10.9.0.9", "10.9.0.10").applies(
        Install, lambda op: str(op.mapping.server_partner) == "10.9.0.9:6000"
    )
    playing = play(last(access=AccessTable((row,)))).fw1_opens(server=name).locates("tv.example.org")
    playing.located("10.8.0.9").refuses(Code.ACCESS_DENIED, text="10.8.0.9").done().holds(0, 0)
    unnamed = AccessTable((replace(row, destination_names=frozenset()),))
    play(first(access=unnamed)).opens(server=name).refuses(Code.ACCESS_DENIED, text="tv.example.org").done()


def test_a_forbidden_address_is_refused_before_it_is_looked_up() -> None:
    """The kernel's answer would only be that it has no route there."""
    server = Target(ip_address("224.0.0.1"), 5004)
    play(last()).fw1_opens(server=server).refuses(Code.FORBIDDEN_TARGET, text="224.0.0.1").done().holds(0, 0)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("127.0.0.1", Code.FORBIDDEN_TARGET),
        ("224.0.0.1", Code.FORBIDDEN_TARGET),
        ("169.254.1.1", Code.FORBIDDEN_TARGET),
        ("255.255.255.255", Code.FORBIDDEN_TARGET),
        ("0.0.0.0", Code.FORBIDDEN_TARGET),
        ("10.0.2.2", Code.LOCAL_TRAFFIC),
        ("10.3.0.2", Code.LOCAL_TRAFFIC),
        ("::ffff:127.0.0.1", Code.MIXED_FAMILIES),
        ("fd09::9", Code.MIXED_FAMILIES),
    ],
)
def test_what_is_never_a_target(address: str, code: Code) -> None:
    name = Target.parse("tv.example.org:6000")
    playing = play(last()).fw1_opens(server=name).locates("tv.example.org").located(address, source="10.3.0.2")
    playing.refuses(code, "fw2").done().holds(0, 0)


def test_the_client_at_the_relay_itself_is_local_traffic() -> None:
    here = Endpoint(ALICE.local, 5000)
    play(first()).opens(replace(ALICE, remote=ALICE.local), partner=here, origin=here).refuses(Code.LOCAL_TRAFFIC).done()


def test_families_must_agree() -> None:
    six = replace(ALICE, remote=ip_address("fd00::5"), local=ip_address("fd00::1"))
    p1 = Endpoint.parse("[fd00::5]:5000")
    play(first()).opens(six, partner=p1, origin=p1).locates("10.0.2.2").located("10.0.2.2").refuses(Code.MIXED_FAMILIES).done().holds(0, 0)
    both = PeerTable((*PEERS.rows[1:], replace(PEERS.rows[0], addresses=Prefixes.of("10.0.0.5"))))
    playing = play(first(peers=both)).opens(six).locates("10.0.2.2").located("10.0.2.2")
    playing.refuses(Code.MIXED_FAMILIES, text="control connection over IPv4").done().holds(0, 0)
    pinned = first(peers=both, client_side=(ip_address("10.0.0.1"),))
    play(pinned).opens(six).locates("10.0.2.2").located("10.0.2.2").asks(Open).holds(2)


def test_not_located() -> None:
    play(last()).fw1_opens().locates("10.9.0.9").not_located().refuses(Code.NAME_NOT_RESOLVED, "fw2").done().holds(0, 0)


def test_limits() -> None:
    other: dict[str, Any] = {"session": bytes(16), "partner": Endpoint(P1.address, 6000), "origin": Endpoint(P1.address, 6000)}
    opened(first(sessions_per_principal=1)).opens(**other).refuses(Code.SESSION_LIMIT).done()
    opened(first(opens_per_second=1.0)).opens(**other).refuses(Code.RATE_LIMIT).passes(1).opens(**other).locates("10.0.2.2")
    by_row = AccessTable((Allow("*", sessions=1),))
    playing = opened(first(access=by_row)).opens(**other).locates("10.0.2.2").located("10.0.2.2").refuses(Code.SESSION_LIMIT).done()
    playing.holds(2, 1)
    playing.closes().applies(Remove).asks(Close).applied().answered(Closed(SID, ())).replies(Closed).done()
    playing.opens(**other).locates("10.0.2.2").located("10.0.2.2").asks(Open).done()
    slow = AccessTable((Allow("*", opens_per_second=1.0),))
    opened(first(access=slow)).opens(**other).locates("10.0.2.2").located("10.0.2.2").refuses(Code.RATE_LIMIT).done()


def test_the_pool_is_exhausted_on_either_side() -> None:
    two: dict[str, Any] = {"session": bytes(16), "partner": Endpoint(P1.address, 6000), "origin": Endpoint(P1.address, 6000)}
    playing = opened(first(pool=PortRange(20000, 20000))).opens(**two).locates("10.0.2.2").located("10.0.2.2")
    playing.refuses(Code.PORTS_EXHAUSTED, "fw1", "[ports] pool").done().holds(2, 1)
    wide_client = first(pool=PortRange(20000, 20000), client_side=(ip_address("10.0.0.1"), ip_address("10.0.0.2")))
    playing = opened(wide_client).opens(**two).locates("10.0.2.2").located("10.0.2.2")
    playing.refuses(Code.PORTS_EXHAUSTED, text="toward 10.0.2.2").done().holds(2, 1)


def test_the_same_two_partners_twice() -> None:
    playing = opened(first()).opens(session=bytes(16)).locates("10.0.2.2").located("10.0.2.2").asks(Open)
    playing.answered(an_opened(session=bytes(16))).refuses(Code.ENDPOINT_IN_USE, "fw1").asks(Close).done().holds(2, 1)
    server = Target(P1.address, P1.port)
    playing = play(last()).opens(server=server).locates(str(P1.address)).located(str(P1.address))
    playing.refuses(Code.ENDPOINT_IN_USE).done().holds(0, 0)


# what the next relay says -----------------------------------------------------------


def asking(engine: Engine | None = None) -> Play:
    """OPEN has gone to relay 2."""
    return play(engine or first()).opens().locates("10.0.2.2").located("10.0.2.2").asks(Open).done()


def test_refused_further_on_keeps_code_and_hop() -> None:
    asking().refused_further(Code.ACCESS_DENIED, "fw3").refuses(Code.ACCESS_DENIED, "fw3").done().holds(0, 0)


@pytest.mark.parametrize("code", [Code.SESSION_ID_TAKEN, Code.INTERNAL])
def test_a_refusal_that_leaves_something_is_followed_by_close(code: Code) -> None:
    asking().refused_further(code).refuses(code).asks(Close).done().holds(0, 0)


def test_silence_is_followed_by_close() -> None:
    asking().ask_failed().refuses(Code.NEXT_HOP_TIMEOUT, "fw1").asks(Close).ask_failed().done().holds(0, 0)


def test_an_answer_from_somebody_else_or_of_another_kind() -> None:
    asking().answered(an_opened(), principal="fw3").refuses(Code.NEXT_HOP_AUTHENTICATION).asks(Close).done().holds(0, 0)
    asking().answered(an_opened(session=bytes(16))).refuses(Code.UNEXPECTED).asks(Close).done().holds(0, 0)
    asking().answered(Closed(SID, ())).refuses(Code.UNEXPECTED).asks(Close).done().holds(0, 0)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (an_opened(client_side=Endpoint.parse("10.7.7.7:20100")), "not at its address"),
        (an_opened(client_side=Endpoint.parse("10.0.2.2:53")), "1024"),
        (an_opened(client_side=Endpoint.parse("[fd00::2]:20100")), "IPv4"),
        (an_opened(exit=Endpoint.parse("127.0.0.1:20100")), "loopback"),
        (an_opened(exit=Endpoint.parse("10.0.0.1:20100")), "address of this relay"),
        (an_opened(exit=Endpoint.parse("[fd00::2]:20100")), "IPv4"),
        (an_opened(path=()), "that far they are fw1 > fw2"),
        (an_opened(path=("fw1",)), "that far they are"),
        (an_opened(path=("fw2",)), "that far they are"),
        (an_opened(path=("fw1", "fw3")), "that far they are"),
        (an_opened(path=("fw1", "fw2", "fw1")), "that far they are"),
        (an_opened(path=("fw1", "fw2", "fw3", "fw2")), "that far they are"),
    ],
)
def test_an_answer_that_names_what_it_may_not(answer: Opened, text: str) -> None:
    asking().answered(answer).refuses(Code.ANSWER_DENIED, "fw1", text).asks(Close).done().holds(0, 0)


def test_answers_pass_the_answer_rows() -> None:
    row = AnswerRow("fw2", exit=Prefixes.of("10.3.0.0/24"))
    asking(first(answers=AnswerTable((row,)))).answered(an_opened()).applies(Install)
    row = AnswerRow("fw2", exit=Prefixes.of("10.4.0.0/24"))
    playing = asking(first(answers=AnswerTable((row,)))).answered(an_opened())
    playing.refuses(Code.ANSWER_DENIED, text="[[answer]]").asks(Close).done().holds(0, 0)


def test_the_relays_listed_addresses_are_entries_too() -> None:
    rows = tuple(replace(row, addresses=Prefixes.of("10.7.7.0/24")) if row.id == "fw2" else row for row in PEERS.rows)
    playing = asking(first(peers=PeerTable(rows))).answered(an_opened(client_side=Endpoint.parse("10.7.7.7:20100")))
    playing.applies(Install, lambda op: str(op.mapping.server_partner) == "10.7.7.7:20100")


def test_the_smaller_lease_and_mtu_count() -> None:
    asking().answered(an_opened(lease=60, mtu=9000)).applies(Install, lambda op: op.lease == 62).applied().replies(
        Opened, lambda it: (it.lease, it.mtu) == (60, 1472)
    )


# what the kernel says ---------------------------------------------------------------


@pytest.mark.parametrize(("full", "code"), [(False, Code.DATAPATH_FAILED), (True, Code.DATAPATH_FULL)])
def test_the_kernel_refuses(full: bool, code: Code) -> None:
    asking().answered(an_opened()).applies(Install).apply_failed(full).refuses(code, "fw1").asks(Close).done().holds(0, 0)
    playing = play(last()).fw1_opens().locates("10.9.0.9").located("10.9.0.9").applies(Install).apply_failed(full)
    playing.refuses(code, "fw2").done().holds(0, 0)


# closed on the way ---------------------------------------------------------------------


def test_closed_while_locating() -> None:
    playing = play(first()).opens().locates("10.0.2.2").closes().refuses(Code.UNKNOWN_SESSION).replies(Closed).done()
    playing.located("10.0.2.2").done().holds(0, 0)


def test_closed_while_asking_and_the_answer_comes_late() -> None:
    playing = asking().closes().refuses(Code.UNKNOWN_SESSION).asks(Close).done().holds(2, 1)
    playing.answered(an_opened()).asks(Close).done()  # nothing of it stays further on
    playing.answered(Closed(SID, ())).replies(Closed, lambda it: [one.hop for one in it.counters] == ["fw1"]).done().holds(0, 0)
    playing.answered(Error(Code.UNKNOWN_SESSION, "fw2", "")).done()


def test_closed_while_installing() -> None:
    playing = asking().answered(an_opened()).applies(Install).closes().refuses(Code.UNKNOWN_SESSION)
    playing.applies(Remove).asks(Close).done().applied().done().holds(2).applied().answered(Closed(SID, ())).replies(Closed).done()
    playing.holds(0, 0)


def test_a_late_opened_does_not_hit_a_later_session_of_the_same_id() -> None:
    playing = asking()
    old = playing.tokens[next(iter(playing.tokens))].pop(0)
    playing.closes().refuses(Code.UNKNOWN_SESSION).asks(Close).answered(Closed(SID, ())).replies(Closed).done()
    playing.opens().locates("10.0.2.2").located("10.0.2.2").asks(Open).done()
    playing.answered(an_opened(), token=old).done().holds(2, 1)


def test_open_while_it_is_being_removed() -> None:
    playing = opened(first()).closes().applies(Remove).asks(Close).opens().refuses(Code.WRONG_STATE).done()
    playing.renews().refuses(Code.UNKNOWN_SESSION).done()


# announced and pinned addresses (M24) ----------------------------------------------------


def test_announced_addresses_are_told_and_bound_ones_are_used() -> None:
    announce = {ip_address("10.0.0.1"): ip_address("192.0.2.1"), ip_address("10.0.2.1"): ip_address("192.0.2.7")}
    playing = play(first(announce=announce)).opens().locates("10.0.2.2").located("10.0.2.2")
    playing.asks(Open, lambda ask: str(ask.partner) == "192.0.2.7:20000").answered(an_opened())
    playing.applies(Install, lambda op: str(op.mapping.client_side) == "10.0.0.1:20000" and str(op.mapping.server_side) == "10.0.2.1:20000")
    playing.applied().replies(Opened, lambda it: (str(it.client_side), str(it.exit)) == ("192.0.2.1:20000", "10.3.0.2:20102"))
    exit_side = {ip_address("10.3.0.2"): ip_address("192.0.2.9")}
    playing = play(last(announce=exit_side)).fw1_opens().locates("10.9.0.9").located("10.9.0.9", source="10.3.0.2")
    playing.applies(Install).applied().replies(Opened, lambda it: str(it.exit) == "192.0.2.9:20000")


def test_pinned_addresses() -> None:
    pinned = first(client_side=(ip_address("10.0.0.77"),), server_side=(ip_address("10.0.2.77"),))
    playing = play(pinned).opens().locates("10.0.2.2").located("10.0.2.2")
    playing.asks(Open, lambda ask: str(ask.partner) == "10.0.2.77:20000").answered(an_opened())
    playing.applies(Install, lambda op: str(op.mapping.client_side) == "10.0.0.77:20000")


def test_draining() -> None:
    engine = first()
    playing = opened(engine)
    playing.takes(engine.drain(playing.now)).done()
    playing.opens(session=bytes(16)).refuses(Code.DRAINING).opens().replies(Opened).done()


def test_a_relay_may_speak_for_listed_users_only() -> None:
    rows = (PeerRow("fw1", Kind.RELAY, (key("1"),), frozenset({"alice"})),)
    playing = play(last(peers=PeerTable(rows))).fw1_opens().locates("10.9.0.9")
    playing.fw1_opens(user="bob", session=bytes(16)).refuses(Code.USER_NOT_ALLOWED).done()
