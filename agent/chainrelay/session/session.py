"""The record of one session at this relay. Only the engine's modules change it; what they may do stands in transitions.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from chainrelay.datapath.mapping import Counters, Mapping
from chainrelay.session.events import Link, NextHop
from chainrelay.session.tables import Allow, Direct
from chainrelay.session.transitions import State
from chainrelay.wire.endpoint import Address, Endpoint, Target
from chainrelay.wire.messages import HopCounters, Open, Protocol, Way
from chainrelay.wire.sealed import SealKeys

NOTHING = Counters()
Waiting = tuple[int, int]
"""(link, request): whom an answer goes to."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which data key: by the end-to-end connection that gave it, and its id. Links are numbered in their order."""

    link: int
    id: bytes


@dataclass(slots=True, eq=False)
class Session:
    """One session. Endpoints are the bound ones; None = not assigned or not known yet."""

    serial: int
    link: Link
    request: Open
    via: NextHop | Direct
    row: Allow
    created: float
    lease: int
    """Seconds granted last."""
    state: State = State.NEW

    client_side: Endpoint | None = None
    server_side: Endpoint | None = None
    server_partner: Endpoint | None = None
    """P4, or P6 at the last relay."""
    server_address: Address | None = None
    """At the last relay: where the server was found."""
    exit: Endpoint | None = None
    """As it is told: P5, announced."""
    path: tuple[str, ...] = ()
    """All relays of the row, as the last one said. Recursive, and at the last one."""
    offered: Endpoint | None = None
    """Iterative, before the last relay: P4 as the next relay says it. Counts when the client's BIND names the same."""
    bound: Target | None = None
    """What BIND named."""
    mtu: int = 0
    mapping: Mapping | None = None

    keys: SealKeys | None = field(default=None, repr=False)
    """At the last relay, sealed: what REKEY brought, until the kernel has it."""
    key: Key | None = None
    """The one in force."""
    next_key: Key | None = None
    """The one on its way to the kernel."""
    used_id: bytes = b""
    """Of the key before: datagrams under it may still be under way."""
    sealer: str = ""
    """The client that gave the key: nobody else may give the next one."""

    answered: bool = False
    """OPENED was sent: the session exists for its owner."""
    asked: bool = False
    """The next relay may hold the session for us."""
    installed: bool = False
    """The kernel may hold rules of it."""
    remembered: bool = False
    """The journal has a record of it."""
    row_counted: bool = False
    claimed: bool = False
    extending: int = 0
    """EXTENDs that were passed on and are not answered yet."""
    prolonging: bool = False
    """A renewal is on its way to the kernel."""
    pending: int = 0
    """While CLOSING: what has yet to come back."""

    expires: float = 0.0
    active: float = 0.0
    """When datagrams were seen last, as far as renewals tell."""
    deadline: float | None = None
    queued: float | None = None
    """The time of its entry in the heap of deadlines."""

    counters: Counters = NOTHING
    further: tuple[HopCounters, ...] = ()
    """What the next relays counted, once they said so."""
    openers: list[Waiting] = field(default_factory=list)
    binders: list[Waiting] = field(default_factory=list)
    renewers: list[Waiting] = field(default_factory=list)
    rekeyers: list[Waiting] = field(default_factory=list)
    closers: list[Waiting] = field(default_factory=list)

    @property
    def id(self) -> bytes:
        """The client's 16 octets."""
        return self.request.session

    @property
    def principal(self) -> str:
        """Whose it is, together with the user."""
        return self.link.principal

    @property
    def iterative(self) -> bool:
        """The client speaks with every relay itself (M13); none is asked on its behalf."""
        return self.request.way is Way.ITERATIVE

    @property
    def delegate(self) -> NextHop | None:
        """The next relay, if it is asked on the session's behalf (M12)."""
        return self.via if isinstance(self.via, NextHop) and not self.iterative else None

    @property
    def sealing(self) -> bool:
        """This relay opens and seals (M17): the last one of a sealed session. To those before it is one like any other."""
        return self.request.sealed and not isinstance(self.via, NextHop)

    @property
    def lacks_key(self) -> bool:
        """Reserved, and the client has not given a data key yet; or a restart has lost it."""
        return self.sealing and self.bound is None and self.keys is None

    @property
    def unconfirmed(self) -> bool:
        """The client has not completed its loop (iterative), or given a key. A session without a server port is reserved on purpose."""
        if self.lacks_key:
            return True
        return self.iterative and self.bound is None and (isinstance(self.via, NextHop) or self.request.server.port != 0)

    @property
    def target(self) -> Target:
        """The server as it was named last."""
        between = self.iterative and isinstance(self.via, NextHop)  # there BIND names the next relay's endpoint
        return self.request.server if between else self.bound or self.request.server

    @property
    def is_tcp(self) -> bool:
        """TCP lingers after its lease."""
        return self.request.protocol is Protocol.TCP


@dataclass(frozen=True, slots=True)
class PortTableRow:
    """A session as listed (M22)."""

    session: bytes
    principal: str
    user: str
    protocol: Protocol
    components: int
    state: State
    client_partner: Endpoint
    client_side: Endpoint | None
    server_side: Endpoint | None
    server_partner: Endpoint | None
    exit: Endpoint | None
    next_hop: str
    """Empty at the last relay."""
    lease_left: float
    age: float
    counters: Counters
    """Up to the last renewal or STATUS."""
