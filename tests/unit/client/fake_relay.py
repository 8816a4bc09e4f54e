"""A relay in this process, over loopback: answers what relay 1 would and forwards in user space. Stands where a Neighbour does.

The client is at 127.0.0.1, the relay's entry at RELAY, its exit at EXIT, so that tests see whose endpoint is whose.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from chainrelay.client import Client
from chainrelay.config.client import ClientConfig
from chainrelay.errors import Code, Refusal
from chainrelay.session.events import NextHop
from chainrelay.session.prefixes import Prefixes
from chainrelay.session.tables import DIRECT, AnswerTable, PeerTable, Route, RouteTable
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.endpoint import Address, Endpoint, Target, parse_address
from chainrelay.wire.messages import (
    Answer,
    Bind,
    Bound,
    Close,
    Closed,
    Extend,
    HopCounters,
    Open,
    Opened,
    Protocol,
    Rekey,
    Renew,
    Renewed,
    Request,
    Status,
    StatusReport,
)

CLIENT = IPv4Address("127.0.0.1")
EXIT = IPv4Address("127.0.0.2")
RELAY = IPv4Address("127.0.0.3")
SERVER = IPv4Address("127.0.0.4")
HOP = NextHop("fw1", Endpoint(RELAY, 9798))


def run(scenario: Coroutine[Any, Any, None], seconds: float = 20) -> None:
    """A test's coroutine, with an end."""
    asyncio.run(asyncio.wait_for(scenario, seconds))


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for a condition of this process."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.005)


def config(*routes: Route, peers: PeerTable | None = None, server: str | None = None) -> ClientConfig:
    """A client's configuration."""
    return ClientConfig(
        id="alice",
        user="alice",
        lease=0,
        listen=Endpoint(CLIENT, 9799),
        authenticate=False,
        server=server,
        routes=RouteTable(routes or (Route("*", DIRECT),)),
        peers=peers or PeerTable(()),
        answers=AnswerTable(()),
    )


class FakeRelay:
    """See above. `refuse[type]` holds refusals that the next requests of that type get."""

    def __init__(self, lease: int = 120) -> None:
        self.lease = lease
        self.local: Address | None = CLIENT
        self.remote: Address | None = RELAY
        self.on_lost: Callable[[], None] | None = None
        self.asked: list[Request] = []
        self.sessions: dict[bytes, Forwarding] = {}
        self.refuse: dict[type[Request], list[Refusal]] = {}
        self.captured: list[bytes] = []
        """Every datagram as it passed between the client and the entry."""
        self.entry_address: Address = RELAY

    def client(self, configuration: ClientConfig | None = None) -> Client:
        """A client whose only link leads here. Loopback is a forbidden endpoint, so it is allowed by name as in agent.toml."""
        made = Client(configuration or config(Route("*", HOP)))
        made._policy = replace(made._policy, targets_allow=Prefixes((IPv4Network("127.0.0.0/8"),)))
        link = made._links.to(HOP)
        self.on_lost = link.neighbour.on_lost
        link.neighbour = self  # type: ignore[assignment]
        return made

    def count(self, kind: type[Request]) -> int:
        """How many requests of a type came."""
        return sum(isinstance(message, kind) for message in self.asked)

    async def connect(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Forget everything."""
        for session in list(self.sessions):
            self.forget(session)

    def forget(self, session: bytes) -> None:
        """A restart without memory: rules and all are gone."""
        self.sessions.pop(session).stop()

    async def request(self, message: Request, _timeout: float = 5) -> Authenticated[Answer]:
        """As Neighbour.request."""
        self.asked.append(message)
        if waiting := self.refuse.get(type(message)):
            raise waiting.pop(0)
        if not isinstance(message, Open) and message.session not in self.sessions:
            raise Refusal(Code.UNKNOWN_SESSION, "unknown session", "fw1")
        match message:
            case Open():
                if message.session not in self.sessions:
                    self.sessions[message.session] = await Forwarding.start(message, self.captured)
                here = self.sessions[message.session]
                entry = Endpoint(self.entry_address, here.entry.port)
                answer: Answer = Opened(message.session, entry, here.exit, self.lease, 1400, True, ("fw1",))
            case Bind():
                self.sessions[message.session].server = message.server
                answer = Bound(message.session, 1400)
            case Renew():
                answer = Renewed(message.session, self.lease)
            case Status():
                answer = StatusReport(message.session, self.lease, (self._counters(message.session),))
            case Close():
                counters = self._counters(message.session)
                self.forget(message.session)
                answer = Closed(message.session, (counters,))
            case Extend() | Rekey():
                raise AssertionError("a leg extends nothing; the loop does")
        return Authenticated("fw1", answer)

    def _counters(self, session: bytes) -> HopCounters:
        here = self.sessions[session]
        return HopCounters("fw1", here.to_server, 0, here.to_client, 0)


class Forwarding:
    """One session's sockets. `open` and `seal` are what a sealed session's last relay does; None: drop it."""

    def __init__(self, partner: Endpoint, server: Target, captured: list[bytes]) -> None:
        self.partner, self.server, self.captured = partner, server, captured
        self.open: Callable[[bytes, int], bytes | None] = lambda datagram, _component: datagram
        self.seal: Callable[[bytes, int], bytes | None] = lambda text, _component: text
        self.to_server = self.to_client = 0
        self.entry: Endpoint
        self.exit: Endpoint
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.streams: list[asyncio.StreamWriter] = []

    @staticmethod
    async def start(request: Open, captured: list[bytes]) -> Forwarding:
        self = Forwarding(request.partner, request.server, captured)
        kind = socket.SOCK_DGRAM if request.protocol is Protocol.UDP else socket.SOCK_STREAM
        ports = _pair(kind) if request.components == 2 else [0]
        for offset, port in enumerate(ports):
            near, far = _bound(kind, RELAY, port), _bound(kind, EXIT, port)
            if not offset:
                self.entry, self.exit = _name(near), _name(far)
            self._sockets += [near, far]
            work = self._datagrams if request.protocol is Protocol.UDP else self._connection
            self._tasks += [asyncio.create_task(job) for job in work(near, far, offset)]
        return self

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in self.streams:
            writer.transport.abort()
        for sock in self._sockets:
            sock.close()

    def cut(self) -> None:
        """Break the TCP connection, not the session."""
        for writer in self.streams:
            writer.transport.abort()

    def _datagrams(self, near: socket.socket, far: socket.socket, offset: int) -> list[Coroutine[Any, Any, None]]:
        return [self._outward(near, far, offset), self._inward(near, far, offset)]

    async def _outward(self, near: socket.socket, far: socket.socket, offset: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, sender = await loop.sock_recvfrom(near, 2048)
            if Endpoint(parse_address(sender[0]), sender[1]) == self.partner.next(offset) and self.server.port:
                self.to_server += 1
                self.captured.append(data)
                if (text := self.open(data, offset)) is None:
                    continue
                await loop.sock_sendto(far, text, (str(self.server.host), self.server.port + offset))

    async def _inward(self, near: socket.socket, far: socket.socket, offset: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, _ = await loop.sock_recvfrom(far, 2048)
            self.to_client += 1
            if (datagram := self.seal(data, offset)) is None:
                continue
            self.captured.append(datagram)
            await loop.sock_sendto(near, datagram, (str(self.partner.address), self.partner.port + offset))

    def _connection(self, near: socket.socket, far: socket.socket, _offset: int) -> list[Coroutine[Any, Any, None]]:
        near.listen()
        return [self._relay(near, far)]

    async def _relay(self, near: socket.socket, far: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.sock_accept(near)
        inner = await asyncio.open_connection(sock=accepted)
        self.streams.append(inner[1])
        try:
            await loop.sock_connect(far, (str(self.server.host), self.server.port))
        except OSError:
            inner[1].transport.abort()
            return
        outer = await asyncio.open_connection(sock=far)
        self.streams.append(outer[1])
        await asyncio.gather(_copy(inner[0], outer[1]), _copy(outer[0], inner[1]))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
        writer.close()


def _bound(kind: socket.SocketKind, address: Address, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.setblocking(False)
    sock.bind((str(address), port))
    return sock


def _pair(kind: socket.SocketKind) -> list[int]:
    while True:
        with _bound(kind, RELAY, 0) as sock:
            port = sock.getsockname()[1]
        if port % 2 == 0:
            return [port, port + 1]


def _name(sock: socket.socket) -> Endpoint:
    host, port = sock.getsockname()
    return Endpoint(parse_address(host), port)


