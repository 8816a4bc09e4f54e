"""STATUS and the port table."""

from __future__ import annotations

from chainrelay.datapath.mapping import Renew as Prolong
from chainrelay.errors import Code
from chainrelay.session.transitions import State
from chainrelay.wire.endpoint import Target
from chainrelay.wire.messages import HopCounters, Opened, Renew, Renewed, Status, StatusReport
from playbook import FW1_SEEN, SID, first, last, play
from standing import SEEN, opened, opened_last

OWN = HopCounters("fw1", 1, 100, 2, 200)
FURTHER = HopCounters("fw2", 5, 6, 7, 8)


def test_counters_of_every_hop_and_the_lease_untouched() -> None:
    playing = opened().passes(20).asks_status().applies(Prolong, lambda op: op.lease == 102).asks(Status).applied(SEEN).done()
    playing.answered(StatusReport(SID, 80, (FURTHER,))).replies(StatusReport, lambda it: it == StatusReport(SID, 80, (OWN, FURTHER)))
    playing.done().passes(99).done().passes(2).holds(2, 1)
    assert playing.engine.sessions()[0].state is State.CLOSING


def test_a_hop_that_does_not_answer_is_missing() -> None:
    playing = opened().asks_status().applies(Prolong).asks(Status).apply_failed().ask_failed()
    playing.replies(StatusReport, lambda it: (it.lease, [one.hop for one in it.counters]) == (120, ["fw1"])).done()


def test_it_does_not_shorten_a_renewal_that_is_under_way() -> None:
    playing = opened().passes(100).renews().asks(Renew).answered(Renewed(SID, 120)).applies(Prolong, lambda op: op.lease == 122)
    playing.asks_status().asks(Status).done()


def test_reserved_sessions_have_no_counters_yet() -> None:
    playing = play(last()).fw1_opens(server=Target.parse("10.9.0.9:0")).locates("10.9.0.9").located("10.9.0.9").replies(Opened)
    playing.asks_status(FW1_SEEN).replies(StatusReport, lambda it: it.counters == (HopCounters("fw2", 0, 0, 0, 0),)).done()


def test_not_before_it_is_open() -> None:
    play(first()).opens().locates("10.0.2.2").asks_status().refuses(Code.WRONG_STATE).done()


def test_the_port_table_lists_the_four_endpoints() -> None:
    playing = opened().passes(20)
    (row,) = playing.engine.sessions(playing.now)
    assert [str(one) for one in (row.client_partner, row.client_side, row.server_side, row.server_partner)] == [
        "10.0.0.5:5000", "10.0.0.1:20000", "10.0.2.1:20000", "10.0.2.2:20100",
    ]  # fmt: skip
    assert (row.session, row.principal, row.user, row.next_hop, row.state) == (SID, "alice", "alice", "fw2", State.OPEN)
    assert (row.lease_left, row.age, str(row.exit)) == (100, 20, "10.3.0.2:20102")
    assert opened_last().engine.sessions()[0].next_hop == ""
