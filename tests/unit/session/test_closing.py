"""CLOSE, and removals that the kernel refuses."""

from __future__ import annotations

from chainrelay.datapath.mapping import Counters, Install, Remove
from chainrelay.errors import Code
from chainrelay.limits import PORT_REST, REMOVE_RETRY
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Close, Closed, HopCounters, Opened
from playbook import ALICE, FW1_SEEN, SID, last, play
from standing import SEEN, opened, opened_last

FURTHER = HopCounters("fw2", 5, 6, 7, 8)
OWN = HopCounters("fw1", 1, 100, 2, 200)


def test_close_goes_both_ways_at_once_and_answers_with_all_counters() -> None:
    playing = opened().closes().applies(Remove).asks(Close).done().applied(SEEN).done().holds(2, 1)
    playing.answered(Closed(SID, (FURTHER,))).replies(Closed, lambda it: it.counters == (OWN, FURTHER)).done().holds(0, 0)
    playing.closes().refuses(Code.UNKNOWN_SESSION).done()


def test_the_last_relay() -> None:
    playing = opened_last().closes(FW1_SEEN).applies(Remove).done().applied(Counters(1, 100, 2, 200))
    playing.replies(Closed, lambda it: it.counters == (HopCounters("fw2", 1, 100, 2, 200),)).done().holds(0, 0)


def test_a_hop_that_can_not_be_reached_is_missing() -> None:
    playing = opened().closes().applies(Remove).asks(Close).ask_failed().done().applied(SEEN)
    playing.replies(Closed, lambda it: it.counters == (OWN,)).done().holds(0, 0)
    playing = opened().closes().applies(Remove).asks(Close).applied(SEEN).refused_further(Code.UNKNOWN_SESSION)
    playing.replies(Closed, lambda it: it.counters == (OWN,)).done()


def test_a_second_close_joins() -> None:
    playing = opened_last().closes(FW1_SEEN).applies(Remove).closes(FW1_SEEN).done().applied()
    playing.replies(Closed, request=2).replies(Closed, request=3).done()


def test_the_ports_stay_busy_until_the_kernel_lets_go() -> None:
    playing = opened_last().closes(FW1_SEEN).applies(Remove).apply_failed().refuses(Code.DATAPATH_FAILED, "fw2").done().holds(2, 1)
    playing.passes(REMOVE_RETRY).applies(Remove).apply_failed().done().holds(2, 1)
    playing.closes(FW1_SEEN).done().passes(REMOVE_RETRY).applies(Remove).applied().replies(Closed).done().holds(0, 0)
    playing.passes(1000).done()


def test_ports_rest_after_a_session() -> None:
    playing = opened_last().closes(FW1_SEEN).applies(Remove).applied().replies(Closed)
    playing.fw1_opens().locates("10.9.0.9").located("10.9.0.9").applies(Install, lambda op: op.mapping.client_side.port == 20001)
    playing.passes(PORT_REST).fw1_opens(session=bytes(16), partner=Endpoint.parse("10.0.2.1:20005")).locates("10.9.0.9").located("10.9.0.9")
    playing.applies(Install, lambda op: op.mapping.client_side.port == 20000)


def test_a_session_of_alice_is_unknown_to_others() -> None:
    playing = play(last()).opens().locates("10.9.0.9").located("10.9.0.9").applies(Install).applied().replies(Opened)
    playing.closes(FW1_SEEN).refuses(Code.UNKNOWN_SESSION).closes(ALICE).applies(Remove).done()
