"""The messages after authentication, as values. How they become octets: codec.py; normative text: docs/protocol.md.

A request and its answer share a request number that is the connection's, not the session's (M6). The session id is the
client's 16 random bytes, the same at every hop and in every log. Nothing here reads bytes, checks policy or knows a
socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from chainrelay.errors import Code
from chainrelay.wire.endpoint import Endpoint, Target


class Protocol(IntEnum):
    """IANA protocol numbers; nothing else is relayed."""

    TCP = 6
    UDP = 17


class Way(IntEnum):
    """How the chain is walked (M12, M13)."""

    RECURSIVE = 1
    ITERATIVE = 2


@dataclass(frozen=True, slots=True)
class Open:
    """Ask a relay for a session. Idempotent: the same id from the same principal is answered the same (M3, M4)."""

    session: bytes
    protocol: Protocol
    way: Way
    sealed: bool
    components: int
    """1, or 2 for an even port and the next one (RTP and RTCP)."""
    partner: Endpoint
    """Where the asking side sends from: P1 of the client, P3 of a relay."""
    server: Target
    """P6; a port of 0 reserves ports and forwards nothing until BIND."""
    user: str
    origin: Endpoint
    """The client's own address and P1, as the authenticated partner states them (M16)."""
    lease: int
    """Seconds wanted; 0 = the relay's default."""
    path: tuple[str, ...]
    """Ids of the relays passed so far; a relay that finds itself here refuses with LOOP."""
    hops_left: int


@dataclass(frozen=True, slots=True)
class Opened:
    """Answer to OPEN (M5)."""

    session: bytes
    client_side: Endpoint
    """The answering relay's endpoint toward the asker: P2 for the client, P4 for relay 1."""
    exit: Endpoint
    """P5, unchanged from the last relay to the client."""
    lease: int
    """Seconds granted."""
    mtu: int
    """Largest datagram payload in bytes that every hop carries."""
    complete: bool
    """Whether the answering relay was the last one, or got its answer from it (always true in the recursive way)."""
    path: tuple[str, ...]
    """Ids of all relays, the first one first, as the last one saw them: whom a sealed session's client may ask for a key.
    A claim, until the end-to-end handshake has proved it."""


@dataclass(frozen=True, slots=True)
class Bind:
    """Name what stands on the server side: P6 of a reserved session; in the iterative way, at a relay before the last, the P4
    that the client has heard from the next relay itself."""

    session: bytes
    server: Target


@dataclass(frozen=True, slots=True)
class Bound:
    """Answer to BIND: the rules exist now at every hop."""

    session: bytes
    mtu: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Prolong the lease at every hop."""

    session: bytes
    lease: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """Answer to RENEW: the smallest lease that any hop granted, in seconds from now."""

    session: bytes
    lease: int


@dataclass(frozen=True, slots=True)
class Close:
    """End a session at every hop."""

    session: bytes


@dataclass(frozen=True, slots=True)
class HopCounters:
    """What one relay's kernel counted for one session, both components together (M22)."""

    hop: str
    to_server_packets: int
    to_server_bytes: int
    to_client_packets: int
    to_client_bytes: int


@dataclass(frozen=True, slots=True)
class Closed:
    """Answer to CLOSE: counters, nearest relay first. A hop that could not be reached is missing from the list."""

    session: bytes
    counters: tuple[HopCounters, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Ask for a session's counters without touching its lease."""

    session: bytes


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Answer to STATUS."""

    session: bytes
    lease: int
    """Seconds left at the hop where least is left."""
    counters: tuple[HopCounters, ...]


@dataclass(frozen=True, slots=True)
class Error:
    """A refusal, with the hop where it arose (its id), passed on unchanged by the relays before it."""

    code: Code
    hop: str
    text: str


# The iterative way (M13): the client asks each relay for itself, through those before it (docs/design.md §13).


@dataclass(frozen=True, slots=True)
class Extend:
    """Octets of the end-to-end connection between the client and `relay`, for the relay before it to pass on unchanged.

    All but `octets` is the outer part: what the relay before says to the next one, who holds it against the inner one.
    """

    session: bytes
    hop: int
    """The place of `relay` in the row; 1 is relay 1 itself, asked on the client's own connection (sealed sessions alone)."""
    previous: str
    """The relay before it, empty at hop 1. Without a key between the two it is a claim and no more."""
    relay: str
    connection: int
    """Which end-to-end connection for this session; another number begins another one."""
    partner: Endpoint
    """P3: where the relay before sends from (P1 at hop 1). In the recursive way every relay puts its own here."""
    octets: bytes


@dataclass(frozen=True, slots=True)
class Extended:
    """Answer to EXTEND: octets for the client, and for the relay before (alone) where its traffic is to go."""

    session: bytes
    client_side: Endpoint | None
    """P4, as soon as it is assigned. The relay before believes it when the client has confirmed it, not earlier."""
    octets: bytes


@dataclass(frozen=True, slots=True)
class Assigned:
    """Answer to OPEN in the iterative way: ports are assigned at this relay; nothing is forwarded before BIND."""

    session: bytes
    partner: Endpoint
    """As this relay was told: P1 at relay 1, P3 further on."""
    client_side: Endpoint
    """P2 or P4."""
    server_side: Endpoint
    """P3 at a relay before the last, P5 at the last."""
    next: str
    """The next relay's id; empty: the chain is complete."""
    lease: int
    """Seconds granted."""
    mtu: int
    """Largest datagram payload in bytes between this relay and whoever comes next."""


# Sealed sessions (M17): asked of the last relay alone, on an end-to-end connection, in either way.


@dataclass(frozen=True, slots=True)
class Rekey:
    """Seal the session's datagrams under the data keys of this end-to-end connection from now on. The same again is the same key."""

    session: bytes
    key_id: bytes
    """4 octets, the client's choice (wire/sealed.py); of component 0."""


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """Answer to REKEY. The endpoints are the relay's own word on them: the client compares, and gives up on a difference."""

    session: bytes
    key_id: bytes
    partner: Endpoint
    """P3 (P1 at the only relay), as this relay was told."""
    client_side: Endpoint
    """P4 (P2)."""
    server_side: Endpoint
    """P5."""


Request = Open | Bind | Renew | Close | Status | Extend | Rekey
Answer = Opened | Bound | Renewed | Closed | StatusReport | Error | Extended | Assigned | Rekeyed
Message = Request | Answer


# The client–server control connection (M1, M7) speaks two messages of its own, in the same frames and records.


@dataclass(frozen=True, slots=True)
class Offer:
    """The server's half: here is my endpoint P6."""

    protocol: Protocol
    components: int
    server: Endpoint


@dataclass(frozen=True, slots=True)
class Peer:
    """The client's half: this is the exit endpoint P5 that you will see and answer to."""

    session: bytes
    exit: Endpoint


@dataclass(frozen=True, slots=True)
class Done:
    """Either half: nothing more will be sent."""


ControlMessage = Offer | Peer | Done
