"""A datapath in memory that really translates packets: for tests of programs that build on chainrelay, and of our own.

    now = 0.0
    relay = FakeBackend(clock=lambda: now)
    relay.apply([Install(mapping, lease=30)])
    relay.pass_packet(Packet(Protocol.UDP, mapping.client_partner, mapping.client_side, b"hello"))

It keeps what the kernel keeps (leases, translations, known connections) and the gate's order of decisions; tests/conformance
runs the same scenarios against it and against the real kernel. With `seals=True` it opens and seals as the fast path does. No
sockets, no time of its own. Fragments, ICMP, sizes and whatever else is particular to a kernel are not modelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    Rekey,
    Remove,
    Renew,
)
from chainrelay.datapath.nft import Tuple
from chainrelay.datapath.unsealed import apart, is_plain
from chainrelay.errors import ProtocolError
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import Opener, Sealer, SealKeys

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
    NOT_OPENED = "a sealed session's, and not under its keys, or for the second time"
    NOT_SEALED = "for a sealed session whose key is used up"


@dataclass(slots=True)
class _Lease:
    ends: float
    packets: int = 0
    octets: int = 0


class _Epoch:
    """One set of data keys at work."""

    def __init__(self, keys: SealKeys) -> None:
        self.keys = keys
        self.opener = Opener(keys.key_id, keys.open_key, keys.open_iv)
        self.sealer = Sealer(keys.key_id, keys.seal_key, keys.seal_iv)


class _Seal:
    """A sealed mapping's keys: the one in force, and until a time the one before."""

    def __init__(self, keys: SealKeys) -> None:
        self.now = _Epoch(keys)
        self.before: _Epoch | None = None
        self.until = 0.0

    def rekey(self, keys: SealKeys, until: float) -> None:
        """The same keys again change nothing: their counters go on."""
        if keys not in (self.now.keys, self.before.keys if self.before is not None else None):
            self.before, self.now, self.until = self.now, _Epoch(keys), until

    def open(self, datagram: bytes, component: int, now: float) -> bytes | None:
        """The text."""
        for epoch in (self.now, self.before if now < self.until else None):
            if epoch is not None:
                with suppress(ValueError):
                    return epoch.opener.open(datagram, component)
        return None


class FakeBackend:
    """`Backend` in memory. `capacity`: sessions that fit in; more are refused as full. `seals`: sealed mappings as well."""

    def __init__(
        self,
        pool: Sequence[tuple[int, int]] = ((limits.POOL_FIRST, limits.POOL_LAST),),
        clock: Callable[[], float] = time.monotonic,
        capacity: int | None = None,
        *,
        seals: bool = False,
    ) -> None:
        self._can_seal = seals
        self._seals: dict[bytes, _Seal] = {}
        """By session."""
        self._sealed: dict[Tuple, tuple[bytes, int, bool]] = {}
        """What arrives → session, component, and whether it is to be opened."""
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
        left = {session for session, _, _ in self._sealed.values()}
        self._seals = {session: seal for session, seal in self._seals.items() if session in left}

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Carry out the operations one after the other."""
        if self._can_seal:
            return [self._apply(each) if is_plain(each) else self._apply_sealed(each) for each in operations]
        return apart(operations, lambda plain: [self._apply(operation) for operation in plain])

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """What was counted since the last Renew."""
        return [self._counted(mapping) for mapping in mappings]

    def flows(self) -> list[LiveFlow]:
        """Everything alive."""
        now = self._clock()
        return [
            LiveFlow(
                key.protocol, key.source, key.destination, lease.ends - now, lease.packets, lease.octets, sealed=key in self._sealed
            )
            for key, lease in self._live.items()
            if lease.ends > now
        ]

    def intact(self) -> bool:
        """Nobody else gets at this memory."""
        return True

    def seals(self) -> bool:
        """As it was made."""
        return self._can_seal

    def flush_own(self) -> None:
        """Forget everything."""
        for kept in (self._live, self._to_destination, self._to_source, self._connections, self._flows, self._seals, self._sealed):
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
        if lease is not None and key in self._sealed:
            return self._through_seal(packet, key, lease)
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

    def _apply_sealed(self, operation: Operation) -> Outcome:
        """As in maps that hold tuples and keys in one entry: what has no keys is not there."""
        mapping = operation.mapping
        seal = self._seals.get(mapping.session)
        match operation:
            case Rekey() | Renew() if seal is None:
                return Failed("the sealed session is not here", keyless=True)
            case Rekey(seal=keys):
                assert seal is not None
                seal.rekey(keys, self._clock() + limits.SEAL_OVERLAP)
                return Done(Counters())
            case Install(seal=None):
                return Failed("a sealed session without its keys")
            case Install(lease=lease, seal=SealKeys() as keys):
                outcome = self._apply(Install(mapping, lease))
                if isinstance(outcome, Done):
                    self._seals.setdefault(mapping.session, _Seal(keys)).rekey(keys, self._clock() + limits.SEAL_OVERLAP)
                    for component, pair in enumerate(mapping.flows()):
                        for flow, opens in zip(pair, (True, False), strict=True):
                            self._sealed[_arriving(flow)] = mapping.session, component, opens
                return outcome
            case Renew():
                return self._apply(operation)
            case Remove():
                self._seals.pop(mapping.session, None)
                return self._apply(operation)
            case _:
                raise AssertionError(operation)

    def _through_seal(self, packet: Packet, key: Tuple, lease: _Lease) -> Packet | Drop:
        session, component, opens = self._sealed[key]
        seal = self._seals[session]
        payload: bytes | None
        if opens:
            payload = seal.open(packet.payload, component, self._clock())
            if payload is None:
                return Drop.NOT_OPENED
        else:
            try:
                payload = seal.now.sealer.seal(packet.payload, component)
            except ProtocolError:
                return Drop.NOT_SEALED
        lease.packets += 1
        lease.octets += packet.octets
        new_destination = self._to_destination[key]
        return Packet(key.protocol, self._to_source[Tuple(key.protocol, key.source, new_destination)], new_destination, payload)

    def _write(self, flow: Flow, lease: float, *, keep_counts: bool) -> None:
        key, ends = _arriving(flow), self._clock() + lease
        before = self._lease(key) if keep_counts else None
        self._live[key] = _Lease(ends, before.packets, before.octets) if before else _Lease(ends)
        self._to_destination[key] = flow.new_destination
        self._to_source[_translated(flow)] = flow.new_source
        self._flows[flow] = None

    def _delete(self, flow: Flow) -> None:
        self._live.pop(_arriving(flow), None)
        self._sealed.pop(_arriving(flow), None)
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
