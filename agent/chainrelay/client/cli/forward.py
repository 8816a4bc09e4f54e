"""`chainrelay forward`: a local UDP or TCP port that leads through a session, for a program that knows nothing of relays.

UDP: one session; whoever sends to the local port first is its user, and answers go to him. His port may change (mosh hops), his
address may not. TCP: every connection to the local port gets a session of its own, as a session has exactly one P1. With --seal what
goes on from here is encrypted up to the last relay; what is too large or does not open is dropped, as on any path.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chainrelay.client import advice
from chainrelay.client import sockets as p1
from chainrelay.client.advice import Exit
from chainrelay.client.cli import common
from chainrelay.client.cli.report import Report
from chainrelay.client.datagrams import LARGEST_DATAGRAM, too_large
from chainrelay.client.wishes import LAST_PORT
from chainrelay.errors import ConfigError, OutputError, Refusal
from chainrelay.output import warn
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import OpenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from chainrelay.client import Client, Session
    from chainrelay.client.cli.common import Verbs

TURN = 64  # datagrams of one socket before others get their turn
CHUNK = 64 * 1024


def add(verbs: Verbs) -> None:
    """The verb's options."""
    parser = verbs.add_parser(
        "forward",
        help="a local port for an unmodified program",
        description="Datagrams (with --tcp: connections) to LISTEN go through a session to the server, and back. Ctrl-C ends it.",
    )
    parser.add_argument("listen", type=_listen, metavar="LISTEN", help="local ADDRESS:PORT, or PORT at 127.0.0.1; 0 = a free port")
    common.add_session(parser)
    parser.add_argument("--tcp", action="store_true", help="forward TCP connections, each through a session of its own")
    parser.add_argument(
        "--to", type=common.endpoint, metavar="ADDRESS:PORT", help="UDP: where the server's datagrams go before anybody has sent to LISTEN"
    )
    parser.add_argument("--json", action="store_true", help="JSON, one object per line: forward, open, moved, trouble, back, closed")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Forward until interrupted, or until the session is ended by a relay."""
    if options.seal and options.tcp:
        raise ConfigError("--seal", "TCP sessions can't be sealed", "leave out one of the two; over TCP the program can use TLS or ssh")
    if options.to is not None and (options.tcp or options.to.family != options.listen.family):
        raise ConfigError("--to", f"{options.to} is not where LISTEN ({options.listen}) can send datagrams", "UDP only, and of one family")
    common.check_options(options)
    if options.to is not None and options.components == 2 and options.to.port == LAST_PORT:
        raise ConfigError("--to", f"port {LAST_PORT} has no next one for the second component", "choose an even port below")
    async with common.make_client(options) as owner:
        if options.tcp:
            await _forward_connections(owner, options)
        else:
            await _forward_datagrams(owner, options)
    return Exit.OK


def _listen(text: str) -> Endpoint:
    return common.listen(text if ":" in text else f"127.0.0.1:{text}")


def _bind(protocol: Protocol, at: Endpoint, components: int) -> list[socket.socket]:
    """The local port. Raises ConfigError: what is wrong with it is wrong with the command line, not with P1."""
    try:
        return p1.bind(protocol, at.address, at.port, components)
    except Refusal as fault:
        raise ConfigError(f"LISTEN {at}", fault.text, "choose an address of this host and a free port, or port 0") from fault


# UDP --------------------------------------------------------------------------------


async def _forward_datagrams(owner: Client, options: argparse.Namespace) -> None:
    report = Report(as_json=options.json)
    with _Listening(options.listen, options.components or 1) as listening:  # first: what can't be had here asks nothing of a chain
        session = await common.opening(owner, options, Protocol.UDP, 0, sockets=True)
        try:
            ports = listening.exactly(session.components)
        except ConfigError:
            await session.close()
            raise
        report.watch(session)
        pumps: list[Pump] = []
        try:
            for offset, (near, far) in enumerate(zip(ports, session.bound, strict=True)):
                user = options.to.next(offset) if options.to else None
                pumps.append(Pump(near, far, user, Seal(session, offset) if session.sealed else None))
                pumps[-1].start()
            report.forwarding(p1.local_endpoint(listening.sockets[0]))
            report.opened(session)
            await common.until_one(session.ended(), report.broken)
        finally:
            for each in pumps:
                each.stop()
            await report.end(session)


class _Listening:
    """The local ports: as many as can be told before the server has, and then as many as there are."""

    def __init__(self, at: Endpoint, components: int) -> None:
        self._at = at
        self.sockets = _bind(Protocol.UDP, at, components)

    def exactly(self, components: int) -> list[socket.socket]:
        """One for each component. Raises ConfigError."""
        if components != len(self.sockets):
            p1.close(self.sockets)
            self.sockets = _bind(Protocol.UDP, self._at, components)
        return self.sockets

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        p1.close(self.sockets)


class Seal:
    """What a sealed session's datagrams of one component go through. What can't be sealed is dropped and, the first time, told."""

    def __init__(self, session: Session, component: int) -> None:
        assert session.keys is not None
        self._session, self._keys, self._component = session, session.keys, component
        self._told = False

    def send(self, far: socket.socket, text: bytes) -> None:
        """Seal it and send it. Raises OSError."""
        if len(text) > self._session.mtu:
            self._tell(str(too_large(len(text), self._session.mtu, sealed=True)))
            return
        try:
            datagram = self._keys.seal(text, self._component)
        except Refusal as used_up:
            self._tell(advice.explain(used_up))
        else:
            far.send(datagram)

    def receive(self, far: socket.socket) -> bytes:
        """The next one's text. Raises OSError and OpenError."""
        return self._keys.open(far.recv(LARGEST_DATAGRAM), self._component)

    def _tell(self, why: str) -> None:
        if not self._told:
            warn(f"chainrelay forward: dropped: {why}")
        self._told = True


class Pump:
    """Datagrams between a local socket, with its one user, and a session's socket, through a seal if there is one."""

    def __init__(self, near: socket.socket, far: socket.socket, user: Endpoint | None, seal: Seal | None = None) -> None:
        self._near, self._far = near, far
        self._user: tuple[str, int] | None = (str(user.address), user.port) if user else None
        self._send: Callable[[bytes], object] = partial(seal.send, far) if seal else far.send
        self._receive: Callable[[], bytes] = partial(seal.receive, far) if seal else partial(far.recv, LARGEST_DATAGRAM)

    def start(self) -> None:
        """From now on."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._near, self._outward)
        loop.add_reader(self._far, self._inward)

    def stop(self) -> None:
        """No more."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._near)
        loop.remove_reader(self._far)

    def _outward(self) -> None:
        # What the network refuses, or a full buffer, is a lost datagram as on any path: the program on top knows what to do.
        with contextlib.suppress(BlockingIOError):
            for _ in range(TURN):
                data, sender = self._near.recvfrom(LARGEST_DATAGRAM)
                if self._user is None or self._user[0] == sender[0]:
                    self._user = sender[:2]
                    with contextlib.suppress(OSError):
                        self._send(data)

    def _inward(self) -> None:
        for _ in range(TURN):
            try:
                data = self._receive()
            except BlockingIOError:
                return
            except (OSError, OpenError):  # an ICMP error about an earlier datagram; one that does not open
                continue
            if self._user is not None:
                with contextlib.suppress(OSError):
                    self._near.sendto(data, self._user)


# TCP --------------------------------------------------------------------------------


async def _forward_connections(owner: Client, options: argparse.Namespace) -> None:
    report = Report(as_json=options.json)
    sessions: set[Session] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            session = await common.opening(owner, options, Protocol.TCP, 0, sockets=True)
            sessions.add(session)
            report.watch(session)
            try:
                report.opened(session)
                far_reader, far_writer = await asyncio.open_connection(sock=session.sockets.pop())
                await _both_ways((reader, writer), (far_reader, far_writer))
            finally:
                await report.end(session)
                sessions.discard(session)
        except Refusal as refusal:  # of this connection; the next one may fare better
            warn(f"chainrelay forward: {advice.explain(refusal)}")
        except OutputError as fault:
            report.fail(fault)
        except asyncio.CancelledError:
            return  # the command ends; asyncio's own callback of the stream wants no exception
        finally:
            tasks.discard(task)
            writer.close()

    common.opening(owner, options, Protocol.TCP, 0, sockets=True)  # what is wrong with the arguments is wrong before anybody connects
    listening = _bind(Protocol.TCP, options.listen, 1)[0]
    server = await asyncio.start_server(connected, sock=listening)
    try:
        report.forwarding(p1.local_endpoint(listening))
        await report.broken
    finally:  # before the links go: a CLOSE that is not heard leaves a session to its lease
        server.close()  # from Python 3.12 on serve_forever would wait here until every connection has ended by itself
        ending = list(tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.gather(*(session.close() for session in sessions), return_exceptions=True)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _both_ways(near: Stream, far: Stream) -> None:
    """Copy until both directions have ended; an end in one direction is passed on as such."""
    try:
        await asyncio.gather(_copy(near[0], far[1]), _copy(far[0], near[1]))
    finally:
        far[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
        return
    writer.transport.abort()  # broken on one side: the other must not wait for what never comes
