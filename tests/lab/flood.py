"""Datagrams at a high steady rate from a process of its own; arrivals.py counts them where they are to arrive.

    with Flood(port, entry, rate) as flood: … ; flood.stop() == the number sent
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from chainrelay.wire.endpoint import Endpoint
    from lab.datagrams import Port

SCRIPT = """
import select, socket, sys, time
sock, rate, port = socket.socket(fileno=int(sys.argv[1])), float(sys.argv[4]), int(sys.argv[3])
to, sent, start, payload = (sys.argv[2], port), 0, time.monotonic(), bytearray(100)
sock.setblocking(True)
print("started", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    due = int((time.monotonic() - start) * rate)
    for number in range(sent, min(due, sent + 200)):
        payload[:8] = number.to_bytes(8, "big")
        sock.sendto(payload, to)
    sent = min(due, sent + 200)
    if due <= sent:
        time.sleep(0.0005)
print(sent, time.monotonic() - start, flush=True)
"""


class Flood:
    """Datagrams from `source` to `to` until `stop`."""

    def __init__(self, source: Port, to: Endpoint, rate: float) -> None:
        number = source.socket.fileno()
        self._process = subprocess.Popen(
            ["nice", "-n", "-10", sys.executable, "-c", SCRIPT, str(number), str(to.address), str(to.port), str(rate)],
            pass_fds=[number], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.sent, self.seconds = 0, 0.0

    @property
    def rate(self) -> float:
        """What it came to, per second."""
        return self.sent / self.seconds

    def stop(self) -> int:
        """End it; how many datagrams the kernel took."""
        if not self.sent:
            out, _ = self._process.communicate("stop\n", timeout=20)
            sent, seconds = out.split()
            self.sent, self.seconds = int(sent), float(seconds)
        return self.sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
