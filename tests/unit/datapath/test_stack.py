"""Order of the two stores and what happens when the fast path says no: the real XdpBackend over maps that are dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from chainrelay.datapath.fake import FakeBackend
from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Operation, Outcome, Rekey, Remove, Renew
from chainrelay.datapath.stack import Stack
from chainrelay.datapath.xdp import XdpBackend
from chainrelay.wire.messages import Protocol
from unit.datapath.fast_maps import Maps, mapping
from unit.datapath.test_remote import KEYS


class Rules(FakeBackend):
    """The fake, telling when it is called."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(clock=lambda: 0.0)
        self.log = log

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        self.log += [f"rules {type(each).__name__.lower()}" for each in operations]
        return super().apply(operations)


def make(room: int = 100) -> tuple[Stack, Maps, list[str]]:
    log: list[str] = []
    maps = Maps(log, room)
    return Stack(Rules(log), XdpBackend(maps)), maps, log


def test_rules_come_first_and_go_last() -> None:
    stack, _, log = make()
    assert stack.apply([Install(mapping(), 60)]) == [Done(Counters())]
    assert log == ["rules install", "fast +", "fast +"]
    log.clear()
    stack.apply([Remove(mapping())])
    assert log == ["fast -", "fast -", "rules remove"]


def test_tcp_is_the_rules_alone() -> None:
    stack, maps, _ = make()
    assert stack.apply([Install(mapping(protocol=Protocol.TCP), 60)]) == [Done(Counters())]
    assert maps.held == {}


def test_a_full_fast_path_refuses_and_leaves_nothing_anywhere() -> None:
    stack, maps, _ = make(room=3)
    outcomes = stack.apply([Install(mapping(0), 60), Install(mapping(1), 60)])
    assert outcomes == [Done(Counters()), Failed("the fast path is full", full=True)]
    assert len(maps.held) == 2
    assert {flow.source for flow in stack.rules.flows()} == {mapping(0).client_partner, mapping(0).server_partner}


def test_a_running_session_goes_on_in_the_rules_when_the_fast_path_has_lost_it() -> None:
    stack, maps, _ = make()
    stack.apply([Install(mapping(), 60)])
    maps.held.clear()
    maps.room = 0
    assert isinstance(stack.apply([Renew(mapping(), 60)])[0], Failed)
    assert len(stack.rules.flows()) == 2


def test_counters_are_told_once_each() -> None:
    stack, maps, _ = make()
    stack.apply([Install(mapping(), 60)])
    maps.forward(7)
    seven = Counters(7, 700, 7, 700)
    assert stack.counters([mapping()]) == [seven]
    assert [flow.packets for flow in stack.flows()] == [7, 7]
    assert stack.apply([Install(mapping(), 60)]) == [Done(Counters())]
    assert stack.apply([Renew(mapping(), 60)]) == [Done(seven)]
    assert stack.apply([Renew(mapping(), 60)]) == [Done(Counters())]
    maps.forward(9)
    assert stack.apply([Remove(mapping())]) == [Done(Counters(2, 200, 2, 200))]


def test_a_removal_behind_its_install_in_one_batch_leaves_nothing() -> None:
    stack, maps, log = make()
    stack.apply([Install(mapping(), 60), Remove(mapping()), Install(mapping(1), 60)])
    assert log.index("fast -") < log.index("rules remove")
    assert len(maps.held) == 2
    assert stack.counters([mapping()]) == [Counters()]


def test_flush_and_close_go_to_both() -> None:
    stack, maps, log = make()
    stack.apply([Install(mapping(), 60)])
    stack.flush_own()
    assert (maps.held, stack.rules.flows()) == ({}, [])
    stack.close()
    assert "fast closed" in log


# sealed ------------------------------------------------------------------------------


def sealing() -> tuple[Stack, FakeBackend, list[str]]:
    """Rules, and a fast path in memory that seals."""
    log: list[str] = []
    fast = FakeBackend(clock=lambda: 0.0, seals=True)
    return Stack(Rules(log), cast(XdpBackend, fast)), fast, log


def test_the_rules_never_hear_of_a_sealed_mapping() -> None:
    stack, fast, log = sealing()
    assert stack.seals()
    one = replace(mapping(), sealed=True)
    operations: list[Operation] = [Install(one, 60, KEYS), Install(mapping(1), 60), Rekey(one, KEYS), Renew(one, 60)]
    assert stack.apply(operations) == [Done(Counters())] * 4
    assert log == ["rules install"]
    assert [flow.sealed for flow in stack.flows()] == [False, False, True, True]
    assert len(fast.flows()) == 4
    assert stack.apply([Remove(one), Remove(mapping(1))]) == [Done(Counters())] * 2
    assert log == ["rules install", "rules remove"]
    assert not stack.flows()


def test_what_the_fast_path_says_of_a_sealed_mapping_is_the_outcome() -> None:
    stack, _, log = sealing()
    one = replace(mapping(), sealed=True)
    lost = Failed("the sealed session is not here", keyless=True)
    assert stack.apply([Renew(one, 60), Rekey(one, KEYS), Renew(mapping(1), 60)]) == [lost, lost, Done(Counters())]
    assert stack.apply([Install(one, 60)]) == [Failed("a sealed session without its keys")]
    assert log == ["rules renew"], "nothing is taken back where nothing was put"


def test_a_fast_path_that_cannot_seal_refuses_and_rules_do_not_stand_in() -> None:
    stack, maps, log = make()
    maps.can_seal = False
    assert not stack.seals()
    one = replace(mapping(), sealed=True)
    (outcome,) = stack.apply([Install(one, 60, KEYS)])
    assert isinstance(outcome, Failed)
    assert (maps.held, log, stack.flows()) == ({}, [], [])
