"""Datagrams of a session through its sockets, sealed or plain: one waits for its turn to send, one waits for what arrives.

A full buffer is waited for, an ICMP error about an earlier datagram is not this one's fault, what is too large says so. Sealed:
whatever does not open is dropped (data_keys.py counts it). Which socket is connected to whom is sockets.py's business.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence

from chainrelay.client.data_keys import DataKeys
from chainrelay.errors import Code, Refusal
from chainrelay.wire.sealed import OpenError

LARGEST_DATAGRAM = 65535
BY_ICMP = {
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.ENOPROTOOPT, errno.EPROTO, errno.EHOSTDOWN,
    errno.EMSGSIZE,
}  # fmt: skip
"""What a connected socket is told of an ICMP error about an earlier datagram (net/ipv4/icmp.c: icmp_err_convert, net/ipv6/icmp.c)."""


class Datagrams:
    """One per session. `keys`: a sealed session's."""

    def __init__(self, sockets: Sequence[socket.socket], keys: DataKeys | None) -> None:
        self._sockets, self._keys = sockets, keys
        self._waiting: dict[tuple[int, bool], asyncio.Future[None]] = {}
        """Who waits for a component's socket, to write or to read."""
        self._stopped = False

    async def send(self, data: bytes | bytearray | memoryview, component: int, mtu: int) -> None:
        """One datagram. Raises ValueError when it is larger than `mtu`, OSError from the kernel, Refusal after `stop`."""
        text = bytes(data)
        if len(text) > mtu:
            raise too_large(len(text), mtu, sealed=self._keys is not None)
        datagram = text if self._keys is None else self._keys.seal(text, component)
        while not self._stopped:
            try:
                send_one(self._sockets[component], datagram)
            except BlockingIOError:
                await self._ready(component, writing=True)
            except OSError as fault:
                if fault.errno != errno.EMSGSIZE:
                    raise
                raise too_large(len(text), mtu, sealed=self._keys is not None) from fault
            else:
                return
        raise Refusal(Code.WRONG_STATE, "the session was closed")

    async def receive(self, component: int) -> bytes:
        """The next datagram's payload, opened when it is sealed. Raises Refusal when the session is closed meanwhile."""
        while not self._stopped:
            try:
                sock = self._sockets[component]
                if sock.gettimeout() != 0:  # blocking.py's: its user may have given it any
                    await self._ready(component, writing=False)
                data = sock.recv(LARGEST_DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await self._ready(component, writing=False)
                continue
            except OSError as fault:
                if fault.errno not in BY_ICMP:
                    raise
                continue
            if self._keys is None:
                return data
            try:
                return self._keys.open(data, component)
            except OpenError:
                await asyncio.sleep(0)  # whoever floods us must not keep the program from everything else
        raise Refusal(Code.WRONG_STATE, "the session was closed")

    def stop(self) -> None:
        """Whoever waits is told that the session is closed. The sockets may be closed then."""
        self._stopped = True
        for component, writing in list(self._waiting):
            self._wake(component, writing=writing)

    async def _ready(self, component: int, *, writing: bool) -> None:
        loop, key = asyncio.get_running_loop(), (component, writing)
        if key not in self._waiting:
            self._waiting[key] = loop.create_future()
            watch = loop.add_writer if writing else loop.add_reader
            watch(self._sockets[component], lambda: self._wake(component, writing=writing))
        await asyncio.shield(self._waiting[key])  # several may wait: one that gives up does not take it from the others

    def _wake(self, component: int, *, writing: bool) -> None:
        loop = asyncio.get_running_loop()
        (loop.remove_writer if writing else loop.remove_reader)(self._sockets[component])
        self._waiting.pop((component, writing)).set_result(None)


def send_one(sock: socket.socket, datagram: bytes) -> None:
    """Send on a connected socket. Raises OSError, but not for an ICMP error about an earlier datagram."""
    try:
        sock.send(datagram, socket.MSG_DONTWAIT)
    except OSError as fault:
        if fault.errno not in BY_ICMP:
            raise
        sock.send(datagram, socket.MSG_DONTWAIT)  # it was told once, and this datagram was not sent


def too_large(length: int, mtu: int, *, sealed: bool) -> ValueError:
    """The error that a datagram beyond the session's limit gets."""
    what = "sealed session" if sealed else "session"
    return ValueError(f"a datagram of {length} octets is too large: this {what} carries {mtu} at most (`session.mtu`)")
