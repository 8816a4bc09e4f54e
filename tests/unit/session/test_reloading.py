"""A new configuration under standing sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chainrelay.datapath.mapping import Install, Remove
from chainrelay.errors import Code
from chainrelay.session.policy import Policy
from chainrelay.session.prefixes import PortRange, Prefixes
from chainrelay.session.tables import AccessTable, Allow, PeerTable
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import Close, Renew
from playbook import FIRST, LAST, P1, PEERS, Play, key
from standing import opened, opened_last


def reloads(playing: Play, policy: Policy) -> Play:
    return playing.takes(playing.engine.reconfigure(policy, playing.now))


def alice(**changes: Any) -> PeerTable:
    return PeerTable(tuple(replace(row, **changes) if row.id == "alice" else row for row in PEERS.rows))


def test_sessions_are_kept() -> None:
    playing = reloads(opened(), replace(FIRST, opens_per_second=1.0, sessions_per_principal=1)).done().holds(2, 1)
    playing.renews().asks(Renew)
    other: dict[str, Any] = {"session": bytes(16), "partner": Endpoint(P1.address, 6000), "origin": Endpoint(P1.address, 6000)}
    playing.opens(**other).refuses(Code.SESSION_LIMIT).done()


def test_a_revoked_key_ends_its_sessions() -> None:
    for peers in (PeerTable(PEERS.rows[1:]), alice(keys=(key("x"),)), alice(keys=())):
        playing = reloads(opened(), replace(FIRST, peers=peers)).applies(Remove).asks(Close).applied().done().holds(0, 0)
        playing.noted("ended", code="revoked")


def test_a_rotated_key_does_not() -> None:
    playing = reloads(opened(), replace(FIRST, peers=alice(keys=(key("b"), key("a"))))).done()
    reloads(playing, replace(FIRST, peers=alice(keys=(key("b"),)))).done().holds(2, 1)


def test_a_user_who_is_no_longer_allowed() -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"peers": alice(users=frozenset({"bob"}))},
        {"access": AccessTable((Allow("bob"),))},
        {"access": AccessTable((Allow("*", destination_ports=PortRange(1, 5)),))},
    )
    for change in changes:
        reloads(opened(), replace(FIRST, **change)).applies(Remove).asks(Close).applied().done().holds(0, 0)


def test_the_last_relay_checks_the_resolved_address_again() -> None:
    narrow = AccessTable((Allow("*", destination=Prefixes.of("10.9.0.9")),))
    reloads(opened_last(), replace(LAST, access=narrow)).done().holds(2, 1)
    reloads(opened_last(), replace(LAST, access=AccessTable((Allow("*", destination=Prefixes.of("10.9.0.8")),)))).applies(Remove)


def test_a_session_that_is_ending_ends() -> None:
    playing = opened().closes().applies(Remove).asks(Close)
    reloads(playing, replace(FIRST, peers=PeerTable(()))).done().applied().done().holds(2, 1)


def test_limits_of_rows_count_on() -> None:
    limited = replace(LAST, access=AccessTable((Allow("*", sessions=1),)))
    playing = reloads(opened_last(), limited)
    playing.fw1_opens(session=bytes(16), server=Target.parse("10.9.0.8:1")).locates("10.9.0.8").located("10.9.0.8")
    playing.refuses(Code.SESSION_LIMIT).done()


def test_a_new_pool_respects_the_ports_that_are_out() -> None:
    playing = reloads(opened_last(), replace(LAST, pool=PortRange(19999, 20003))).done().holds(2, 1)
    playing.fw1_opens(session=bytes(16), server=Target.parse("10.9.0.9:7000")).locates("10.9.0.9").located("10.9.0.9")
    playing.applies(Install, lambda op: op.mapping.client_side.port == 19999 and op.mapping.server_side.port == 19999)
    playing = reloads(opened_last(), replace(LAST, pool=PortRange(30000, 30003))).done().holds(0, 1)
    playing.passes(200).applies(Remove).applied().done().holds(0, 0)
