"""A netfilter netlink socket: send requests, take what the kernel answers. What the bytes mean: netlink.py.

The kernel works on a request inside `send`, so its answers are there when `send` returns; only dumps are fetched on.
The socket belongs to the network namespace in which the object was made.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from chainrelay.errors import DatapathError
from chainrelay.privileged import netlink
from chainrelay.privileged.netlink import Message

_NETLINK_NETFILTER: Final = 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SOL_NETLINK, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 270, 1, 2
_BUFFER: Final = 16 << 20  # one batch takes below 1 MB, and so do its announcements; the kernel counts generously
_DATAGRAM: Final = 256 << 10  # larger than any datagram that the kernel sends
_SEND: Final = 64 << 10  # bytes of requests at once, below the default send buffer
_DUMP_ATTEMPTS: Final = 8  # a dump that a commit interrupted starts again


class NetlinkSocket:
    """Not for several threads at once. Raises DatapathError when there is no such socket to be had."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as fault:
            advice = "is CONFIG_NETFILTER_NETLINK in the kernel?"
            raise DatapathError(f"no netfilter netlink socket ({fault.strerror}); {advice}") from fault
        self._socket.bind((0, 0))
        for option, forced in ((socket.SO_RCVBUF, _SO_RCVBUFFORCE), (socket.SO_SNDBUF, _SO_SNDBUFFORCE)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, _BUFFER)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._sequence = 0

    def next_sequence(self) -> int:
        """For a request."""
        self._sequence = self._sequence % 0xFFFF_FFFF + 1
        return self._sequence

    def join(self, group: int) -> None:
        """Hear a multicast group from now on."""
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def leave(self, group: int) -> None:
        """Hear it no longer; what has been queued stays to be read."""
        self._socket.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, group)

    def commit(self, transaction: bytes) -> list[Message]:
        """Send a transaction whole; the kernel's acknowledgement and errors. Raises DatapathError."""
        self._send(transaction)
        return self.drain()

    def exchange(self, requests: list[bytes]) -> list[Message]:
        """Send requests that are no dumps; all answers, in order. Raises DatapathError."""
        answers: list[Message] = []
        for chunk in _chunks(requests):
            self._send(chunk)
            answers += self.drain()
        return answers

    def drain(self) -> list[Message]:
        """What has arrived. Raises BufferError when the kernel had to throw some of it away."""
        found: list[Message] = []
        lost = False
        while True:
            try:
                found += netlink.messages(self._socket.recv(_DATAGRAM, socket.MSG_DONTWAIT))
            except BlockingIOError:
                break
            except OSError as fault:
                if fault.errno != errno.ENOBUFS:
                    raise DatapathError(f"netlink: {fault.strerror}") from fault
                lost = True
        if lost:
            raise BufferError("the kernel had more to say than the netlink socket's buffer holds")
        return found

    def dump(self, request: bytes) -> list[Message]:
        """Send a dump request; the whole answer. Empty when what was asked for is not there. Raises DatapathError."""
        for _ in range(_DUMP_ATTEMPTS):
            with suppress(BlockingIOError, BufferError):
                self.drain()  # left over from a dump that was given up
            self._send(request)
            found, whole = self._collect()
            if whole:
                return found
        raise DatapathError("netlink: the list changed while it was read, several times over; try again")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _collect(self) -> tuple[list[Message], bool]:
        found: list[Message] = []
        whole = True
        while True:
            try:
                datagram = self._socket.recv(_DATAGRAM)
            except OSError as fault:
                raise DatapathError(f"netlink: {fault.strerror}") from fault
            for message in netlink.messages(datagram):
                whole = whole and not message.flags & netlink.DUMP_INTERRUPTED
                if message.kind == netlink.DONE:
                    return found, whole
                if message.kind == netlink.ERROR:
                    raise_unless(message, errno.ENOENT)
                    return [], True
                found.append(message)

    def _send(self, octets: bytes) -> None:
        try:
            self._socket.send(octets)
        except OSError as fault:
            raise DatapathError(f"netlink: {fault.strerror}") from fault


def raise_unless(message: Message, expected: int) -> None:
    """Raise DatapathError for an ERROR message with another number than `expected` (or 0)."""
    number = netlink.error_number(message)
    if number == errno.EPERM:
        raise DatapathError("netlink: not permitted; the agent needs CAP_NET_ADMIN in this network namespace")
    if number not in (0, expected):
        raise DatapathError(f"netlink: {os.strerror(number)}")


def _chunks(requests: list[bytes]) -> Iterator[bytes]:
    chunk = bytearray()
    for request in requests:
        if len(chunk) + len(request) > _SEND:
            yield bytes(chunk)
            chunk.clear()
        chunk += request
    if chunk:
        yield bytes(chunk)
