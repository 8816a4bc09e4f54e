"""Everything that the engine asks before it acts: the tables, the limits, the addresses, as one frozen value.

config/ makes a `Policy`, a reload makes another; the engine holds the one in force. Here stand the decisions, each a
function of the request and this value alone: who may ask (M16), where it leads (M19), what an answer may say (M16 in
reverse). What depends on the sessions that stand (numbers, rates) is quotas.py, on ports ports.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chainrelay import limits
from chainrelay.errors import Code, Refusal
from chainrelay.session.events import Candidate, Link, NextHop
from chainrelay.session.prefixes import NOWHERE, PortRange, Prefixes
from chainrelay.session.tables import (
    DIRECT,
    AccessTable,
    Allow,
    AnswerTable,
    Direct,
    Kind,
    PeerTable,
    Question,
    RouteTable,
)
from chainrelay.session.targets import refuse_forbidden
from chainrelay.wire.endpoint import Address, Endpoint, Target
from chainrelay.wire.messages import Open, Opened, Protocol, Way

DEFAULT_POOL = PortRange(limits.POOL_FIRST, limits.POOL_LAST)
LOWEST_ENTRY_PORT = 1024  # docs/design.md §7: a relay's entry is never a well-known service of its host


@dataclass(frozen=True, slots=True)
class Leases:
    """Seconds. `idle` 0 = a session may be silent as long as it is renewed."""

    default: int = limits.LEASE_DEFAULT
    shortest: int = limits.LEASE_SHORTEST
    longest: int = limits.LEASE_LONGEST
    idle: int = limits.IDLE_LIMIT
    absolute: int = limits.ABSOLUTE_LIMIT

    def grant(self, wanted: int, age: float) -> int:
        """The lease for a session of that age; 0 = it is too old for another."""
        granted = min(max(wanted or self.default, self.shortest), self.longest)
        return max(0, min(granted, int(self.absolute - age)))


@dataclass(frozen=True)
class Policy:
    """What the administrator decided. Addresses are the bound ones, but for the values of `announce`."""

    routes: RouteTable
    peers: PeerTable
    access: AccessTable
    answers: AnswerTable = field(default_factory=AnswerTable)
    pool: PortRange = DEFAULT_POOL
    rest: float = limits.PORT_REST
    avoid: frozenset[int] = frozenset()
    """Ports of the pool that are somebody else's (listening sockets)."""
    leases: Leases = Leases()
    sessions_per_principal: int = limits.SESSIONS_PER_PRINCIPAL
    opens_per_second: float = limits.OPENS_PER_SECOND
    announce: Mapping[Address, Address] = field(default_factory=dict)
    """Bound → announced, where a filter in front of this relay translates (M24)."""
    client_side: tuple[Address, ...] = ()
    """Own addresses toward askers, instead of the one that they reached; several widen the pool."""
    server_side: tuple[Address, ...] = ()
    """Own addresses toward next relays and servers, instead of the one that the kernel would use."""
    own: frozenset[Address] = frozenset()
    """All addresses of this host."""
    targets_allow: Prefixes = NOWHERE

    def __post_init__(self) -> None:
        own = self.own | frozenset(self.client_side) | frozenset(self.server_side) | frozenset(self.announce.values())
        object.__setattr__(self, "own", own)

    # addresses -------------------------------------------------------------

    def announced(self, endpoint: Endpoint) -> Endpoint:
        """An own endpoint as partners must address it."""
        if not self.announce:
            return endpoint
        return Endpoint(self.announce.get(endpoint.address, endpoint.address), endpoint.port)

    def client_side_addresses(self, link: Link, family: int) -> tuple[Address, ...]:
        """Own addresses for a session that was asked for on `link`. Raises Refusal where there is none of the family."""
        pinned = tuple(address for address in self.client_side if address.version == family)
        if pinned or link.local.version == family:
            return pinned or (link.local,)
        text = f"an IPv{family} session needs a control connection over IPv{family} to this relay; connect to that address"
        raise Refusal(Code.MIXED_FAMILIES, text)

    def server_side_addresses(self, candidate: Candidate) -> tuple[Address, ...]:
        """Own addresses toward a next relay or a server."""
        pinned = tuple(address for address in self.server_side if address.version == candidate.address.version)
        return pinned or (candidate.source,)

    # who may ask, and for what (M16, M19) -------------------------------------

    def admit(self, me: str, link: Link, request: Open) -> tuple[NextHop | Direct, Allow]:
        """Where the request leads, and by which row. Raises Refusal; the cheapest checks come first."""
        check_form(request)
        check_way(link, request, from_relay=self.peers.is_relay(link.principal))
        if me in request.path:
            text = f"the request has passed here before ({' > '.join((*request.path, me))}); mend the relays' routes"
            raise Refusal(Code.LOOP, text)
        self.check_principal(link, request)
        self._check_partner(link, request)
        via = self.route(me, request.server.host, request.path, request.hops_left)
        self._check_path(link, request)
        if via is DIRECT and not isinstance(request.server.host, str):
            # before it is looked up: the kernel's routes would only say that there is none
            self.check_target("the server's address", request.server.host, link.local)
        return via, self.permit(link, request, self._known_host(request.server, via), request.server.port)

    def check_principal(self, link: Link, request: Open) -> None:
        """Raises Refusal when the partner is not (any more) one that speaks for the user."""
        row = self.peers.get(link.principal)
        if row is None or not row.speaks_for(request.user):
            text = f"{link.principal} may not speak for user {request.user}; add the user to its row in this relay's peers.toml"
            raise Refusal(Code.USER_NOT_ALLOWED, text)
        if row.kind is Kind.CLIENT and request.origin != request.partner and link.through is None:
            text = f"a client's origin {request.origin} must be its own endpoint {request.partner}"
            raise Refusal(Code.NOT_PARTNERS_ADDRESS, text)

    def check_sealer(self, client: str, user: str) -> None:
        """Raises Refusal when a client may not give the data key of that user's session (M16)."""
        row = self.peers.get(client)
        if row is None or row.kind is not Kind.CLIENT or not row.speaks_for(user):
            text = f"{client} may not speak for user {user}; add the user to its row in this relay's peers.toml"
            raise Refusal(Code.USER_NOT_ALLOWED, text)

    def _check_path(self, link: Link, request: Open) -> None:
        is_relay = self.peers.is_relay(link.principal)
        if link.through is None and request.path[-1:] != ((link.principal,) if is_relay else ()):
            asks = f"{link.principal}, a {'relay' if is_relay else 'client'}, asks"
            raise Refusal(Code.UNEXPECTED, f"{asks}, but the path says that it came by {' > '.join(request.path) or 'nobody'}")

    def _check_partner(self, link: Link, request: Open) -> None:
        address = request.partner.address
        sender = link.principal if link.through is None else link.through.previous
        row = self.peers.get(sender) if link.through is None or link.through.keyed else None
        if address != link.remote and (row is None or address not in row.addresses):
            text = (
                f"endpoint {request.partner} does not lie at {link.remote}, from where {sender} is seen here: "
                f"behind a NAT name the address outside of it, or have this relay's peers.toml list {address} "
                f"under addresses of {sender}"
            )
            raise Refusal(Code.NOT_PARTNERS_ADDRESS, text)
        self.check_target("the partner's address", address, link.local)

    def route(self, me: str, host: Address | str, path: tuple[str, ...], hops_left: int) -> NextHop | Direct:
        """The way on. Raises Refusal for none, for a loop and for a way that has become too long."""
        row = self.routes.lookup(host)
        if row is None:
            raise Refusal(Code.NO_ROUTE, f"no route to {host}; add a row for it to this relay's routes.toml")
        if row.via is DIRECT:
            return row.via
        if row.via.peer == me or row.via.peer in path:
            text = f"the route to {host} leads back to {row.via.peer} (passed: {' > '.join((*path, me))}); mend routes.toml"
            raise Refusal(Code.LOOP, text)
        if hops_left <= 0 or len(path) + 1 >= limits.MAX_HOPS:
            text = f"the next relay {row.via.peer} would be one too many (passed: {' > '.join((*path, me))})"
            raise Refusal(Code.TOO_MANY_HOPS, text)
        return row.via

    def permit(self, link: Link, request: Open, host: Address | str | None, port: int) -> Allow:
        """The access row for this request with its destination as far as it is known. Raises Refusal."""
        question = Question(request.user, request.origin, request.protocol, request.components, host, port)
        found = self.access.check(question)
        if isinstance(found, str):
            text = f"user {request.user} from {request.origin}: {found}; ask the administrator for a row in access.toml"
            raise Refusal(Code.ACCESS_DENIED, text)
        if found.seal and not request.sealed:
            raise Refusal(Code.SEAL_REQUIRED, f"user {request.user} may open sealed sessions only; ask for a seal")
        if found.neighbour_key and link.through is not None and not link.through.keyed:
            text = (
                f"the access row wants the relay before this one to authenticate, and {link.through.previous} has not; "
                "give the two relays a key for each other in their peers.toml"
            )
            raise Refusal(Code.ACCESS_DENIED, text)
        return found

    @staticmethod
    def _known_host(server: Target, via: NextHop | Direct) -> Address | str | None:
        return None if via is DIRECT and isinstance(server.host, str) else server.host

    def check_target(self, what: str, address: Address, *own: Address) -> None:
        """Raises Refusal for an address that no session leads to or comes from; `own` are further ones of ours."""
        refuse_forbidden(what, address, address in own or address in self.own, self.targets_allow)

    # what an answer may say (M16 in reverse) ----------------------------------

    def check_answer(self, hop: NextHop, remote: Address, answer: Opened, request: Open, *ours: Address) -> None:
        """Raises Refusal(ANSWER_DENIED) unless entry, exit and path are such as this relay may name. `ours`: own addresses.

        `request` is what the relay was asked, so its path ends with who asked.
        """
        passed = (*request.path, hop.peer)
        if answer.path[: len(passed)] != passed or len(set(answer.path)) != len(answer.path):
            text = f"{hop.peer} says that the relays are {' > '.join(answer.path) or 'none'}; that far they are {' > '.join(passed)}"
            raise Refusal(Code.ANSWER_DENIED, text)
        self.check_ends(hop.peer, remote, answer.client_side, answer.exit, request, *ours)

    def check_ends(
        self, relay: str, remote: Address | None, entry: Endpoint, leave: Endpoint | None, request: Open, *ours: Address
    ) -> None:
        """The same with what is known: `remote` None = nobody here sees that relay, `leave` None = it did not name an exit."""
        components, ends = request.components, (entry,) if leave is None else (entry, leave)
        if {end.family for end in ends} != {request.partner.family}:
            text = f"{relay} named {' and '.join(map(str, ends))} for a session of IPv{request.partner.family}"
            raise Refusal(Code.ANSWER_DENIED, text)
        row = self.peers.get(relay)
        if remote is not None and entry.address != remote and (row is None or entry.address not in row.addresses):
            mend = f"if it is right, list it under addresses of {relay} in peers.toml"
            raise Refusal(Code.ANSWER_DENIED, f"{relay} named the entry {entry}, which is not at its address {remote}; {mend}")
        if not LOWEST_ENTRY_PORT <= entry.port <= 65536 - components:
            raise Refusal(Code.ANSWER_DENIED, f"{relay} named the entry {entry}: a relay's port is {LOWEST_ENTRY_PORT} or higher")
        try:
            self.check_target(f"{relay} named an entry that never is one:", entry.address, *ours)
            if leave is not None:
                self.check_target(f"{relay} named an exit that never is one:", leave.address, *ours)
        except Refusal as why:
            raise Refusal(Code.ANSWER_DENIED, why.text) from None
        if why_not := self.answers.check(relay, entry, leave, components):
            text = f"{relay} answered against the [[answer]] rows of access.toml: {why_not}"
            raise Refusal(Code.ANSWER_DENIED, text)


def check_way(link: Link, request: Open, *, from_relay: bool) -> None:
    """Raises Refusal unless the request came by the way that it names, and inside and outside of EXTEND say the same (M13)."""
    through = link.through
    if request.sealed and request.way is Way.RECURSIVE and request.server.port:
        raise Refusal(Code.UNEXPECTED, "a sealed session is reserved first: open it with server port 0, and BIND when it has its key")
    if through is None:
        if request.way is Way.ITERATIVE and (request.path or from_relay):
            text = "in the iterative way the first relay is asked by the client, every other one by the client inside EXTEND"
            raise Refusal(Code.UNEXPECTED, text)
        return
    if request.way is not Way.ITERATIVE:
        raise Refusal(Code.UNEXPECTED, "inside EXTEND a session is iterative; open a recursive one at the first relay")
    if (len(request.path) + 1, request.path[-1:]) != (through.hop, (through.previous,)):
        text = f"the client says it came by {' > '.join(request.path) or 'nobody'}, {through.previous} says that this is hop {through.hop}"
        raise Refusal(Code.UNEXPECTED, text)
    if request.partner != through.partner:
        text = f"the client was told that {through.previous} sends from {request.partner}, {through.previous} itself says {through.partner}"
        raise Refusal(Code.NOT_PARTNERS_ADDRESS, text)


def check_form(request: Open) -> None:
    """Raises Refusal for what no relay could carry out: a number of components or ports beyond the last one."""
    if request.components not in (1, 2):
        raise Refusal(Code.MALFORMED, f"{request.components} components; 1 and 2 exist")
    if request.components == 2 and request.protocol is not Protocol.UDP:
        raise Refusal(Code.MALFORMED, "two components are a pair of UDP ports; a TCP session has one")
    if request.sealed and request.protocol is not Protocol.UDP:
        raise Refusal(Code.MALFORMED, "sealed sessions are of UDP; TCP carries its own encryption (TLS, SSH)")
    last = 65536 - request.components
    if not 1 <= request.partner.port <= last or not 1 <= request.origin.port <= 65535 or not 0 <= request.server.port <= last:
        raise Refusal(Code.MALFORMED, "a port is out of range for the number of components")
