"""The client without asyncio: the same calls, each waiting. A loop in a thread of its own renews meanwhile.

    from chainrelay.client import blocking
    with blocking.open("server.example:9799") as session:
        session.send(b"hello")
        session.socket.recv(2048)                # an ordinary blocking socket, unless the session is sealed

Every call may raise what its asyncio twin raises. Usable from several threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as socket_module
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from chainrelay import client
from chainrelay.client.client import Opening
from chainrelay.client.data_keys import SealCounters
from chainrelay.client.trouble import Trouble
from chainrelay.client.wishes import ServerWishes, TargetWishes, Wishes
from chainrelay.config.client import ClientConfig
from chainrelay.errors import Code, Refusal
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import HopCounters, Protocol

T = TypeVar("T")


class Client:
    """`client.Client` with a loop in a thread. Close it, or use `with`."""

    def __init__(self, config: ClientConfig | Path | str | None = None) -> None:
        self._client = client.Client(config or client.default_config())  # first: when it raises, there is nothing to end
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chainrelay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the links and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        self.run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self, server: str, **wishes: Unpack[ServerWishes]) -> Session:
        """See `client.Client.open`."""
        return self._open(self._client.open(server, **wishes))

    def open_to(self, peer: str, **wishes: Unpack[TargetWishes]) -> Session:
        """See `client.Client.open_to`."""
        return self._open(self._client.open_to(peer, **wishes))

    def reserve(self, host: str, **wishes: Unpack[Wishes]) -> Session:
        """See `client.Client.reserve`."""
        return self._open(self._client.reserve(host, **wishes))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry a coroutine out in the loop and wait; an interrupt cancels it. Raises Refusal when the client was closed."""
        if self._loop.is_closed():
            work.close()
            raise Refusal(Code.WRONG_STATE, "the client was closed; make another one, and close its sessions before it")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _open(self, opening: Opening) -> Session:
        async def work() -> client.Session:
            return await opening

        return Session(self, self.run(work()))


class Session:
    """`client.Session`, waiting. Its sockets block; a sealed one's are the loop's, so that two threads can't seal under one counter."""

    def __init__(self, owner: Client, session: client.Session) -> None:
        self._owner, self._session = owner, session
        for sock in () if session.sealed else session.sockets:
            sock.setblocking(True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> bytes:
        """How this session is called in every relay's log."""
        return self._session.id

    @property
    def socket(self) -> socket_module.socket:
        """The first component's socket, blocking."""
        return self._session.socket

    @property
    def sockets(self) -> list[socket_module.socket]:
        """One per component, blocking."""
        return self._session.sockets

    @property
    def local(self) -> Endpoint:
        """P1."""
        return self._session.local

    @property
    def entry(self) -> Endpoint:
        """P2."""
        return self._session.entry

    @property
    def exit(self) -> Endpoint:
        """P5."""
        return self._session.exit

    @property
    def mtu(self) -> int:
        """Largest datagram payload in bytes."""
        return self._session.mtu

    @property
    def relays(self) -> tuple[str, ...]:
        """Ids of the relays, the first one first."""
        return self._session.relays

    @property
    def sealed(self) -> bool:
        """Whether datagrams are encrypted between here and the last relay."""
        return self._session.sealed

    @property
    def peer(self) -> Target:
        """P6."""
        return self._session.peer

    @property
    def protocol(self) -> Protocol:
        """UDP or TCP."""
        return self._session.protocol

    @property
    def components(self) -> int:
        """1, or 2 for a pair."""
        return self._session.components

    @property
    def lingers(self) -> float:
        """After `close`: seconds within which what may still stand ends by itself."""
        return self._session.lingers

    def watch(
        self,
        *,
        on_moved: Callable[[], None] | None = None,
        on_ended: Callable[[Refusal], None] | None = None,
        on_trouble: Callable[[Trouble | None], None] | None = None,
    ) -> None:
        """Have these called, in the client's thread, as those of `client.Session` are: they must not wait, nor call this session."""
        if on_moved is not None:
            moved = on_moved
            self._session.on_moved = lambda _session: moved()
        if on_ended is not None:
            self._session.on_ended = on_ended
        if on_trouble is not None:
            self._session.on_trouble = on_trouble

    def ended(self, timeout: float | None = None) -> None:
        """Waits until the session was closed, raises the Refusal that ended it, TimeoutError after `timeout` seconds."""
        self._owner.run(self._until(self._session.ended(), timeout))

    def server_done(self, timeout: float | None = None) -> None:
        """Waits until the server has said that it sends no more. Raises TimeoutError after `timeout` seconds."""
        self._owner.run(self._until(self._session.server_done(), timeout))

    @staticmethod
    async def _until(end: Coroutine[Any, Any, None], timeout: float | None) -> None:
        async with asyncio.timeout(timeout):
            await end

    @property
    def seal_counters(self) -> SealCounters:
        """What was sealed, opened and dropped here."""
        return self._session.seal_counters

    def send(self, data: bytes | bytearray | memoryview, component: int = 0) -> None:
        """One datagram to the server."""
        self._owner.run(self._session.send(data, component))

    def receive(self, component: int = 0, timeout: float | None = None) -> bytes:
        """The next datagram's payload. Raises TimeoutError after `timeout` seconds."""
        return self._owner.run(self._within(timeout, component))

    async def _within(self, timeout: float | None, component: int) -> bytes:
        async with asyncio.timeout(timeout):
            return await self._session.receive(component)

    def bind(self, server: str) -> None:
        """Name the server's endpoint of a reserved session."""
        self._owner.run(self._session.bind(server))

    def counters(self) -> tuple[HopCounters, ...]:
        """Per relay, nearest first."""
        return self._owner.run(self._session.counters())

    def close(self) -> tuple[HopCounters, ...]:
        """End it at every hop; the last counters."""
        return self._owner.run(self._session.close())


@contextlib.contextmanager
def open(server: str, *, config: ClientConfig | Path | str | None = None, **wishes: Unpack[ServerWishes]) -> Iterator[Session]:  # noqa: A001
    """`client.open`, waiting."""
    with Client(config) as owner, owner.open(server, **wishes) as session:
        yield session


@contextlib.contextmanager
def open_to(peer: str, *, config: ClientConfig | Path | str | None = None, **wishes: Unpack[TargetWishes]) -> Iterator[Session]:
    """`client.open_to`, waiting."""
    with Client(config) as owner, owner.open_to(peer, **wishes) as session:
        yield session


@contextlib.contextmanager
def reserve(host: str, *, config: ClientConfig | Path | str | None = None, **wishes: Unpack[Wishes]) -> Iterator[Session]:
    """`client.reserve`, waiting."""
    with Client(config) as owner, owner.reserve(host, **wishes) as session:
        yield session
