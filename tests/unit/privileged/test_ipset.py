"""Elements in a real set: written, prolonged, read, refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chainrelay.datapath.legacy_backend import Put
from chainrelay.datapath.legacy_ruleset import SETS, Key
from chainrelay.datapath.mapping import Flow, Mapping
from chainrelay.privileged.ipset import Ipsets
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from lab.host import Namespace

pytestmark = pytest.mark.root
ENDS = {
    4: ("10.1.0.1:5000", "10.1.0.2:20000", "10.2.0.1:25000", "10.2.0.2:6000"),
    6: ("[fd00:1::1]:5000", "[fd00:1::2]:20000", "[fd00:2::1]:25000", "[fd00:2::2]:6000"),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    with Namespace("sets") as made:
        yield made


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def sets(host: Namespace, family: int) -> Iterator[Ipsets]:
    with host.enter():
        made = Ipsets()
        made.create(family, sessions=50)
        try:
            yield made
        finally:
            made.destroy(family)
            made.close()


def flows(family: int, offset: int = 0) -> list[Flow]:
    ends = [Endpoint.parse(text).next(offset) for text in ENDS[family]]
    return [flow for pair in Mapping(bytes(16), Protocol.UDP, 1, *ends).flows() for flow in pair]


def test_elements_come_back_as_they_went_in(sets: Ipsets, family: int) -> None:
    wanted = flows(family)
    assert sets.put(family, [Put(flow, 30, new=True) for flow in wanted]) == [None, None]
    found = sets.elements(family)
    assert {each.flow for each in found} == set(wanted)
    assert all(28 <= each.expires <= 30 for each in found)
    keys = [Key.of(flow) for flow in wanted]
    absent = Key(Protocol.TCP, keys[0].partner, keys[0].own)
    assert sets.counters(family, [*keys, absent], fresh=True) == dict.fromkeys(keys, (0, 0))


def test_a_renewal_prolongs_and_keeps_the_comment(sets: Ipsets, family: int) -> None:
    (flow, _) = flows(family)
    sets.put(family, [Put(flow, 5, new=True)])
    assert sets.put(family, [Put(flow, 100, new=False)]) == [None]
    (element,) = sets.elements(family)
    assert (element.flow, element.expires > 90) == (flow, True)


def test_deleting_what_is_not_there_is_no_error(sets: Ipsets, family: int) -> None:
    sets.delete(family, flows(family))
    assert sets.elements(family) == []


def test_a_lease_of_years_is_cut_to_what_the_set_takes(sets: Ipsets, family: int) -> None:
    assert sets.put(family, [Put(flows(family)[0], 100_000_000, new=True)]) == [None]
    assert sets.elements(family)[0].expires > 2_000_000


def test_a_full_set_says_so(sets: Ipsets, family: int) -> None:
    many = [Put(flow, 60, new=True) for offset in range(400) for flow in flows(family, offset)]
    refused = [fault for fault in sets.put(family, many) if fault is not None]
    assert refused
    assert all(fault.full and "full" in str(fault) for fault in refused)


def test_a_set_that_is_missing_is_empty(sets: Ipsets, family: int) -> None:
    other = 10 - family
    assert sets.elements(other) == []
    sets.destroy(other)
    assert SETS[other] != SETS[family]
