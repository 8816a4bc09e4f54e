"""The fast path's backend over maps that are dictionaries. With the rules behind it: test_stack.py; real maps: tests/conformance."""

from __future__ import annotations

from dataclasses import replace

from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Remove, Renew
from chainrelay.datapath.xdp import XdpBackend
from chainrelay.wire.messages import Protocol
from unit.datapath.fast_maps import Maps, mapping


def test_an_entry_of_another_session_is_neither_taken_over_nor_removed() -> None:
    maps = Maps([])
    fast = XdpBackend(maps)
    first = mapping()
    fast.apply([Install(first, 60)])
    other = replace(first, session=bytes(15) + b"x", server_side=first.server_side.next(1))
    outcome = fast.apply([Install(other, 60)])[0]
    assert isinstance(outcome, Failed)
    assert not outcome.full
    before = dict(maps.held)
    assert fast.apply([Remove(other)]) == [Done(Counters())]
    assert maps.held == before


def test_an_entry_of_another_session_whose_lease_has_ended_makes_room() -> None:
    """Nobody may know any more whose it was: a journal can be lost."""
    maps = Maps([])
    fast = XdpBackend(maps)
    first = mapping()
    fast.apply([Install(first, 1)])
    other = replace(first, session=bytes(15) + b"x", server_side=first.server_side.next(1))
    assert isinstance(fast.apply([Install(other, 60)])[0], Failed)
    maps.now = 2 * 10**9
    assert fast.apply([Install(other, 60)]) == [Done(Counters())]
    assert {flow.source for flow in fast.flows()} == {other.client_partner, other.server_partner}


def test_an_ended_lease_counts_as_gone() -> None:
    maps = Maps([])
    fast = XdpBackend(maps)
    fast.apply([Install(mapping(), 1)])
    maps.forward(5)
    maps.now = 2 * 10**9
    assert fast.counters([mapping()]) == [Counters()]
    assert fast.flows() == []
    assert fast.apply([Renew(mapping(), 1)]) == [Done(Counters())]
    assert len(fast.flows()) == 2
    maps.now = 10**10
    fast.setup()
    assert maps.held == {}


def test_half_a_session_is_none() -> None:
    maps = Maps([], room=1)
    outcome = XdpBackend(maps).apply([Install(mapping(), 60)])
    assert outcome == [Failed("the fast path is full", full=True)]
    assert maps.held == {}


def test_tcp_is_none_of_its_business() -> None:
    maps = Maps([])
    tcp = mapping(protocol=Protocol.TCP)
    assert XdpBackend(maps).apply([Install(tcp, 60), Renew(tcp, 60), Remove(tcp)]) == [Done(Counters())] * 3
    assert maps.held == {}
