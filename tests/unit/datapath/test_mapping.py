"""A mapping's flows."""

from __future__ import annotations

from chainrelay.datapath.mapping import Counters, Flow, Mapping
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

P1, P2, P3, P4 = (Endpoint.parse(text) for text in ("10.1.0.1:5000", "10.1.0.2:20000", "10.2.0.1:25000", "10.2.0.2:6000"))


def test_two_components_are_two_pairs_one_port_further() -> None:
    mapping = Mapping(bytes(16), Protocol.UDP, 2, P1, P2, P3, P4)
    first, second = mapping.flows()
    assert first == (Flow(Protocol.UDP, P1, P2, P3, P4), Flow(Protocol.UDP, P4, P3, P2, P1))
    assert [flow.source.port for flow in second] == [5001, 6001]
    assert [flow.new_destination.port for flow in second] == [6001, 5001]
    assert mapping.family == 4


def test_counters_add_up_by_direction() -> None:
    assert Counters(1, 2, 3, 4) + Counters(10, 20, 30, 40) == Counters(11, 22, 33, 44)
