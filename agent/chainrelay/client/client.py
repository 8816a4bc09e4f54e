"""The client: M1 to M8 behind one call. Looks the server up, walks the chain, and hands out sessions.

    open      by the server's control address: OFFER brings P6, PEER takes P5 there
    open_to   P6 is known already
    reserve   P5 is needed before P6 is known: ports now, `session.bind` later

Which steps there are and in which order is here; how each works: leg.py, rendezvous.py, sockets.py, links.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chainrelay.client import direct
from chainrelay.client import sockets as p1
from chainrelay.client.control import Identity, key_of_server, to_server
from chainrelay.client.leg import Asker, DirectLeg, Leg, Rekeying, RelayedLeg
from chainrelay.client.links import Links
from chainrelay.client.recursive import Recursive
from chainrelay.client.rendezvous import Line, Rendezvous
from chainrelay.client.sealing import Sealing, check_last
from chainrelay.client.session import Session
from chainrelay.client.walk import Walk
from chainrelay.client.wishes import Wish, check_ports, is_sealed
from chainrelay.config.client import ClientConfig, load_client
from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.limits import ABSOLUTE_LIMIT, MAX_HOPS, OFFER_PORT, SESSION_ID_LENGTH, TCP_CONNECT
from chainrelay.session.policy import Policy
from chainrelay.session.tables import AccessTable, Direct, Route
from chainrelay.wire.endpoint import Address, Endpoint, Target, parse_address
from chainrelay.wire.messages import Offer, Open, Opened, Protocol, Way

CONNECT_PAUSE = 0.1  # seconds between attempts to connect a TCP session: the server's program may only be starting


@dataclass(frozen=True, slots=True)
class ServerCheck:
    """What the server's OFFER is held to (M16 on the control connection)."""

    id: str
    """The server's id when both sides authenticate; empty when they don't."""
    prefixes: Sequence[IPv4Network | IPv6Network]
    """Where P6 may lie besides the server's own address."""

    def offer(self, offer: Offer, server: Target, protocol: Protocol | None, components: int | None) -> None:
        """Raises Refusal. A server known by name only is held to what the relays' access tables say about P6."""
        if protocol not in (None, offer.protocol) or components not in (None, offer.components):
            text = f"{server} offers {offer.protocol.name.lower()} with {offer.components} component(s), which is not what was asked for"
            raise Refusal(Code.UNEXPECTED, text)
        if offer.protocol is Protocol.TCP and offer.components == 2:
            raise Refusal(Code.UNEXPECTED, f"{server} offers a pair of TCP ports; a TCP session has one port")
        address = offer.server.address
        own = isinstance(server.host, str) or address == server.host
        if not own and not any(address.version == prefix.version and address in prefix for prefix in self.prefixes):
            text = f"{server} offers the endpoint {offer.server}, which is not its own; permit its prefix if that is right"
            raise Refusal(Code.ANSWER_DENIED, text)


class Opening:
    """A session that is being opened: `await` it, or use it as `async with`."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Session]]) -> None:
        self._work = work
        self._session: Session | None = None

    def __await__(self) -> Generator[Any, None, Session]:
        return self._work().__await__()

    async def __aenter__(self) -> Session:
        self._session = await self._work()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()


class Client:
    """Sessions of one user. All of them share one connection per first relay. Close it after its sessions, or `async with`."""

    def __init__(self, config: ClientConfig | Path | str, *, way: Way | None = None, seal: bool | None = None) -> None:
        """`way`: how every chain is walked (M12, M13), `seal`: whether UDP sessions are sealed (M17); None = what the row of
        routes.toml says. Raises ConfigErrors.
        """
        self.config = config if isinstance(config, ClientConfig) else load_client(Path(config))
        # The engine's own judge of answers (M16); what a client asks for itself is for the relays to permit, so access has no rows.
        self._policy = Policy(self.config.routes, self.config.peers, AccessTable(()), self.config.answers)
        self._way, self._seal = way, seal
        self._links = Links(self.config.id, self.config.peers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the links. Sessions that are still open end with their leases."""
        await self._links.close()

    def open(
        self,
        server: str,
        *,
        protocol: Protocol | None = None,
        components: int | None = None,
        local: int | Endpoint = 0,
        sockets: bool = True,
        lease: int = 0,
        seal: bool | None = None,
        server_id: str | None = None,
        peers: Sequence[IPv4Network | IPv6Network] = (),
    ) -> Opening:
        """A session with the server whose control address is `server` (`host` or `host:port`, default port 9799).

        `protocol` and `components` must be what the server offers; None takes what it offers. `local`: P1; without `sockets` it
        belongs to another program. `lease`: seconds wanted, 0 = what client.toml says. `seal`: whether the session's datagrams are
        encrypted up to the last relay (M17); None = what `Client` or routes.toml says. `server_id`: the server's id in peers.toml,
        for both sides to authenticate (M15); None = what client.toml says, empty = without. `peers`: prefixes in which P6 may lie
        besides the server's own address.
        Raises Refusal (whose `hop` says where) when entered or awaited; nothing is left anywhere then.
        """
        known = (self.config.server or "") if server_id is None else server_id
        wish, check, target = self._wish(local, sockets, lease, seal), ServerCheck(known, peers), parse_server(server)
        check_ports(protocol or Protocol.UDP, components or 1, wish)
        return Opening(lambda: self._open(target, protocol, components, wish, check))

    def open_to(
        self,
        peer: str,
        *,
        protocol: Protocol = Protocol.UDP,
        components: int = 1,
        local: int | Endpoint = 0,
        sockets: bool = True,
        lease: int = 0,
        seal: bool | None = None,
    ) -> Opening:
        """A session with the known server endpoint `peer` (P6, `host:port`); nobody tells the server P5 but you. Raises Refusal."""
        wish = self._wish(local, sockets, lease, seal)
        target = Target.parse(peer)
        check_ports(protocol, components, wish, target.port)
        if not target.port:
            raise ValueError(f"{peer} names no port; `reserve` is for a server whose port is known later")

        async def work() -> Session:
            session = await self._establish(self._route(target.host), target, protocol, components, wish)
            try:
                await connect_stream(session)
            except BaseException:
                await session.close()
                raise
            return session

        return Opening(work)

    def reserve(
        self,
        host: str,
        *,
        components: int = 1,
        local: int | Endpoint = 0,
        sockets: bool = True,
        lease: int = 0,
        seal: bool | None = None,
    ) -> Opening:
        """A UDP session whose `exit` (P5) is known at once; datagrams flow after `session.bind("host:port")`. Raises Refusal.

        For RTSP, SIP and others that must announce a port before they learn the server's.
        """
        wish = self._wish(local, sockets, lease, seal)
        check_ports(Protocol.UDP, components, wish)
        target = Target(Target.parse(f"{_bracketed(host)}:0").host, 0)

        async def work() -> Session:
            return await self._establish(self._route(target.host), target, Protocol.UDP, components, wish)

        return Opening(work)

    # the order of things --------------------------------------------------------------

    async def _open(
        self, server: Target, protocol: Protocol | None, components: int | None, wish: Wish, check: ServerCheck
    ) -> Session:
        route = self._route(server.host)
        is_sealed(route, protocol or Protocol.UDP, wish, self.config.peers)  # before the server is asked for anything
        if check.id:
            key_of_server(self.config.peers, check.id)
        rendezvous = Rendezvous(str(server), lambda: self._dial(route, server, check.id, wish.lease))
        async with contextlib.AsyncExitStack() as undo:
            offer = await rendezvous.start()
            undo.push_async_callback(rendezvous.close)
            check.offer(offer, server, protocol, components)
            target = Target(offer.server.address, offer.server.port)
            session = await self._establish(route, target, offer.protocol, offer.components, wish)
            undo.push_async_callback(session.close)
            await session.tell_server(rendezvous)
            await connect_stream(session, starting=True)  # PEER is what makes the server start its program
            undo.pop_all()
        return session

    async def _dial(self, route: Route, server: Target, server_id: str, lease: int) -> Line:
        """A control connection to the server, through the chain as a TCP session of its own (M11)."""
        session = await self._establish(route, server, Protocol.TCP, 1, self._wish(0, True, lease, False))
        try:
            await connect_stream(session)
            reader, writer = await asyncio.open_connection(sock=session.sockets.pop())  # the stream closes it
            stream = to_server(reader, writer, Identity(self.config.id, self.config.peers) if server_id else None, server_id)
            try:
                await stream.start()
            except (ProtocolError, TimeoutError) as fault:
                stream.abort()
                why = f"{server} ended the handshake ({str(fault) or 'too slow'}): have both sides the same key, and does it use keys?"
                raise Refusal(Code.NEXT_HOP_AUTHENTICATION, why) from fault
        except BaseException:
            await session.close()
            raise
        session.on_ended = lambda _refusal: stream.abort()
        return Line(stream, session)

    def _wish(self, local: int | Endpoint, sockets: bool, lease: int, seal: bool | None) -> Wish:
        if int(lease) != lease or not 0 <= lease <= ABSOLUTE_LIMIT:
            raise ValueError(f"lease is {lease}; it must be 0 (what client.toml says) to {ABSOLUTE_LIMIT} whole seconds")
        return Wish(local, sockets, lease or self.config.lease, self._seal if seal is None else seal)

    def _route(self, host: Address | str) -> Route:
        route = self.config.routes.lookup(host)
        if route is None:
            text = f'no row of routes.toml leads to {host}; add one: to = "{host}" with via and at, or with direct = true'
            raise Refusal(Code.NO_ROUTE, text)
        return route

    async def _establish(self, route: Route, target: Target, protocol: Protocol, components: int, wish: Wish) -> Session:
        """Assign P1 and have the chain, if there is one, assign the rest (M2 to M5)."""
        sealing = Sealing() if is_sealed(route, protocol, wish, self.config.peers) else None
        if isinstance(route.via, Direct):
            found = await direct.locate(target.host)
            if isinstance(wish.local, Endpoint) and wish.local.family != found.address.version:
                text = f"P1 {wish.local} and the server at {found.address} are not of one address family"
                raise Refusal(Code.MIXED_FAMILIES, text)
            local, bound = assign(found.source, protocol, components, wish)
            entry = Endpoint(found.address, target.port)
            leg: Leg = DirectLeg(os.urandom(SESSION_ID_LENGTH), local, entry, direct.payload(found))
            return self._session(leg, bound, protocol, components, target)
        link = self._links.to(route.via)
        own, relay = await link.addresses()
        local, bound = assign(own, protocol, components, wish)
        wanted = Open(
            session=os.urandom(SESSION_ID_LENGTH),
            protocol=protocol,
            way=self._way or route.way,
            sealed=sealing is not None,
            components=components,
            partner=local,
            server=target,
            user=self.config.user,
            origin=local,
            lease=wish.lease,
            path=(),
            hops_left=MAX_HOPS,
        )

        def check(opened: Opened) -> None:
            self._policy.check_answer(link.hop, relay, opened, wanted, own)
            check_last(route.last, opened.path)

        me, first = self.config.id, link.hop.peer
        asker: Asker = link.neighbour
        rekeying: Rekeying | None = None
        if wanted.way is Way.ITERATIVE:
            asker = rekeying = Walk(me, first, link.neighbour, self._policy, relay, own, last=route.last, sealing=sealing)
        elif sealing is not None:
            asker = rekeying = Recursive(me, first, link.neighbour, self.config.peers, check, sealing)
        relayed = RelayedLeg(asker, wanted, check, rekeying=rekeying if sealing is not None else None)
        try:
            await relayed.open()
        except BaseException:
            p1.close(bound)
            raise
        link.carries(relayed)
        session = self._session(relayed, bound, protocol, components, target, sealing)
        relayed.on_moved, relayed.on_ended = session.moved, session.end
        relayed.on_trouble = session.troubled
        return session

    @staticmethod
    def _session(
        leg: Leg,
        bound: list[socket.socket],
        protocol: Protocol,
        components: int,
        target: Target,
        sealing: Sealing | None = None,
    ) -> Session:
        session = Session(leg, protocol, components, target, bound, sealing.keys if sealing is not None else None)
        if protocol is Protocol.UDP and leg.entry.port:
            p1.connect_datagrams(bound, leg.entry)
        return session


def assign(own: Address, protocol: Protocol, components: int, wish: Wish) -> tuple[Endpoint, list[socket.socket]]:
    """P1, and its sockets if the caller wants them. Raises Refusal."""
    address, port = (wish.local.address, wish.local.port) if isinstance(wish.local, Endpoint) else (own, wish.local)
    if port and not wish.sockets:
        return Endpoint(address, port), []  # another program may have bound it already
    bound = p1.bind(protocol, address, port, components)
    local = p1.local_endpoint(bound[0])
    if wish.sockets:
        return local, bound
    p1.close(bound)
    return local, []


async def connect_stream(session: Session, *, starting: bool = False) -> None:
    """Connect a TCP session's socket from P1 to P2. `starting`: try again while the server refuses. Raises Refusal."""
    if session.protocol is not Protocol.TCP or not session.sockets:
        return
    loop = asyncio.get_running_loop()
    entry = str(session.entry.address), session.entry.port
    try:
        async with asyncio.timeout(TCP_CONNECT):
            while True:
                try:
                    await loop.sock_connect(session.socket, entry)
                except ConnectionRefusedError:
                    if not starting:
                        raise
                    session.socket.close()  # the kernel lets go of its port when a connection fails: take the port by name
                    session.sockets[:] = p1.bind(Protocol.TCP, session.local.address, session.local.port, 1)
                    await asyncio.sleep(CONNECT_PAUSE)
                else:
                    return
    except TimeoutError as late:
        text = f"no TCP connection to {session.peer} within {TCP_CONNECT:g} s; does its program listen there?"
        raise Refusal(Code.NEXT_HOP_TIMEOUT, text) from late
    except OSError as fault:
        text = f"no TCP connection to {session.peer}: {os.strerror(fault.errno or 0)}; is its program running?"
        raise Refusal(Code.NEXT_HOP_UNREACHABLE, text) from fault


def parse_server(text: str) -> Target:
    """`host` or `host:port`, IPv6 in brackets when a port follows. Raises ValueError."""
    with contextlib.suppress(ValueError):
        found = Target.parse(f"{_bracketed(text)}:{OFFER_PORT}" if _is_address(text) or ":" not in text else text)
        if found.port:
            return found
    form = "host or host:port, IPv6 as [address]:port" if text.isascii() else "the name's ASCII form, which begins with xn--"
    raise ValueError(f"{text!r} is not a server: write {form}")


def _is_address(text: str) -> bool:
    try:
        parse_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
