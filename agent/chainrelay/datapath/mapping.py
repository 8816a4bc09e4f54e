"""What the kernel is told about one session at one relay, and the operations on it. Values only.

Every backend gets the same `Mapping` and the same operations; an operation carries the whole mapping, so the side that
holds privilege keeps no state of its own, and the key that adds an element is the key that removes it (`Flow`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import SealKeys


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of one component: the tuple as it arrives and as it leaves. Both are exact, ports and addresses."""

    protocol: Protocol
    source: Endpoint
    destination: Endpoint
    new_source: Endpoint
    new_destination: Endpoint


@dataclass(frozen=True, slots=True)
class Mapping:
    """A session's rewriting at this relay (M8): P1, P2, P3 and P4 at relay 1; P3, P4, P5 and P6 at relay 2 of 2.

    All four endpoints are of one family; they are the bound ones (what packets carry), not the announced ones.
    """

    session: bytes
    protocol: Protocol
    components: int
    client_partner: Endpoint
    client_side: Endpoint
    server_side: Endpoint
    server_partner: Endpoint
    sealed: bool = field(default=False, kw_only=True)
    """The last relay of a sealed session: it opens datagrams toward the server and seals them toward the client (M17). No rules."""

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.client_side.family

    def flows(self) -> tuple[tuple[Flow, Flow], ...]:
        """Per component (to the server, to the client)."""
        return tuple(self._pair(offset) for offset in range(self.components))

    def _pair(self, offset: int) -> tuple[Flow, Flow]:
        client, entry = self.client_partner.next(offset), self.client_side.next(offset)
        leave, server = self.server_side.next(offset), self.server_partner.next(offset)
        return (
            Flow(self.protocol, client, entry, leave, server),
            Flow(self.protocol, server, leave, entry, client),
        )


@dataclass(frozen=True, slots=True)
class Counters:
    """Packets and bytes (IP length) that the kernel admitted for a session, by direction, components together."""

    to_server_packets: int = 0
    to_server_bytes: int = 0
    to_client_packets: int = 0
    to_client_bytes: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            self.to_server_packets + other.to_server_packets,
            self.to_server_bytes + other.to_server_bytes,
            self.to_client_packets + other.to_client_packets,
            self.to_client_bytes + other.to_client_bytes,
        )


@dataclass(frozen=True, slots=True)
class Install:
    """Create the rules; they end by themselves after `lease` seconds. Installing the same mapping twice is no error.

    A sealed mapping comes with its keys.
    """

    mapping: Mapping
    lease: float
    seal: SealKeys | None = None


@dataclass(frozen=True, slots=True)
class Renew:
    """Let the lease end `lease` seconds from now. A mapping that has gone meanwhile is put back whole."""

    mapping: Mapping
    lease: float


@dataclass(frozen=True, slots=True)
class Rekey:
    """Seal by these keys from now on, open by them and, for SEAL_OVERLAP seconds, by those before. The same keys twice are no error,
    and never restart their counters. Fails as `keyless` when the mapping is not there."""

    mapping: Mapping
    seal: SealKeys


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete rules and conntrack entries. Removing what is not there is no error.

    `linger` keeps conntrack's memory of a TCP session for the caller to remove later, so that the gate answers its
    next segment with a reset (a lease that ended under a live connection).
    """

    mapping: Mapping
    linger: bool = False


Operation = Install | Renew | Rekey | Remove
Plain = Install | Renew | Remove
"""What there is to do for mappings that are not sealed."""


@dataclass(frozen=True, slots=True)
class Done:
    """The operation holds in the kernel. `counters`: what was counted since the previous Renew (Renew, Remove); zero for Install."""

    counters: Counters


@dataclass(frozen=True, slots=True)
class Failed:
    """The operation did not happen and left nothing. `full`: for want of room. `keyless`: the kernel has lost a sealed mapping's keys."""

    why: str
    full: bool = False
    keyless: bool = False


Outcome = Done | Failed


@dataclass(frozen=True, slots=True)
class LiveFlow:
    """What the kernel holds, as listed: one direction, its lease in seconds and its counters."""

    protocol: Protocol
    source: Endpoint
    destination: Endpoint
    expires: float
    packets: int
    octets: int
    sealed: bool = field(default=False, kw_only=True)
    """Of a sealed mapping: the fast path alone holds it."""
