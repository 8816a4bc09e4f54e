"""The server's half (M1, M7): announce P6, learn each client's P5, and hand it to the server's own code for as long as the client stays.

    async def serve_one(visitor: Visitor) -> None:
        ...                                # send to visitor.peer from visitor.server; cancelled when the client leaves

    async with Offering(Endpoint.parse("10.3.0.2:9799"), serve_one, ports=[5004, 5006]) as offering:
        await offering.forever()

What arrives here comes from strangers: frames up to 4 KiB, a time for everything, and (M16) nobody makes this server send to a
third party: P5 must lie where the control connection comes from (a chain lets TCP and UDP leave by the same exit address)
unless `exits` names other prefixes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from chainrelay.client.control import ControlStream, Identity, to_client
from chainrelay.errors import Code, ConfigError, ProtocolError
from chainrelay.limits import OFFER_CONNECTIONS, PEER_TIMEOUT, RESUME_TIME
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Done, Offer, Peer, Protocol

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Visitor:
    """A client that is being served."""

    session: bytes
    peer: Endpoint
    """P5: where to send, and where its datagrams come from."""
    server: Endpoint
    """P6: the endpoint that it was offered."""
    principal: str
    """Its authenticated id; empty where no keys are used."""


Handler = Callable[[Visitor], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Admission:
    """Whom the server serves. Empty prefixes: anybody; no ids: anybody who has a key."""

    sources: tuple[Network, ...] = ()
    exits: tuple[Network, ...] = ()
    ids: frozenset[str] = frozenset()

    def refuses_source(self, source: Address) -> str:
        """Why a control connection from there is cut, `""` when it is not."""
        if self.sources and not _within(source, self.sources):
            return f"{source} is not among the allowed sources"
        return ""

    def refuses_peer(self, peer: Peer, stream: ControlStream) -> str:
        """Why this PEER is refused, `""` when it is not."""
        if self.ids and stream.principal not in self.ids:
            return f"{stream.principal or 'an unauthenticated client'} is not among the allowed ids"
        if peer.exit.address != stream.remote.address and not _within(peer.exit.address, self.exits):
            return f"exit {peer.exit} does not lie at {stream.remote.address}, where its control connection comes from"
        return ""


class _Guest:
    """One client over all its control connections: its handler runs while it is here or may still come back."""

    def __init__(self, session: bytes, port: int, principal: str) -> None:
        self.session, self.port, self.principal = session, port, principal
        self.visitor: Visitor | None = None
        self.stream: ControlStream | None = None
        self.handler: asyncio.Task[None] | None = None
        self.finished = False
        """The handler has returned by itself and the client was told DONE."""
        self.leaving: asyncio.TimerHandle | None = None


class Offering:
    """Listens for clients. `ports`: each client gets one of them to itself (`shared`: all get the first).

    `address` is what P6 is announced with; without it the address at which the control connection arrived.
    Every client's `handler` runs as a task; it is cancelled when the client leaves, and when it returns the client is told DONE.
    """

    def __init__(
        self,
        listen: Endpoint,
        handler: Handler,
        *,
        ports: Sequence[int],
        shared: bool = False,
        protocol: Protocol = Protocol.UDP,
        components: int = 1,
        address: Address | None = None,
        admission: Admission | None = None,
        identity: Identity | None = None,
    ) -> None:
        if components == 2 and any(port % 2 for port in ports):
            raise ConfigError("ports", "a pair of components starts at an even port", "give even ports")
        if components == 2 and protocol is Protocol.TCP:
            raise ConfigError("components", "two components are a pair of UDP ports; a TCP session has one", "leave out one of the two")
        self._listen, self._handler, self._shared = listen, handler, shared
        self._protocol, self._components, self._address = protocol, components, address
        self._admission, self._identity = admission or Admission(), identity
        self._ports = list(ports)
        self._guests: dict[bytes, _Guest] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if self._listen.family == 6 else socket.AF_INET
        try:
            self._server = await asyncio.start_server(
                self._accept, str(self._listen.address), self._listen.port, family=family
            )
        except OSError as fault:
            mend = "free the port, or give an address of this host"
            raise ConfigError("listen", f"can't listen on {self._listen}: {fault.strerror}", mend) from fault
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        guests = list(self._guests.values())
        for guest in guests:
            if guest.stream is not None:
                with contextlib.suppress(OSError):
                    await guest.stream.send(Done())
            self._leave(guest)
        handlers = [guest.handler for guest in guests if guest.handler is not None]
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, *handlers, return_exceptions=True)

    @property
    def listening(self) -> Endpoint:
        """Where clients connect; tells the port that the kernel chose for 0."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return Endpoint(ipaddress.ip_address(host), port)

    async def forever(self) -> None:
        """Serve until cancelled."""
        await asyncio.get_running_loop().create_future()

    # one control connection -----------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        stream = to_client(reader, writer, self._identity)
        if len(self._connections) >= OFFER_CONNECTIONS:
            stream.abort()
            return
        self._connections.add(task)
        try:
            await self._talk(stream)
        except (ProtocolError, TimeoutError, OSError) as fault:
            log.warning("control connection from %s cut: %s", stream.remote, str(fault) or "silent for too long")
            stream.abort()
        except asyncio.CancelledError:
            stream.abort()  # the offering ends; asyncio's own stream callback wants no exception from us
        finally:
            self._connections.discard(task)
            stream.close()

    async def _talk(self, stream: ControlStream) -> None:
        if why := self._admission.refuses_source(stream.remote.address):
            raise ProtocolError(why)
        await stream.start()
        port = self._take_port()
        try:
            # Without a free port only a client that comes back can be served; its OFFER is a formality, PEER tells who it is.
            offered = port if port is not None else next((guest.port for guest in self._guests.values() if not guest.stream), None)
            peer = await self._exchange(stream, offered) if offered is not None else None
            if peer is None:
                await stream.send(Done())
                return
            if why := self._admission.refuses_peer(peer, stream):
                raise ProtocolError(why)
            guest = self._guests.get(peer.session)
            if guest is None and port is not None:
                guest = self._guests[peer.session] = _Guest(peer.session, port, stream.principal)
                port = None  # it is the guest's now
        finally:
            if port is not None:
                self._give_port(port)
        if guest is None or guest.principal != stream.principal:
            await stream.send(Done())
            return
        await self._host(guest, stream, peer)

    async def _exchange(self, stream: ControlStream, port: int) -> Peer | None:
        """OFFER, and the PEER that follows; None when the client thinks better of it."""
        await stream.send(self._offer(stream, port))
        async with asyncio.timeout(PEER_TIMEOUT):
            message = await stream.receive()
        if isinstance(message, Offer):
            raise ProtocolError("OFFER from a client", Code.UNEXPECTED)
        return message if isinstance(message, Peer) else None

    def _offer(self, stream: ControlStream, port: int) -> Offer:
        return Offer(self._protocol, self._components, Endpoint(self._address or stream.local.address, port))

    async def _host(self, guest: _Guest, stream: ControlStream, peer: Peer) -> None:
        """Serve a client over this connection until it says DONE; a connection that breaks leaves it RESUME_TIME to come back."""
        if guest.leaving is not None:
            guest.leaving.cancel()
        if guest.stream is not None:
            guest.stream.abort()  # it has connected again before we noticed that the old connection is dead
        guest.stream = stream
        here = True
        try:
            while here:
                offer = self._offer(stream, guest.port)
                self._welcome(guest, Visitor(peer.session, peer.exit, offer.server, stream.principal))
                await stream.send(offer)  # confirms PEER
                match await stream.receive():
                    case Peer() as moved if moved.session == guest.session:
                        if why := self._admission.refuses_peer(moved, stream):
                            raise ProtocolError(why)
                        peer = moved
                    case Done():
                        self._leave(guest)
                        here = False
                    case None:
                        here = False
                    case other:
                        raise ProtocolError(f"{type(other).__name__} from a client that is being served", Code.UNEXPECTED)
        finally:
            if guest.stream is stream:
                guest.stream = None
                if guest.session in self._guests:
                    wait = 0 if guest.finished else RESUME_TIME
                    guest.leaving = asyncio.get_running_loop().call_later(wait, self._leave, guest)

    # guests -----------------------------------------------------------------------------

    def _welcome(self, guest: _Guest, visitor: Visitor) -> None:
        """Start the handler, or start it anew when the client's exit has moved."""
        if guest.visitor == visitor:
            return
        before, guest.visitor, guest.finished = guest.handler, visitor, False
        guest.handler = asyncio.get_running_loop().create_task(self._run(guest, visitor, before))

    async def _run(self, guest: _Guest, visitor: Visitor, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            before.cancel()
            await asyncio.wait([before])
        handling = asyncio.ensure_future(self._handler(visitor))
        try:
            await asyncio.wait([handling])
        finally:
            handling.cancel()
            await asyncio.wait([handling])
        if not handling.cancelled() and (fault := handling.exception()) is not None:
            log.error("serving %s failed", visitor.peer, exc_info=fault)
        guest.finished = True
        if guest.stream is not None:
            with contextlib.suppress(OSError):
                await guest.stream.send(Done())

    def _leave(self, guest: _Guest) -> None:
        """The client has gone: its handler ends, then its port is free."""
        if self._guests.pop(guest.session, None) is None:
            return
        if guest.leaving is not None:
            guest.leaving.cancel()
        if guest.handler is None or guest.handler.done():
            self._give_port(guest.port)
        else:
            guest.handler.add_done_callback(lambda _task: self._give_port(guest.port))
            guest.handler.cancel()

    def _take_port(self) -> int | None:
        if self._shared:
            return self._ports[0]
        return self._ports.pop(0) if self._ports else None

    def _give_port(self, port: int) -> None:
        if not self._shared:
            self._ports.append(port)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
