"""P1 as sockets: bound at the client's own address, non-blocking, connected to the entry so that strangers' datagrams don't arrive.

Only socket calls; which address and which entry is decided elsewhere (client.py, leg.py).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence

from chainrelay.errors import Code, Refusal
from chainrelay.limits import PAIR_ATTEMPTS, UDP_RECEIVE_BUFFER
from chainrelay.wire.endpoint import Address, Endpoint, parse_address
from chainrelay.wire.messages import Protocol

SO_RCVBUFFORCE = 33  # linux/socket.h; Python has no name for it
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_KIND = {Protocol.UDP: socket.SOCK_DGRAM, Protocol.TCP: socket.SOCK_STREAM}


def bind(protocol: Protocol, address: Address, port: int, components: int) -> list[socket.socket]:
    """P1: one socket, or two on an even port and the next one. Port 0 = any. Raises Refusal."""
    attempts = 1 if port else PAIR_ATTEMPTS
    for _ in range(attempts):
        first = _bind_one(protocol, address, port)
        if components == 1:
            return [first]
        number = first.getsockname()[1]
        if number % 2 == 0:
            with contextlib.suppress(Refusal):
                return [first, _bind_one(protocol, address, number + 1)]
        first.close()
    what = f"{port} and {port + 1}" if port else "any even port and the next one"
    raise Refusal(Code.ENDPOINT_IN_USE, f"can't bind {what} at {address}: the first must be even and both free here")


def _bind_one(protocol: Protocol, address: Address, port: int) -> socket.socket:
    sock = socket.socket(_FAMILY[address.version], _KIND[protocol])
    try:
        sock.setblocking(False)
        if protocol is Protocol.UDP:
            _widen(sock)
        if protocol is Protocol.TCP and port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection before it may linger in TIME_WAIT
        sock.bind((str(address), port))
    except OSError as fault:
        sock.close()
        code = Code.ENDPOINT_IN_USE if fault.errno == errno.EADDRINUSE else Code.NOT_PARTNERS_ADDRESS
        raise Refusal(code, f"can't bind {Endpoint(address, port)} here: {fault.strerror}") from fault
    return sock


def _widen(sock: socket.socket) -> None:
    """As much room as this process may have: a picture comes as a burst, and who opens datagrams one by one is slower than that."""
    for option in (SO_RCVBUFFORCE, socket.SO_RCVBUF):  # the first takes CAP_NET_ADMIN, the second stops at net.core.rmem_max
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, option, UDP_RECEIVE_BUFFER)
            return


def local_endpoint(sock: socket.socket) -> Endpoint:
    """Where a socket is bound."""
    host, port = sock.getsockname()[:2]
    return Endpoint(parse_address(host), port)


def connect_datagrams(sockets: Sequence[socket.socket], entry: Endpoint) -> None:
    """Let every component talk with its entry only. What strangers sent before that is dropped: nobody knew P1 yet."""
    for offset, sock in enumerate(sockets):
        sock.connect((str(entry.address), entry.port + offset))
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                sock.recv(1, socket.MSG_DONTWAIT)  # its user may have made it blocking


def close(sockets: Sequence[socket.socket]) -> None:
    """Close them all."""
    for sock in sockets:
        sock.close()
