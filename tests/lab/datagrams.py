"""Numbered UDP datagrams between hosts, from sockets of the test's own process: what was lost, doubled or foreign.

A `Stream` is one run of numbers under a random label; a datagram without that label is foreign, whoever sent it.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from chainrelay.wire.endpoint import Address, Endpoint, parse_address

if TYPE_CHECKING:
    from lab.host import Namespace

HEAD = struct.Struct("!8sI")
ROOM = 4 << 20  # bytes of receive buffer: a burst of a test fits in
SO_RCVBUFFORCE = 33  # Linux: past net.core.rmem_max; the socket module has no name for it


@dataclass
class Tally:
    """What arrived of one stream of `sent` datagrams."""

    sent: int
    seen: Counter[int] = field(default_factory=Counter)
    sources: set[Endpoint] = field(default_factory=set)
    foreign: int = 0

    @property
    def lost(self) -> int:
        """Numbers that never came."""
        return self.sent - len(self.seen)

    @property
    def duplicates(self) -> int:
        """Arrivals beyond the first of each number."""
        return self.seen.total() - len(self.seen)


class Port:
    """A UDP socket on a host, bound to an endpoint; port 0 lets the kernel choose."""

    def __init__(self, host: Namespace, address: Address, port: int = 0) -> None:
        with host.enter():
            self.socket = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
            _widen(self.socket)
            self.socket.bind((str(address), port))
        self.socket.setblocking(False)

    @classmethod
    def adopt(cls, bound: socket.socket) -> Port:
        """A socket that somebody else has bound, and closes."""
        port = cls.__new__(cls)
        port.socket = bound
        _widen(bound)
        return port

    @property
    def endpoint(self) -> Endpoint:
        """Where it is bound."""
        return _endpoint(self.socket.getsockname())

    def send(self, to: Endpoint, payload: bytes) -> None:
        """One datagram. A refusal that an earlier one met (ICMP) is not this one's error: it is sent again once."""
        target = (str(to.address), to.port)
        try:
            self.socket.sendto(payload, target)
        except ConnectionRefusedError:
            self.socket.sendto(payload, target)

    def receive(self, timeout: float = 2.0) -> tuple[bytes, Endpoint] | None:
        """The next datagram and where it came from; None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            ready, _, _ = select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            try:
                payload, source = self.socket.recvfrom(65535)
            except (BlockingIOError, ConnectionRefusedError):
                continue
            return payload, _endpoint(source)

    def drain(self) -> list[tuple[bytes, Endpoint]]:
        """Everything that has arrived so far."""
        found = []
        while (item := self.receive(0)) is not None:
            found.append(item)
        return found

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream:
    """Numbered datagrams under one random label."""

    def __init__(self, size: int = 100) -> None:
        self.label = secrets.token_bytes(8)
        self.size = max(size, HEAD.size)
        self.sent = 0

    def send(self, source: Port, to: Endpoint, count: int = 1, rate: float = 5000.0) -> None:
        """Send the next `count` numbers at `rate` datagrams per second."""
        start = time.monotonic()
        for number in range(count):
            ahead = start + number / rate - time.monotonic()
            if ahead > 0.001:
                time.sleep(ahead)  # pacing, not synchronisation
            source.send(to, HEAD.pack(self.label, self.sent).ljust(self.size, b"."))
            self.sent += 1

    def tally(self, sink: Port, timeout: float = 2.0) -> Tally:
        """Receive until all numbers sent so far are there or nothing came for `timeout` seconds."""
        result = Tally(self.sent)
        while result.lost and (item := sink.receive(timeout)) is not None:
            self._count(result, *item)
        for item in sink.drain():
            self._count(result, *item)
        return result

    def _count(self, result: Tally, payload: bytes, source: Endpoint) -> None:
        if len(payload) < HEAD.size or not payload.startswith(self.label):
            result.foreign += 1
            return
        result.seen[HEAD.unpack_from(payload)[1]] += 1
        result.sources.add(source)


def _widen(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)


def _endpoint(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    return Endpoint(parse_address(name[0]), name[1])
