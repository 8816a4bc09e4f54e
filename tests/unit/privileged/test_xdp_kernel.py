"""The agent's way to a fast path: loader, maps and neighbours in one call, inside a namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Mapping, Remove, Renew
from chainrelay.datapath.xdp_entries import place_of
from chainrelay.datapath.xdp_layout import LAYOUT_VERSION
from chainrelay.errors import DatapathError
from chainrelay.privileged.xdp_bpf import Map
from chainrelay.privileged.xdp_kernel import FastPathOptions, open_fast_path
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from lab.host import Namespace
from lab.link import connect

pytestmark = pytest.mark.root


@pytest.fixture
def options(tmp_path: Path) -> Iterator[FastPathOptions]:
    pins = tmp_path / "bpf"
    yield FastPathOptions("native", ("wan",), pins, tmp_path / "log", flows=64, hops=4)
    subprocess.run(["umount", "-q", str(pins)], check=False)


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("here") as here, Namespace("there") as there:
        connect(here, there, ("10.1.0.0/24", "fd00:1::/64"), names=("wan", "far"), gro=True)
        with here.enter():
            yield here


def mapping(family: int, number: int) -> Mapping:
    near = "10.1.0.{}:{}" if family == 4 else "[fd00:1::{}]:{}"
    partner, own = near.format(100 + number, 5000), near.format(1, 20000 + number)
    server, leave = near.format(2, 6000), near.format(1, 25000 + number)
    return Mapping(number.to_bytes(16, "big"), Protocol.UDP, 1, *map(Endpoint.parse, (partner, own, leave, server)))


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("family", [4, 6])
def test_a_session_from_install_to_flush(options: FastPathOptions, family: int) -> None:
    fast = open_fast_path(options)
    assert fast.interfaces == {"wan": {"mode": "native", "why": ""}}
    first, second = mapping(family, 1), mapping(family, 2)
    nothing = Done(Counters())
    assert fast.backend.apply([Install(first, 30), Install(second, 30), Renew(first, 60)]) == [nothing] * 3
    assert {round(flow.expires / 30) for flow in fast.backend.flows() if flow.source == first.client_partner} == {2}
    assert fast.backend.apply([Remove(second)]) == [nothing]
    assert len(fast.backend.flows()) == 2
    assert sum(fast.backend.verdicts().values()) >= 0
    fast.backend.flush_own()
    assert fast.backend.flows() == []
    fast.backend.close()


@pytest.mark.usefixtures("host")
def test_entries_outlive_their_maker(options: FastPathOptions) -> None:
    first = open_fast_path(options)
    first.backend.apply([Install(mapping(4, 1), 60)])
    first.backend.close()
    second = open_fast_path(options)
    assert len(second.backend.flows()) == 2
    second.backend.close()


@pytest.mark.usefixtures("host")
def test_places_of_next_hops_are_given_up_when_nobody_uses_them(options: FastPathOptions) -> None:
    """Four places: the server and three clients; a fourth client finds one only after another has gone."""
    fast = open_fast_path(options)
    for number in (1, 2, 3):
        assert fast.backend.apply([Install(mapping(4, number), 60)]) == [Done(Counters())]
    refused = fast.backend.apply([Install(mapping(4, 4), 60)])[0]
    assert isinstance(refused, Failed)
    assert refused.full
    assert len(fast.backend.flows()) == 6
    fast.backend.apply([Remove(mapping(4, 2))])
    assert fast.backend.apply([Install(mapping(4, 4), 60)]) == [Done(Counters())]
    fast.backend.close()


@pytest.mark.usefixtures("host")
def test_a_place_that_is_given_up_is_not_one_that_is_just_being_taken(options: FastPathOptions) -> None:
    """One place is free and a session needs two: it gets both or none, and never one place for two addresses."""
    fast = open_fast_path(options)
    for number in (1, 2):
        fast.backend.apply([Install(mapping(4, number), 60)])
    fast.backend.apply([Remove(mapping(4, 2))])
    apart = replace(mapping(4, 3), server_partner=Endpoint.parse("10.1.0.77:6000"))
    assert fast.backend.apply([Install(apart, 60)]) == [Done(Counters())]
    with Map.open(options.pins / f"v{LAYOUT_VERSION}" / "hops") as hops:
        taken = [place_of(hops.lookup(place.to_bytes(4, "little")) or b"") for place in range(4)]
    assert {str(each) for each in taken} == {"10.1.0.2", "10.1.0.101", "10.1.0.103", "10.1.0.77"}
    fast.backend.close()


@pytest.mark.usefixtures("host")
def test_a_loader_that_fails_says_why(options: FastPathOptions) -> None:
    with pytest.raises(DatapathError, match="fast path not loaded: interface 'eth9' does not exist"):
        open_fast_path(replace(options, interfaces=("eth9",)))
