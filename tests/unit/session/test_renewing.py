"""RENEW: next relay, then kernel; leases, idleness, age."""

from __future__ import annotations

import pytest

from chainrelay.datapath.mapping import Remove
from chainrelay.datapath.mapping import Renew as Prolong
from chainrelay.errors import Code
from chainrelay.session.policy import Leases
from chainrelay.wire.messages import Close, Closed, Protocol, Renew, Renewed
from playbook import FW1_SEEN, SID, first, play
from standing import SEEN, opened, opened_last


def test_next_relay_first_then_the_kernel_and_the_smallest_lease() -> None:
    playing = opened().passes(40).renews(90).asks(Renew, lambda it: it.lease == 90).done().answered(Renewed(SID, 60))
    playing.applies(Prolong, lambda op: op.lease == 62).done().applied(SEEN).replies(Renewed, lambda it: it.lease == 60).done()
    playing.passes(59).done().passes(2).applies(Remove).asks(Close).applied(SEEN).done().holds(0, 0)
    playing.noted("closed", to_server="2/200", to_client="4/400")


def test_the_last_relay_asks_nobody() -> None:
    playing = opened_last().renews(5000, FW1_SEEN).applies(Prolong, lambda op: op.lease == 3602).applied()
    playing.replies(Renewed, lambda it: it.lease == 3600).done().renews(1, FW1_SEEN).applies(Prolong, lambda op: op.lease == 4)


def test_a_second_renewal_joins() -> None:
    playing = opened().renews().asks(Renew).renews().done().answered(Renewed(SID, 120)).applies(Prolong).applied()
    playing.replies(Renewed, request=2).replies(Renewed, request=3).done()


@pytest.mark.parametrize("code", [Code.UNKNOWN_SESSION, Code.LEASE_ENDED, Code.IDLE, Code.TOO_OLD, Code.REVOKED])
def test_a_relay_further_on_has_lost_it(code: Code) -> None:
    playing = opened().renews().asks(Renew).refused_further(code).refuses(code, "fw2").applies(Remove).done().applied().done().holds(0, 0)
    playing.renews().refuses(Code.UNKNOWN_SESSION).done()


def test_the_next_relay_is_silent_for_a_while() -> None:
    playing = opened().passes(40).renews().asks(Renew).ask_failed().refuses(Code.NEXT_HOP_TIMEOUT).done().holds(2, 1)
    playing.renews().asks(Renew).answered(Renewed(SID, 120)).applies(Prolong).applied().replies(Renewed)


def test_the_kernel_does_not_prolong() -> None:
    playing = opened_last().passes(40).renews(link=FW1_SEEN).applies(Prolong).apply_failed().refuses(Code.DATAPATH_FAILED).done()
    playing.passes(81).applies(Remove).applied().done().holds(0, 0)


def test_the_lease_ends_while_renewing_and_nothing_stays_further_on() -> None:
    playing = opened().passes(119).renews().asks(Renew).passes(2).refuses(Code.LEASE_ENDED).applies(Remove).asks(Close).done()
    playing.answered(Renewed(SID, 120)).asks(Close).applied().done().holds(0, 0)


def test_the_lease_ends_while_the_kernel_prolongs() -> None:
    playing = opened_last().passes(119).renews(link=FW1_SEEN).applies(Prolong).passes(2).refuses(Code.LEASE_ENDED).applies(Remove)
    playing.applied(SEEN).done().applied(SEEN).done().holds(0, 0).noted("closed", to_server="2/200", to_client="4/400")


def test_idle() -> None:
    playing = opened_last(leases=Leases(idle=100)).passes(60).renews(link=FW1_SEEN).applies(Prolong).applied(SEEN).replies(Renewed).done()
    playing.passes(60).renews(link=FW1_SEEN).applies(Prolong).applied().replies(Renewed).done()
    playing.passes(60).renews(link=FW1_SEEN).applies(Prolong).applied().refuses(Code.IDLE, "fw2").applies(Remove).applied().done()
    playing.holds(0, 0).noted("ended", code="idle")


def test_no_lease_reaches_beyond_the_absolute_limit() -> None:
    playing = opened_last(leases=Leases(absolute=150)).passes(100).renews(link=FW1_SEEN).applies(Prolong, lambda op: op.lease == 52)
    playing.applied().replies(Renewed, lambda it: it.lease == 50).passes(49.5).renews(link=FW1_SEEN)
    playing.refuses(Code.TOO_OLD, "fw2").applies(Remove).applied().done().holds(0, 0)


def test_not_before_it_is_open() -> None:
    play(first()).opens().locates("10.0.2.2").renews().refuses(Code.WRONG_STATE).done()


def test_tcp_lingers_after_its_lease() -> None:
    playing = opened(Protocol.TCP).passes(121).applies(Remove, lambda op: op.linger).done().holds(2, 1).applied(SEEN).done()
    playing.renews().refuses(Code.LEASE_ENDED).opens(protocol=Protocol.TCP).refuses(Code.WRONG_STATE).done()
    playing.passes(10).applies(Remove, lambda op: not op.linger).asks(Close).done().holds(2, 1).applied(SEEN).done().holds(0, 0)
    playing.noted("closed", to_server="2/200", to_client="4/400")


def test_a_lingering_session_can_be_closed() -> None:
    playing = opened(Protocol.TCP).passes(121).applies(Remove).closes().applies(Remove).asks(Close).apply_failed().done()
    playing.applied().refused_further(Code.UNKNOWN_SESSION).replies(Closed).done().holds(0, 0)


def test_a_renewal_under_way_is_refused_when_tcp_starts_to_linger() -> None:
    opened(Protocol.TCP).passes(119).renews().asks(Renew).passes(2).refuses(Code.LEASE_ENDED).applies(Remove).done()
