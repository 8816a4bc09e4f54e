"""Numbered datagrams through a session, fast enough to fall into any gap, counted by the kernel behind the last relay's exit.

The sender is a program at P1, and a silent one on the server holds P6, so that no refusal (ICMP) comes back. Of a sealed session the
server sends and the last relay seals: its work is looked at, not a library's.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from lab import wait
from lab.arrivals import Arrivals
from lab.pace import LOOP, Sent, told

if TYPE_CHECKING:
    from chainrelay.wire.endpoint import Endpoint
    from lab.link import End

RATE: Final = 22_000.0  # datagrams per second
SETTLE: Final = 5.0
SINK: Final = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
sock.bind((sys.argv[1], int(sys.argv[2])))
print("{}", flush=True)
sys.stdin.read()
"""
SIZE: Final = 200
SENDER: Final = f"""{LOOP}
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], int(sys.argv[2])))
sock.connect((sys.argv[3], int(sys.argv[4])))
pace(sock.send, float(sys.argv[5]), {SIZE})
"""


@dataclass(frozen=True)
class Outcome:
    """What became of the traffic."""

    sent: Sent
    arrived: int
    longest_gap: float
    """Seconds between two arrivals at the server."""

    @property
    def lost(self) -> int:
        """Datagrams."""
        return self.sent.count - self.arrived

    def __str__(self) -> str:
        return f"{self.lost} lost, longest gap {self.longest_gap * 1000:.1f} ms, of {self.sent}"


@dataclass(frozen=True)
class Ends:
    """A session's four that the ends know."""

    local: Endpoint
    entry: Endpoint
    exit: Endpoint
    peer: Endpoint
    sealed: bool


class Traffic:
    """Runs from entering to leaving the block; then `outcome` is there."""

    def __init__(self, client: End, server: End, ends: Ends, rate: float = RATE) -> None:
        self._ends = ends
        self._from, self._to = (server.host, client.host) if ends.sealed else (client.host, server.host)
        here, there = (ends.peer, ends.exit) if ends.sealed else (ends.local, ends.entry)
        self._sending = [*_ends(here), *_ends(there), str(rate)]
        if ends.sealed:
            self._arrivals = Arrivals(client, ends.entry, ends.local.port, drop=True)
        else:
            self._arrivals = Arrivals(server, ends.exit, ends.peer.port)

    def __enter__(self) -> Self:
        self._sink = None if self._ends.sealed else _program(self._to, SINK, _ends(self._ends.peer))
        self._arrivals.__enter__()
        self._sender = _program(self._from, SENDER, self._sending)
        self._start = time.monotonic()
        return self

    def last(self, seconds: float) -> None:
        """Go on until the traffic has lasted so long: what comes after an event is looked at as well."""
        wait.until(lambda: time.monotonic() - self._start >= seconds, f"{seconds} s of traffic", seconds + 5)

    def __exit__(self, *_: object) -> None:
        try:
            sent = told(_end(self._sender))
            self.outcome = Outcome(sent, self._arrivals.settles(sent.count, SETTLE), self._arrivals.longest_gap())
        finally:
            self._arrivals.__exit__()
            if self._sink is not None:
                _end(self._sink)


def _ends(endpoint: Endpoint) -> list[str]:
    return [str(endpoint.address), str(endpoint.port)]


def _program(host: Any, script: str, arguments: list[str]) -> subprocess.Popen[str]:
    command = ["/usr/bin/python3", "-c", script, *arguments]
    process: subprocess.Popen[str] = host.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "{}\n", f"{script} did not start on {host.name}"
    return process


def _end(process: subprocess.Popen[str]) -> str:
    """End it by its standard input; the last line that it says."""
    said, _ = process.communicate("\n", timeout=60)
    return said
