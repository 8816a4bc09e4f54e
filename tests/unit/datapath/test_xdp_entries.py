"""Mappings as map entries and back."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from chainrelay.datapath.mapping import Flow
from chainrelay.datapath.xdp_entries import Renewed, Way, held_of, hop_of, key_of, leads, place_of, renewal_of, renewed_of, value_of
from chainrelay.datapath.xdp_layout import ENTRY4, ENTRY6, HOP, RENEWAL4, TUPLE4, TUPLE6
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

MAC = bytes.fromhex("020000000001")
SESSION = bytes(range(16))
FLOWS = {
    4: Flow(Protocol.UDP, *(Endpoint.parse(f"10.0.0.{n}:{5000 + n}") for n in range(1, 5))),
    6: Flow(Protocol.UDP, *(Endpoint.parse(f"[fd00::{n}]:{5000 + n}") for n in range(1, 5))),
}
families = pytest.mark.parametrize("family", [4, 6])


@families
def test_an_entry_comes_back_as_it_was_written(family: int) -> None:
    flow = FLOWS[family]
    key = key_of(flow.source, flow.destination)
    value = value_of(flow, SESSION, Way(flow.source.address, 7, own=MAC), 3, 123)
    held = held_of(value)
    assert (held.source, held.destination) == (flow.source, flow.destination)
    assert (held.new_source, held.new_destination) == (flow.new_source, flow.new_destination)
    assert (held.hop, held.lease_ns, held.packets, held.octets, held.session) == (3, 123, 0, 0, SESSION)
    assert len(key) == (TUPLE4 if family == 4 else TUPLE6).size
    assert len(value) == (ENTRY4 if family == 4 else ENTRY6).size


@families
def test_an_entry_is_own_only_with_the_same_rewriting(family: int) -> None:
    flow = FLOWS[family]
    value = value_of(flow, SESSION, Way(flow.source.address), 0, 1)
    other = Flow(flow.protocol, flow.source, flow.destination, flow.new_source.next(1), flow.new_destination)
    assert leads(value, flow)
    assert not leads(value, other)


def test_octets_are_in_packet_order() -> None:
    assert key_of(Endpoint.parse("1.2.3.4:258"), Endpoint.parse("5.6.7.8:772")) == bytes((1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4))


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_a_way_that_is_not_ready_has_no_interface_for_the_program(address: str) -> None:
    way = Way(ip_address(address), 7, 1500, MAC, MAC, ready=True)
    assert HOP.unpack(hop_of(way))["ifindex"] == 7
    assert HOP.unpack(hop_of(Way(way.address, 7, 1500, MAC, MAC)))["ifindex"] == 0
    assert place_of(hop_of(way)) == way.address
    assert place_of(bytes(HOP.size)) is None


def test_renewals_and_their_answers() -> None:
    flow = FLOWS[4]
    record = renewal_of(key_of(flow.source, flow.destination), Way(flow.source.address, 7, own=MAC), 3, 99)
    fields = RENEWAL4.unpack(record)
    assert [fields[f"asked.{name}"] for name in ("lease_ns", "hop", "arrives_on", "arrives_at")] == [99, 3, 7, MAC]
    assert record[: TUPLE4.size] == key_of(flow.source, flow.destination)
    assert renewed_of(record) is None
    assert renewed_of(RENEWAL4.pack({**fields, "asked.found": 1, "asked.packets": 5, "asked.octets": 500})) == Renewed(5, 500)
