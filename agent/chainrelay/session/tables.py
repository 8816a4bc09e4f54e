"""The tables that an administrator writes (M19–M21, M16 for answers), as frozen values with fast look-ups.

config/ makes them from routes.toml, peers.toml and access.toml; policy.py asks them. The port table (M22) is state, not
configuration: `Engine.sessions()`. A table tells what its rows say and why none matched; which wire code follows is
policy.py's business.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum

from chainrelay.session.events import NextHop
from chainrelay.session.prefixes import ANY_PORT, ANYWHERE, NOWHERE, PortRange, Prefix, Prefixes, PrefixMap
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.keys import PairKey
from chainrelay.wire.messages import Protocol, Way

EVERYBODY = "*"


# routes (M19) ----------------------------------------------------------------


class Direct(Enum):
    """No relay further on: this one is the last (at a client: no relay is needed)."""

    DIRECT = "direct"


DIRECT = Direct.DIRECT


@dataclass(frozen=True, slots=True)
class Route:
    """`to`: a prefix, a name suffix (`.example.org`: every name below it), a name, or `*`.

    `way`, `last` and `seal` count at the client only.
    """

    to: Prefix | str
    via: NextHop | Direct
    way: Way = Way.RECURSIVE
    last: str = ""
    """The relay that must be the last one; empty: whoever is."""
    seal: bool = False


@dataclass(frozen=True)
class RouteTable:
    """The longest prefix, or the longest name suffix, wins; `*` takes what is left; of two equal rows the first."""

    rows: tuple[Route, ...]

    def __post_init__(self) -> None:
        names: dict[str, Route] = {}
        for row in self.rows:
            if isinstance(row.to, str):
                names.setdefault(row.to.lower(), row)
        prefixes = PrefixMap((row.to, row) for row in self.rows if not isinstance(row.to, str))
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "_prefixes", prefixes)

    def lookup(self, host: Address | str) -> Route | None:
        """The row for an address or a name (lower case, without the final dot), or None."""
        names: dict[str, Route] = self.__dict__["_names"]
        if not isinstance(host, str):
            prefixes: PrefixMap[Route] = self.__dict__["_prefixes"]
            return next(prefixes.matches(host), names.get("*"))
        for form in (*name_forms(host), "*"):
            if (row := names.get(form)) is not None:
                return row
        return None


def name_forms(name: str) -> tuple[str, ...]:
    """What a row may say to match `name`, the longest first: a.b.c → a.b.c, .b.c, .c."""
    labels = name.split(".")
    return (name, *("." + ".".join(labels[index:]) for index in range(1, len(labels))))


# peers (M20) -----------------------------------------------------------------


class Kind(Enum):
    """What a partner is; decides the purpose that its handshake must have (docs/design.md §4)."""

    CLIENT = "client"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A partner. Several `keys` while they are rotated, the first one is used to ask; `users` it may speak for, `*` for all."""

    id: str
    kind: Kind
    keys: tuple[PairKey, ...]
    users: frozenset[str] = frozenset()
    addresses: Prefixes = NOWHERE
    """Where its endpoints may lie beyond the address of its connection."""

    def speaks_for(self, user: str) -> bool:
        """Whether its word for `user` counts."""
        return user in self.users or EVERYBODY in self.users


@dataclass(frozen=True)
class PeerTable:
    """Partners by id; ids are unique (config/ sees to it)."""

    rows: tuple[PeerRow, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {row.id: row for row in self.rows})

    def get(self, peer: str) -> PeerRow | None:
        """The row of a partner."""
        by_id: dict[str, PeerRow] = self.__dict__["_by_id"]
        return by_id.get(peer)

    def ids(self) -> frozenset[str]:
        """Everybody in the table."""
        return frozenset(row.id for row in self.rows)

    def is_relay(self, peer: str) -> bool:
        """Whether the partner is known as a relay."""
        row = self.get(peer)
        return row is not None and row.kind is Kind.RELAY

    def find_key(self, peer: str, kid: str) -> PairKey | None:
        """The key that partner `peer` names `kid`."""
        row = self.get(peer)
        return next((key for key in row.keys if key.kid == kid), None) if row else None

    def current_key(self, peer: str) -> PairKey | None:
        """The key to start a handshake with: the first one of its row."""
        row = self.get(peer)
        return row.keys[0] if row and row.keys else None


# access (M16, M21) -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the access table."""

    user: str
    origin: Endpoint
    protocol: Protocol
    components: int
    host: Address | str | None
    """The destination: an address, or a name that another relay will resolve, or None while this relay resolves it."""
    port: int
    """Of the destination; 0 while it is open (*reserve*)."""


@dataclass(frozen=True, slots=True)
class Allow:
    """An `[[allow]]` row. `sessions` and `opens_per_second` count per user of the row; 0: no limit of its own."""

    user: str
    source: Prefixes = ANYWHERE
    source_ports: PortRange = ANY_PORT
    destination: Prefixes = ANYWHERE
    destination_names: frozenset[str] = frozenset()
    """Names (`host.example.org`, `.example.org`) that may pass here unresolved, at a relay before the last (M19)."""
    destination_ports: PortRange = ANY_PORT
    protocols: frozenset[Protocol] = frozenset(Protocol)
    sessions: int = 0
    opens_per_second: float = 0.0
    seal: bool = False
    neighbour_key: bool = False
    """Iterative: the relay before this one must have authenticated itself as well."""

    def mismatch(self, question: Question) -> tuple[int, str]:
        """How far the question got (the more the closer) and what stopped it; `""` when the row permits it."""
        origin, host, port = question.origin, question.host, question.port
        if origin.address not in self.source:
            return 1, f"source {origin.address} is not in {self.source}"
        if not self.source_ports.holds(origin.port, question.components):
            return 2, f"source port {origin.port} is not in {self.source_ports}"
        if question.protocol not in self.protocols:
            return 3, f"protocol {question.protocol.name.lower()} is not in its row"
        if isinstance(host, str):
            if self.destination != ANYWHERE and self.destination_names.isdisjoint(name_forms(host)):
                return 4, f"the name {host} is not among the destinations (prefixes don't cover a name before it is resolved)"
        elif host is not None and host not in self.destination:
            return 4, f"destination {host} is not in {self.destination}"
        if port and not self.destination_ports.holds(port, question.components):
            return 5, f"destination port {port} is not in {self.destination_ports}"
        return 6, ""


@dataclass(frozen=True)
class AccessTable:
    """Default deny; the first row that matches permits."""

    rows: tuple[Allow, ...]

    def __post_init__(self) -> None:
        by_user: dict[str, list[tuple[int, Allow]]] = defaultdict(list)
        for place, row in enumerate(self.rows):
            by_user[row.user].append((place, row))
        everybody = by_user.pop(EVERYBODY, [])
        merged = {user: sorted(rows + everybody, key=lambda item: item[0]) for user, rows in by_user.items()}
        merged[EVERYBODY] = everybody
        object.__setattr__(self, "_by_user", {user: tuple(row for _, row in rows) for user, rows in merged.items()})

    def check(self, question: Question) -> Allow | str:
        """The row that permits, or why none does, told of the row that came closest."""
        by_user: dict[str, tuple[Allow, ...]] = self.__dict__["_by_user"]
        closest = 0, f"no row for user {question.user}"
        for row in by_user.get(question.user) or by_user[EVERYBODY]:
            found = row.mismatch(question)
            if not found[1]:
                return row
            closest = max(closest, found)
        return closest[1]


# answers (M16, reverse) ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """An `[[answer]]` row: what `relay` may name as its entry and as the exit."""

    relay: str
    entry: Prefixes = ANYWHERE
    entry_ports: PortRange = ANY_PORT
    exit: Prefixes = ANYWHERE
    exit_ports: PortRange = ANY_PORT


@dataclass(frozen=True)
class AnswerTable:
    """Rows for relays whose answers are held to more than the rules of policy.py; one of a relay's rows must match."""

    rows: tuple[AnswerRow, ...] = ()

    def check(self, relay: str, entry: Endpoint, leave: Endpoint | None, components: int) -> str:
        """Why no row of `relay` permits this answer, `""` when one does or there is no row for it."""
        why = ""
        for row in self.rows:
            if row.relay != relay:
                continue
            if entry.address not in row.entry or not row.entry_ports.holds(entry.port, components):
                why = f"entry {entry} is not in {row.entry} ports {row.entry_ports}"
            elif leave is not None and (leave.address not in row.exit or not row.exit_ports.holds(leave.port, components)):
                why = f"exit {leave} is not in {row.exit} ports {row.exit_ports}"
            else:
                return ""
        return why
