"""Operations as changes of elements, read as the nft commands that they print as."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.datapath import nft
from chainrelay.datapath.mapping import Install, Mapping, Plain, Remove, Renew
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Protocol

UDP = Mapping(
    bytes(16), Protocol.UDP, 1, *(Endpoint.parse(t) for t in ("10.1.0.1:5000", "10.1.0.2:20000", "10.2.0.1:25000", "10.2.0.2:6000"))
)
TCP6 = Mapping(
    bytes(16), Protocol.TCP, 2, *(Endpoint.parse(t) for t in ("[fd01::1]:50", "[fd01::2]:60", "[fd02::1]:70", "[fd02::2]:80"))
)
FROM_CLIENT, FROM_SERVER = "10.1.0.1 . 17 . 5000 . 10.1.0.2 . 20000", "10.2.0.2 . 17 . 6000 . 10.2.0.1 . 25000"
AFTER_CLIENT, AFTER_SERVER = "10.1.0.1 . 17 . 5000 . 10.2.0.2 . 6000", "10.2.0.2 . 17 . 6000 . 10.1.0.1 . 5000"


def text(*operations: Plain, certain: bool = True) -> list[str]:
    return list(map(str, nft.transaction([(each, nft.Elements.of(each.mapping)) for each in operations], certain=certain)))


def test_install_is_a_lease_and_both_translations_for_each_direction() -> None:
    assert text(Install(UDP, 2.5)) == [
        f"add element ip chainrelay live {{ {FROM_CLIENT} timeout 2500ms, {FROM_SERVER} timeout 2500ms }}",
        f"add element ip chainrelay to_destination {{ {FROM_CLIENT} : 10.2.0.2 . 6000, {FROM_SERVER} : 10.1.0.1 . 5000 }}",
        f"add element ip chainrelay to_source {{ {AFTER_CLIENT} : 10.2.0.1 . 25000, {AFTER_SERVER} : 10.1.0.2 . 20000 }}",
    ]


def test_renewal_replaces_the_lease() -> None:
    assert text(Renew(UDP, 60)) == [
        f"delete element ip chainrelay live {{ {FROM_CLIENT}, {FROM_SERVER} }}",
        f"add element ip chainrelay live {{ {FROM_CLIENT} timeout 60000ms, {FROM_SERVER} timeout 60000ms }}",
    ]


def test_an_uncertain_renewal_adds_before_it_deletes_and_puts_the_maps_back() -> None:
    lines = text(Renew(UDP, 60), certain=False)
    assert [line.split("{")[0].split() for line in lines] == [
        ["add", "element", "ip", "chainrelay", "live"],
        ["add", "element", "ip", "chainrelay", "to_destination"],
        ["add", "element", "ip", "chainrelay", "to_source"],
        ["delete", "element", "ip", "chainrelay", "live"],
        ["add", "element", "ip", "chainrelay", "live"],
    ]


@pytest.mark.parametrize("certain", [True, False])
def test_removal_deletes_what_install_added(certain: bool) -> None:
    lines = text(Remove(UDP), certain=certain)
    deleted = [line for line in lines if line.startswith("delete")]
    assert deleted == [
        f"delete element ip chainrelay live {{ {FROM_CLIENT}, {FROM_SERVER} }}",
        f"delete element ip chainrelay to_destination {{ {FROM_CLIENT}, {FROM_SERVER} }}",
        f"delete element ip chainrelay to_source {{ {AFTER_CLIENT}, {AFTER_SERVER} }}",
    ]
    assert len(lines) - len(deleted) == (0 if certain else 3)


def test_families_get_commands_of_their_own_and_elements_of_a_kind_share_one() -> None:
    lines = text(Install(UDP, 1), Install(TCP6, 1))
    assert len(lines) == 6
    assert sum(line.startswith("add element ip6 chainrelay ") for line in lines) == 3
    assert "fd01::1 . 6 . 51 . fd01::2 . 61 : fd02::2 . 81" in lines[4]


def addresses(family: int) -> st.SearchStrategy[Address]:
    if family == 4:
        return st.integers(0, 2**32 - 1).map(IPv4Address)
    return st.integers(2**64, 2**128 - 1).map(IPv6Address)  # above the IPv4-mapped ones, which no endpoint holds


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    family = draw(st.sampled_from([4, 6]))
    ends = [Endpoint(draw(addresses(family)), draw(st.integers(1, 65534))) for _ in range(4)]
    return Mapping(bytes(16), draw(st.sampled_from(list(Protocol))), draw(st.integers(1, 2)), *ends)


@given(mappings())
def test_elements_and_flows_say_the_same(mapping: Mapping) -> None:
    flows = [flow for pair in mapping.flows() for flow in pair]
    tuples = [nft.Tuple(flow.protocol, flow.source, flow.destination) for flow in flows]
    elements = nft.Elements.of(mapping)
    assert [each.packed() for each in tuples] == list(elements.arriving) == list(nft.live_keys(mapping))
    assert [nft.Tuple.unpack(each) for each in nft.live_keys(mapping)] == tuples
    assert [nft.Tuple(f.protocol, f.source, f.new_destination).packed() for f in flows] == list(elements.translated)
    for ends, packed in (([f.new_destination for f in flows], elements.destinations), ([f.new_source for f in flows], elements.sources)):
        assert [end.address.packed + end.port.to_bytes(2, "big") + bytes(2) for end in ends] == list(packed)


def test_stale_map_elements_are_found_by_key_and_data() -> None:
    data = IPv4Address("10.2.0.2").packed + (6000).to_bytes(2, "big") + bytes(2)
    assert list(map(str, nft.forget_maps(4, [(nft.live_keys(UDP)[0], data)]))) == [
        f"delete element ip chainrelay to_destination {{ {FROM_CLIENT} }}",
        f"delete element ip chainrelay to_source {{ {AFTER_CLIENT} }}",
    ]


@pytest.mark.parametrize("key", [b"", bytes(19), bytes(20), bytes(45)])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match=r"key of|Protocol"):
        nft.Tuple.unpack(key)
