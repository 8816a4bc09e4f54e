"""The door: accepts control connections, and keeps strangers cheap.

Per source prefix (/24, /48) only so many half-open connections and so many handshakes a second; over that, a connection is
closed at once. Who fails the handshake, or dawdles, is cut without a word. What authenticates becomes a session.events.Link.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import itertools
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.errors import ConfigError
from chainrelay.limits import HALF_OPEN_CONNECTIONS, HALF_OPEN_PER_PREFIX, HANDSHAKE_TIMEOUT, HELLO_RATE_PER_PREFIX, LAST_ANSWERS
from chainrelay.net.connection import ControlConnection, Heard
from chainrelay.session.events import Link
from chainrelay.wire.authenticated import Claimed
from chainrelay.wire.bare import BareConnection, is_bare
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.handshake import Responder
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import Message
from chainrelay.wire.primitives import Ephemeral

log = logging.getLogger(__name__)

STOCK = 64  # ephemeral keys made ahead, while nothing else is to do


@dataclass(slots=True)
class Visitor:
    """A connection and, once it has authenticated, its link. A bare one has a link, whose principal is empty, from its first EXTEND."""

    connection: ControlConnection
    prefix: str
    half_open: bool = True
    link: Link | None = None
    timer: asyncio.TimerHandle | None = None


class KeyStock:
    """Ephemeral X25519 keys made ahead, each used once; taken from an empty stock they are made on the spot."""

    def __init__(self) -> None:
        self._stock: deque[Ephemeral] = deque()
        self._refilling = False

    def take(self) -> Ephemeral:
        if not self._refilling:
            self._refilling = True
            asyncio.get_running_loop().call_soon(self._refill)
        return self._stock.popleft() if self._stock else Ephemeral(X25519PrivateKey.generate())

    def _refill(self) -> None:
        """One key a turn, so that refilling never holds up a request."""
        self._stock.append(Ephemeral(X25519PrivateKey.generate()))
        if len(self._stock) < STOCK:
            asyncio.get_running_loop().call_later(0.001, self._refill)
        else:
            self._refilling = False


class Listener:
    """All listening sockets of one agent."""

    def __init__(
        self,
        me: str,
        find_key: Callable[[str, str], PairKey | None],
        purpose_of: Callable[[str], Purpose],
        on_message: Callable[[Link, int, Heard], None],
        on_closed: Callable[[Link], None],
        *,
        handshakes_per_second: float = HELLO_RATE_PER_PREFIX,
    ) -> None:
        self._me, self._find_key, self._purpose_of = me, find_key, purpose_of
        self._on_message, self._on_closed = on_message, on_closed
        self._servers: list[asyncio.Server] = []
        self._visitors: dict[ControlConnection, Visitor] = {}
        self._half_open: Counter[str] = Counter()
        self._hellos = RateByPrefix(handshakes_per_second)
        self.numbers = itertools.count(1)
        """Of links, the end-to-end ones (ends.py) included."""
        self.keys = KeyStock()
        self._by_number: dict[int, ControlConnection] = {}

    async def listen(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Bind every endpoint, or none. Raises ConfigError that names the endpoint."""
        for endpoint in endpoints:
            try:
                self._servers.append(await self._bind(endpoint))
            except OSError as fault:
                await self.close()
                raise _taken(endpoint, fault) from fault

    async def _bind(self, endpoint: Endpoint) -> asyncio.Server:
        family = socket.AF_INET6 if endpoint.family == 6 else socket.AF_INET
        return await asyncio.get_running_loop().create_server(
            self._accept, str(endpoint.address), endpoint.port, family=family, backlog=1024, reuse_address=True
        )

    def send(self, link: int, number: int, message: Message) -> None:
        """Answer on a link; dropped when the link has gone (every request may be asked again)."""
        if (connection := self._by_number.get(link)) is not None:
            connection.send(number, message)

    def prove(self, link: int) -> None:
        """A client has authenticated inside of a bare link: it is no stranger's any more."""
        connection = self._by_number.get(link)
        if connection is not None and isinstance(connection.wire, BareConnection) and not connection.opened:
            connection.wire.prove()
            connection.opened = True
            self._settled(self._visitors[connection])

    def cut_link(self, link: int, fault: Exception) -> None:
        """Cut one link at once, without a word."""
        if (connection := self._by_number.get(link)) is not None:
            connection.abort(fault)

    def cut(self, principal: str) -> None:
        """Close every link of a principal whose key was revoked."""
        for visitor in list(self._visitors.values()):
            if visitor.link is not None and visitor.link.principal == principal:
                visitor.connection.close()

    async def close(self) -> None:
        """Stop listening and close every connection; sessions are not touched."""
        for server in self._servers:
            server.close()
        for visitor in list(self._visitors.values()):
            visitor.connection.close()
        try:
            async with asyncio.timeout(LAST_ANSWERS):
                for server in self._servers:
                    await server.wait_closed()  # from Python 3.12 on for the connections as well
        except TimeoutError:
            for visitor in list(self._visitors.values()):
                visitor.connection.abort(TimeoutError("the partner does not read its answers"))
        self._servers.clear()

    # one visitor -----------------------------------------------------------

    def _accept(self) -> asyncio.Protocol:
        responder = Responder(
            self._me,
            find_key=self._find_key,
            expected_purpose=self._purpose_of,
            nonce=os.urandom(32),
            ephemeral=self.keys.take,
        )
        return _Arrival(
            Connection(responder), on_open=self._opened, on_message=self._received, on_lost=self._lost, admit=self._admit
        )

    def _admit(self, connection: ControlConnection) -> bool:
        prefix = prefix_of(connection.remote)
        now = asyncio.get_running_loop().time()
        if (
            self._half_open.total() >= HALF_OPEN_CONNECTIONS
            or self._half_open[prefix] >= HALF_OPEN_PER_PREFIX
            or not self._hellos.allow(prefix, now)
        ):
            return False
        self._half_open[prefix] += 1
        visitor = Visitor(connection, prefix)
        visitor.timer = asyncio.get_running_loop().call_later(
            HANDSHAKE_TIMEOUT, connection.abort, TimeoutError("no handshake in time")
        )
        self._visitors[connection] = visitor
        return True

    def _opened(self, connection: ControlConnection) -> None:
        visitor = self._visitors[connection]
        self._settled(visitor)
        self._link(visitor)

    def _link(self, visitor: Visitor) -> Link:
        connection = visitor.connection
        visitor.link = link = Link(next(self.numbers), connection.wire.peer, connection.remote, connection.local)
        self._by_number[link.number] = connection
        log.info("link %d: %s from %s", link.number, link.principal or "a relay without a key", link.remote)
        return link

    def _received(self, connection: ControlConnection, number: int, message: Heard) -> None:
        visitor = self._visitors[connection]
        link = visitor.link
        if link is None:
            assert isinstance(message, Claimed), "only a bare connection speaks before it is open"
            link = self._link(visitor)
        self._on_message(link, number, message)

    def _lost(self, connection: ControlConnection, fault: Exception | None) -> None:
        visitor = self._visitors.pop(connection, None)
        if visitor is None:
            return
        if visitor.half_open:
            self._settled(visitor)
            if self._hellos.worth_a_line(asyncio.get_running_loop().time()):
                log.warning("refused %s before authentication: %s", connection.remote, fault or "closed by the other side")
        if visitor.link is None:
            return
        del self._by_number[visitor.link.number]
        if fault is not None:
            log.warning("link %d: %s cut: %s", visitor.link.number, visitor.link.principal, fault)
        self._on_closed(visitor.link)

    def _settled(self, visitor: Visitor) -> None:
        """No longer half-open."""
        visitor.half_open = False
        if visitor.timer is not None:
            visitor.timer.cancel()
            visitor.timer = None
        self._half_open[visitor.prefix] -= 1
        if not self._half_open[visitor.prefix]:
            del self._half_open[visitor.prefix]


class _Arrival(ControlConnection):
    """A connection that asks at the door first."""

    def __init__(self, wire: Connection, *, admit: Callable[[ControlConnection], bool], **handlers: object) -> None:
        super().__init__(wire, **handlers)  # type: ignore[arg-type]  # passed on as they came
        self._admit = admit
        self._first: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._admit(self):
            self.abort(ConnectionRefusedError("too many at once from there"))

    def data_received(self, data: bytes) -> None:
        """The first body tells whether this is a handshake or a relay without a key for us."""
        if self._first is not None:
            data = self._first + data
            bare = is_bare(data)
            if bare is None:
                self._first = data
                return
            self._first = None
            if bare:
                self.wire = BareConnection(asking=False)
        super().data_received(data)


class RateByPrefix:
    """A token bucket of one second per prefix. Full buckets are forgotten, so memory follows the attackers of the last second."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: dict[str, tuple[float, float]] = {}
        self._last_line = 0.0

    def allow(self, prefix: str, now: float) -> bool:
        """Take a token, if there is one."""
        tokens, since = self._buckets.get(prefix, (self._per_second, now))
        tokens = min(self._per_second, tokens + (now - since) * self._per_second)
        if len(self._buckets) > 4096:
            self._buckets = {key: value for key, value in self._buckets.items() if now - value[1] < 1}
        self._buckets[prefix] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

    def worth_a_line(self, now: float) -> bool:
        """At most ten lines a second about strangers: the log is not theirs to fill."""
        if now - self._last_line < 0.1:
            return False
        self._last_line = now
        return True


def prefix_of(address: Address) -> str:
    """The /24 or /48 that shares one allowance."""
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def assert_free(endpoints: tuple[Endpoint, ...]) -> None:
    """Try to bind, and let go: a second agent on a host must find out before it loads its rules over the first one's.

    Raises ConfigError that names the endpoint. Who takes it between this and `listen` is told then.
    """
    for endpoint in endpoints:
        with socket.socket(socket.AF_INET6 if endpoint.family == 6 else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((str(endpoint.address), endpoint.port))
            except OSError as fault:
                raise _taken(endpoint, fault) from fault


def assert_no_agent(endpoints: tuple[Endpoint, ...]) -> None:
    """For whoever takes down what an agent would put back. An address that has gone is nobody's. Raises ConfigError."""
    try:
        assert_free(endpoints)
    except ConfigError as fault:
        if isinstance(fault.__cause__, OSError) and fault.__cause__.errno == errno.EADDRINUSE:
            why = f"an agent seems to run ({fault.why}); it would put everything back"
            raise ConfigError(fault.where, why, "stop it first (systemctl stop chainrelay-agent), or what else listens there") from fault


def _taken(endpoint: Endpoint, fault: OSError) -> ConfigError:
    mend = "free the port or change `listen`; an address must be one of this host's"
    return ConfigError("agent.toml:listen", f"can't listen on {endpoint}: {fault.strerror}", mend)
