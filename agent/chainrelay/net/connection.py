"""The asyncio shell around one wire/connection.py: octets in and out of a TCP transport, nothing else.

Both roles use it: net/listener.py for connections that arrive, net/neighbours.py for those we open. What is ready in
the same turn of the loop leaves in a few writes. A partner that does not read what it asked for is cut, not waited for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from chainrelay.errors import ProtocolError
from chainrelay.limits import LINK_KEEPALIVE, MESSAGES_PER_WRITE, UNREAD_ANSWERS
from chainrelay.wire.authenticated import Authenticated, Claimed
from chainrelay.wire.bare import BareConnection
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Address, parse_address
from chainrelay.wire.messages import ControlMessage, Message
from chainrelay.wire.states import State

Heard = Authenticated[Message | ControlMessage] | Claimed[Message]
OnMessage = Callable[["ControlConnection", int, Heard], None]
OnOpen = Callable[["ControlConnection"], None]
OnLost = Callable[["ControlConnection", "Exception | None"], None]


class ControlConnection(asyncio.Protocol):
    """One control connection. `on_lost` is called exactly once, with the reason, or None when the partner just closed."""

    def __init__(self, wire: Connection | BareConnection, *, on_open: OnOpen, on_message: OnMessage, on_lost: OnLost) -> None:
        self.wire = wire
        self.opened = False
        self.local: Address
        self.remote: Address
        self._on_open, self._on_message, self._on_lost = on_open, on_message, on_lost
        self._transport: asyncio.Transport | None = None
        self._flush_planned = False
        self._queued = 0
        self._fault: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.local = parse_address(transport.get_extra_info("sockname")[0].partition("%")[0])
        self.remote = parse_address(transport.get_extra_info("peername")[0].partition("%")[0])
        watch_idle(transport.get_extra_info("socket"))
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            messages = self.wire.receive(data)
        except ProtocolError as fault:
            self.abort(fault)  # in silence: whoever fails learns nothing
            return
        if not self.opened and self.wire.state is State.OPEN:
            self.opened = True
            self._on_open(self)
        self._plan_flush()
        for number, message in messages:
            self._on_message(self, number, message)

    def send(self, number: int, message: Message | ControlMessage) -> None:
        """Queue a message; it leaves at the end of this turn of the loop, or with MESSAGES_PER_WRITE - 1 others. Dropped on a
        connection that is being cut: `on_lost` is on its way, and a partner that broke the protocol must not break off the
        work of whoever answers it."""
        if self.wire.state is State.CLOSED:
            return
        self.wire.send(number, message)
        self._queued += 1
        if self._queued < MESSAGES_PER_WRITE:
            self._plan_flush()
        else:
            self._flush()

    def close(self) -> None:
        """Flush, then close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self, fault: Exception) -> None:
        """Cut at once; `fault` is what `on_lost` will be told."""
        self._fault = self._fault or fault
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost(self, self._fault or exc)

    def _plan_flush(self) -> None:
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned, self._queued = False, 0
        try:
            data = self.wire.outgoing()
        except ProtocolError as fault:
            self.abort(fault)
            return
        if not data or self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > UNREAD_ANSWERS:
            self.abort(ProtocolError("the partner does not read its answers"))


def watch_idle(sock: socket.socket) -> None:
    """Let the kernel find out that a silent partner has gone: probes after LINK_KEEPALIVE seconds, given up three later."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(LINK_KEEPALIVE))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(LINK_KEEPALIVE * 1000))
