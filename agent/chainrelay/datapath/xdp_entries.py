"""Mappings as entries of the BPF maps and back. Pure; the only place that puts values into the layouts of xdp_layout.py.

One builder per key: the key that adds an entry is the key that renews and removes it (`key_of`).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from chainrelay.datapath.xdp_layout import ASKED, ENTRY4, ENTRY6, HOP, RENEWAL4, RENEWAL6, TUPLE4, TUPLE6, Kind, Layout, Value, What
from chainrelay.wire.endpoint import Address, Endpoint

if TYPE_CHECKING:
    from chainrelay.datapath.mapping import Flow

NO_MAC = bytes(6)


@dataclass(frozen=True, slots=True)
class Way:
    """How datagrams to an address leave, as routes and neighbours say now."""

    address: Address
    ifindex: int = 0
    """The route's interface; 0 without a route. Datagrams from the address must arrive there."""
    mtu: int = 0
    neighbour: bytes = NO_MAC
    own: bytes = NO_MAC
    """The interface's MAC: what we send from, and where the opposite direction arrives."""
    ready: bool = False
    """The neighbour's MAC is known and the interface takes the fast path: datagrams may go."""
    fast: bool = False
    """The interface takes the fast path, whether the neighbour is known by now or not."""
    name: str = ""
    """The interface's, for people."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an entry holds, as far as it is reported."""

    source: Endpoint
    destination: Endpoint
    new_source: Endpoint
    new_destination: Endpoint
    hop: int
    lease_ns: int
    packets: int
    octets: int
    """Since the last renewal, both."""
    session: bytes
    seal: Seal


@dataclass(frozen=True, slots=True)
class Renewed:
    """One answer of a control run: what was counted since the previous one; None when there was no such flow."""

    packets: int
    octets: int


def key_of(source: Endpoint, destination: Endpoint) -> bytes:
    """The key of the flow that arrives with this tuple."""
    return _tuple_layout(source.family).pack(_tuple(source, destination))


@dataclass(frozen=True, slots=True)
class Seal:
    """What else happens to the datagrams of a sealed session's flow."""

    kind: Kind = Kind.PLAIN
    component: int = 0
    key_id: bytes = bytes(4)
    """What to seal with; zeros where the flow is opened."""


PLAIN = Seal()


def value_of(flow: Flow, session: bytes, arrives: Way, hop: int, lease_ns: int, seal: Seal = PLAIN) -> bytes:
    """A new entry, counters at zero. `arrives` is the way to the flow's source; `hop` the index of the way to where it goes."""
    return _entry_layout(flow.source.family).pack(
        {
            **_tuple(flow.source, flow.destination, "key."),
            **_tuple(flow.new_source, flow.new_destination, "leaves."),
            "record.lease_ns": lease_ns,
            "state.arrives_on": arrives.ifindex,
            "state.arrives_at": arrives.own,
            "state.hop": hop,
            "state.kind": seal.kind,
            "record.session": session,
            "record.key_be32": seal.key_id,
            "record.component": seal.component,
        }
    )


def held_of(value: bytes) -> Held:
    """An entry read back."""
    fields = (ENTRY4 if len(value) == ENTRY4.size else ENTRY6).unpack(value)
    return Held(
        *_endpoints(fields, "key."),
        *_endpoints(fields, "leaves."),
        _int(fields["state.hop"]),
        _int(fields["record.lease_ns"]),
        _counted(fields, "packets"),
        _counted(fields, "octets"),
        _octets(fields["record.session"]),
        Seal(Kind(_int(fields["state.kind"])), _int(fields["record.component"]), _octets(fields["record.key_be32"])),
    )


def leads(value: bytes, flow: Flow) -> bool:
    """Whether the entry rewrites datagrams as `flow` says."""
    layout = ENTRY4 if len(value) == ENTRY4.size else ENTRY6
    start = layout.offsets["leaves.source_be32"]
    leaves = key_of(flow.new_source, flow.new_destination)
    return value[start : start + len(leaves)] == leaves


def hop_of(way: Way) -> bytes:
    """An entry of `hops`."""
    return HOP.pack(
        {
            "to": way.neighbour,
            "from": way.own,
            "ifindex": way.ifindex if way.ready else 0,
            "mtu": way.mtu,
            "family": way.address.version,
            "address_be32": way.address.packed.ljust(16, b"\0"),
        }
    )


def place_of(value: bytes) -> Address | None:
    """The address that an entry of `hops` is the way to; None for a free place."""
    fields = HOP.unpack(value)
    family, octets = _int(fields["family"]), _octets(fields["address_be32"])
    if family not in {4, 6}:
        return None
    return IPv4Address(octets[:4]) if family == 4 else IPv6Address(octets)


def renewal_of(key: bytes, arrives: Way, hop: int, lease_ns: int) -> bytes:
    """A record for the control program; `lease_ns` 0 closes the flow."""
    return _asked(key, {"hop": hop, "lease_ns": lease_ns, "arrives_on": arrives.ifindex, "arrives_at": arrives.own})


def rekey_of(key: bytes, key_id: bytes) -> bytes:
    """A record for the control program that changes nothing but the key that the flow is sealed with."""
    return _asked(key, {"what": What.REKEY, "key_be32": key_id})


def removal_of(key: bytes) -> bytes:
    """A record for the removing program."""
    return _asked(key, {})


def renewed_of(record: bytes) -> Renewed | None:
    """The control program's answer; None when there is no such flow."""
    fields = ASKED.unpack(record[-ASKED.size :])
    return Renewed(_int(fields["packets"]), _int(fields["octets"])) if fields["found"] else None


def _asked(key: bytes, fields: dict[str, Value]) -> bytes:
    size = (RENEWAL4 if len(key) == TUPLE4.size else RENEWAL6).size
    return key.ljust(size - ASKED.size, b"\0") + ASKED.pack(fields)


def _tuple_layout(family: int) -> Layout:
    return TUPLE4 if family == 4 else TUPLE6


def _entry_layout(family: int) -> Layout:
    return ENTRY4 if family == 4 else ENTRY6


def _tuple(source: Endpoint, destination: Endpoint, prefix: str = "") -> dict[str, Value]:
    return {
        f"{prefix}source_be32": source.address.packed,
        f"{prefix}destination_be32": destination.address.packed,
        f"{prefix}source_port_be16": source.port.to_bytes(2, "big"),
        f"{prefix}destination_port_be16": destination.port.to_bytes(2, "big"),
    }


def _endpoints(fields: dict[str, Value], prefix: str) -> tuple[Endpoint, Endpoint]:
    def endpoint(side: str) -> Endpoint:
        octets = _octets(fields[f"{prefix}{side}_be32"])
        address: Address = IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)
        return Endpoint(address, int.from_bytes(_octets(fields[f"{prefix}{side}_port_be16"]), "big"))

    return endpoint("source"), endpoint("destination")


def _counted(fields: dict[str, Value], what: str) -> int:
    """Since the last renewal, over all CPUs."""
    return _int(fields[f"own.{what}"]) + _int(fields[f"record.others.{what}"]) - _int(fields[f"record.{what}_told"])


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value


def _octets(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value
