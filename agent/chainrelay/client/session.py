"""A client's open session: P1 to P6, the bound sockets, counters, renewal, what happens when it moves or ends.

Made by client.py only. Puts a leg (leg.py), its sockets (sockets.py) and the talk with the server (rendezvous.py) together.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as socket_module
from collections.abc import Callable
from types import TracebackType
from typing import Self

from chainrelay.client import sockets as p1
from chainrelay.client.data_keys import DataKeys, SealCounters
from chainrelay.client.datagrams import Datagrams
from chainrelay.client.leg import Leg
from chainrelay.client.rendezvous import Rendezvous
from chainrelay.client.trouble import Trouble
from chainrelay.errors import Code, Refusal
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import HopCounters, Peer, Protocol


class Session:
    """An open session. Close it, or use it as `async with`; nothing of it is left at any relay then.

    `on_moved(session)` is called when a relay had lost the session and gave other endpoints; sockets are connected to the new
    entry and the server has been told by then, another program that uses the endpoints must be told by you. `on_ended(refusal)`
    is called when a relay or the server ended it for good; it still wants to be closed. `on_trouble(trouble)` is called when the chain
    does not answer and the session can't be renewed, when its leases have ended on that, and with None when all is well again.

    `bound`: P1's sockets, none when P1 belongs to another program. `keys`: a sealed session's; then datagrams pass through `send`
    and `receive` alone.
    """

    def __init__(
        self,
        leg: Leg,
        protocol: Protocol,
        components: int,
        peer: Target,
        bound: list[socket_module.socket],
        keys: DataKeys | None = None,
    ) -> None:
        self._leg, self.protocol, self.components, self.peer = leg, protocol, components, peer
        self.bound, self.keys = bound, keys
        self._datagrams = Datagrams(bound, keys)
        self.on_moved: Callable[[Session], None] = lambda _session: None
        self.on_ended: Callable[[Refusal], None] = lambda _refusal: None
        self.on_trouble: Callable[[Trouble | None], None] = lambda _trouble: None
        self._rendezvous: Rendezvous | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Task[tuple[HopCounters, ...]] | None = None

    @property
    def id(self) -> bytes:
        """16 random bytes: how this session is called in every relay's log."""
        return self._leg.id

    @property
    def sealed(self) -> bool:
        """Whether datagrams are encrypted between here and the last relay (M17)."""
        return self.keys is not None

    @property
    def seal_counters(self) -> SealCounters:
        """What was sealed, opened and dropped here; zeros when nothing is sealed."""
        return self.keys.counters if self.keys is not None else SealCounters()

    @property
    def sockets(self) -> list[socket_module.socket]:
        """P1: bound and connected to the entry, non-blocking, one per component. Empty when P1 belongs to another program.

        Raises Refusal when the session is sealed: what is sent there must be sealed, and what comes from there opened.
        """
        if self.sealed:
            text = "a sealed session has no socket to use: take `send` and `receive`, or `chainrelay forward --seal` for another program"
            raise Refusal(Code.WRONG_STATE, text)
        return self.bound

    @property
    def socket(self) -> socket_module.socket:
        """The first component's socket. Raises Refusal when P1 belongs to another program, or the session is sealed."""
        if not self.sockets:
            raise Refusal(Code.WRONG_STATE, "P1 was given to another program, so there is no socket here")
        return self.sockets[0]

    @property
    def local(self) -> Endpoint:
        """P1: where the client receives, and must send from."""
        return self._leg.local

    @property
    def entry(self) -> Endpoint:
        """P2: where the client sends (P6 itself when no relay is needed)."""
        return self._leg.entry

    @property
    def exit(self) -> Endpoint:
        """P5: what the server sees and answers to (P1 when no relay is needed)."""
        return self._leg.exit

    @property
    def mtu(self) -> int:
        """Largest datagram payload in bytes that every hop carries; what sealing takes is off already."""
        return self._leg.mtu

    @property
    def relays(self) -> tuple[str, ...]:
        """Ids of the relays, the first one first. In the recursive way a claim, but for the first one and a sealed session's last."""
        return self._leg.path

    async def send(self, data: bytes | bytearray | memoryview, component: int = 0) -> None:
        """One datagram to the server, sealed if the session is. Waits while the kernel's buffer is full.

        Raises ValueError when it is larger than `mtu`, OSError for what the kernel has against it, Refusal when there is no socket.
        """
        await self._datagrams.send(data, self._component(component), self.mtu)

    async def receive(self, component: int = 0) -> bytes:
        """The next datagram's payload from the server. Raises Refusal when the session is closed while it waits.

        What is forged, replayed or under no key of a sealed session is dropped; `seal_counters` tells how many.
        """
        return await self._datagrams.receive(self._component(component))

    async def bind(self, server: str | Target) -> None:
        """Name the server's endpoint of a reserved session. Datagrams flow when this returns (M10). Raises Refusal."""
        target = Target.parse(server) if isinstance(server, str) else server
        before = self.entry
        await self._leg.bind(target)
        self.peer = target
        if self.entry != before:  # no relay: only now it is known to whom P1 talks
            p1.connect_datagrams(self.bound, self.entry)

    async def counters(self) -> tuple[HopCounters, ...]:
        """What each relay's kernel counted, nearest relay first; empty when there is none. Raises Refusal."""
        return await self._leg.counters()

    async def server_done(self) -> None:
        """Returns when the server has said that it sends no more. Waits for ever without a control connection."""
        if self._rendezvous is None:
            await asyncio.get_running_loop().create_future()
        else:
            await self._rendezvous.finished.wait()

    @property
    def lingers(self) -> float:
        """After `close`: 0, or the seconds within which what may still stand ends with its leases, as the chain did not hear of it."""
        return self._leg.lingers

    async def ended(self) -> None:
        """Returns when the session was closed here; raises the Refusal when a relay ended it for good."""
        await asyncio.shield(self._ended)

    async def close(self) -> tuple[HopCounters, ...]:
        """End it at every hop, tell the server, close the sockets. Per relay what was counted; closing again tells the same."""
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_task(self._close())
        return await asyncio.shield(self._closed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # for client.py ------------------------------------------------------------------

    async def tell_server(self, rendezvous: Rendezvous) -> None:
        """M7, now and whenever the exit moves. Raises Refusal."""
        self._rendezvous = rendezvous
        rendezvous.on_forgotten = self.end
        await rendezvous.tell(Peer(self.id, self.exit))

    def moved(self) -> None:
        """The leg has other endpoints now."""
        with contextlib.suppress(OSError):
            p1.connect_datagrams(self.bound, self.entry)
        if self._rendezvous is not None:
            self._rendezvous.tell_again(Peer(self.id, self.exit))
        self.on_moved(self)

    def troubled(self, trouble: Trouble | None) -> None:
        """The leg can't be renewed, or can again."""
        self.on_trouble(trouble)

    def end(self, refusal: Refusal) -> None:
        """A relay ended the session for good."""
        if not self._ended.done():
            self._ended.set_exception(refusal)
            self._ended.exception()  # told to whoever asks; nobody has to
            self.on_ended(refusal)

    def _component(self, component: int) -> int:
        """Its index. Raises Refusal or ValueError when there is no such socket."""
        if self.protocol is not Protocol.UDP:
            raise Refusal(Code.WRONG_STATE, "a TCP session has no datagrams; use its socket")
        if not self.bound:
            raise Refusal(Code.WRONG_STATE, "P1 was given to another program, so there is no socket here")
        if not 0 <= component < self.components:
            raise ValueError(f"component {component}: this session has {self.components}, counted from 0")
        return component

    async def _close(self) -> tuple[HopCounters, ...]:
        try:
            if self._rendezvous is not None:
                await self._rendezvous.close()
            return await self._leg.close()
        finally:
            self._datagrams.stop()
            p1.close(self.bound)
            if not self._ended.done():
                self._ended.set_result(None)
