"""A datapath in memory that really translates packets: for tests of programs that build on chainrelay, and of our own.

    now = 0.0
    relay = FakeBackend(clock=lambda: now)
    relay.apply([Install(mapping, lease=30)])
    relay.pass_packet(Packet(Protocol.UDP, mapping.client_partner, mapping.client_side, b"hello"))

It keeps what the kernel keeps (leases, translations, known connections) and the gate's order of decisions; tests/conformance
runs the same scenarios against it and against the real kernel. No sockets, no time of its own. Fragments, ICMP and
whatever else is particular to a kernel are not modelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from chainrelay import limits
from chainrelay.datapath.mapping import (
    Counters,
    Done,
    Failed,
    Flow,
    Install,
    LiveFlow,
    Mapping,
    Operation,
    Outcome,
    Plain,
    Remove,
    Renew,
)
from chainrelay.datapath.nft import Tuple
from chainrelay.datapath.unsealed import apart
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

_TCP_BEYOND_UDP: Final = 12  # bytes by which a TCP header without options is longer


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet on a wire beside the relay. `reset` is TCP's."""

    protocol: Protocol
    source: Endpoint
    destination: Endpoint
    payload: bytes = b""
    reset: bool = False

    @property
    def octets(self) -> int:
        """IP length without options."""
        longer = _TCP_BEYOND_UDP if self.protocol is Protocol.TCP else 0
        return limits.IP_UDP_HEADERS[self.source.family] + longer + len(self.payload)


class Drop(Enum):
    """Why a packet went no further."""

    STRANGER = "no session, at a port of the pool"
    LEASE_ENDED = "the session's lease has ended"
    NOT_OURS = "not for a port of the pool: the rest of the host decides"


@dataclass(slots=True)
class _Lease:
    ends: float
    packets: int = 0
    octets: int = 0


class FakeBackend:
    """`Backend` in memory. `capacity`: sessions that fit in; more are refused as full."""

    def __init__(
        self,
        pool: Sequence[tuple[int, int]] = ((limits.POOL_FIRST, limits.POOL_LAST),),
        clock: Callable[[], float] = time.monotonic,
        capacity: int | None = None,
    ) -> None:
        self._pool, self._clock, self._capacity = tuple(pool), clock, capacity
        self._live: dict[Tuple, _Lease] = {}
        self._to_destination: dict[Tuple, Endpoint] = {}
        self._to_source: dict[Tuple, Endpoint] = {}
        self._connections: dict[Tuple, Packet] = {}
        """What arrives → an empty packet with the addresses that it leaves with. Both directions, as conntrack."""
        self._flows: dict[Flow, None] = {}

    def setup(self) -> None:
        """Forget what ended sessions left; live ones stay."""
        for flow in [each for each in self._flows if not self._lease(_arriving(each))]:
            self._delete(flow)
            self._connections.pop(_arriving(flow), None)

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Carry out the operations one after the other."""
        return apart(operations, lambda plain: [self._apply(operation) for operation in plain])

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """What was counted since the last Renew."""
        return [self._counted(mapping) for mapping in mappings]

    def flows(self) -> list[LiveFlow]:
        """Everything alive."""
        now = self._clock()
        return [
            LiveFlow(key.protocol, key.source, key.destination, lease.ends - now, lease.packets, lease.octets)
            for key, lease in self._live.items()
            if lease.ends > now
        ]

    def intact(self) -> bool:
        """Nobody else gets at this memory."""
        return True

    def seals(self) -> bool:
        """Not yet."""
        return False

    def flush_own(self) -> None:
        """Forget everything."""
        for kept in (self._live, self._to_destination, self._to_source, self._connections, self._flows):
            kept.clear()

    def close(self) -> None:
        """Nothing to release."""

    def known_connections(self) -> int:
        """How many connections are remembered, as conntrack would list them."""
        return len(self._connections) // 2

    def pass_packet(self, packet: Packet) -> Packet | Drop:
        """What comes out of the relay when `packet` arrives: the packet rewritten, a TCP reset to its sender, or nothing."""
        key = Tuple(packet.protocol, packet.source, packet.destination)
        lease = self._lease(key)
        if lease is not None:
            lease.packets += 1
            lease.octets += packet.octets
            if key not in self._connections:
                self._connect(key)
            leaves = self._connections[key]
            return Packet(packet.protocol, leaves.source, leaves.destination, packet.payload, packet.reset)
        if key in self._connections:
            if packet.protocol is Protocol.TCP and not packet.reset:
                return Packet(Protocol.TCP, packet.destination, packet.source, reset=True)
            return Drop.LEASE_ENDED
        in_pool = any(first <= packet.destination.port <= last for first, last in self._pool)
        return Drop.STRANGER if in_pool else Drop.NOT_OURS

    def _apply(self, operation: Plain) -> Outcome:
        mapping = operation.mapping
        flows = [flow for pair in mapping.flows() for flow in pair]
        held = any(
            self._to_destination.get(_arriving(flow), flow.new_destination) != flow.new_destination
            or self._to_source.get(_translated(flow), flow.new_source) != flow.new_source
            for flow in flows
        )
        counted = Counters() if held else self._counted(mapping)
        match operation:
            case Install() | Renew() if held:
                partners = f"{mapping.client_partner} and {mapping.server_partner}"
                return Failed(f"another session already relays from or to one of {partners} by the same ports")
            case Install(lease=lease) | Renew(lease=lease):
                if self._full(flows):
                    return Failed(f"no room for more than {self._capacity} sessions", full=True)
                keep = isinstance(operation, Install)
                for flow in flows:
                    self._write(flow, lease, keep_counts=keep)
                return Done(Counters() if keep else counted)
            case Remove(linger=linger):
                for flow in () if held else flows:
                    self._delete(flow)
                    if not linger:
                        self._connections.pop(_arriving(flow), None)
                return Done(counted)
            case _:
                assert_never(operation)

    def _write(self, flow: Flow, lease: float, *, keep_counts: bool) -> None:
        key, ends = _arriving(flow), self._clock() + lease
        before = self._lease(key) if keep_counts else None
        self._live[key] = _Lease(ends, before.packets, before.octets) if before else _Lease(ends)
        self._to_destination[key] = flow.new_destination
        self._to_source[_translated(flow)] = flow.new_source
        self._flows[flow] = None

    def _delete(self, flow: Flow) -> None:
        self._live.pop(_arriving(flow), None)
        self._to_destination.pop(_arriving(flow), None)
        self._to_source.pop(_translated(flow), None)
        self._flows.pop(flow, None)

    def _connect(self, key: Tuple) -> None:
        new_destination = self._to_destination[key]
        new_source = self._to_source[Tuple(key.protocol, key.source, new_destination)]
        self._connections[key] = Packet(key.protocol, new_source, new_destination)
        back = Tuple(key.protocol, new_destination, new_source)
        self._connections[back] = Packet(key.protocol, key.destination, key.source)

    def _lease(self, key: Tuple) -> _Lease | None:
        lease = self._live.get(key)
        return lease if lease is not None and lease.ends > self._clock() else None

    def _counted(self, mapping: Mapping) -> Counters:
        total = Counters()
        for pair in mapping.flows():
            to_server, to_client = (self._lease(_arriving(flow)) or _Lease(0) for flow in pair)
            total += Counters(to_server.packets, to_server.octets, to_client.packets, to_client.octets)
        return total

    def _full(self, flows: Sequence[Flow]) -> bool:
        if self._capacity is None or all(flow in self._flows for flow in flows):
            return False
        return len(self._flows) + len(flows) > 2 * self._capacity


def _arriving(flow: Flow) -> Tuple:
    return Tuple(flow.protocol, flow.source, flow.destination)


def _translated(flow: Flow) -> Tuple:
    return Tuple(flow.protocol, flow.source, flow.new_destination)
