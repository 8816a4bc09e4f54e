"""Datagrams at a high steady rate from a process of its own; arrivals.py counts them where they are to arrive.

    with Flood(port, entry, rate) as flood: … ; flood.stop().count
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Self

from lab.pace import LOOP, Sent, told

if TYPE_CHECKING:
    from chainrelay.wire.endpoint import Endpoint
    from lab.datagrams import Port

SIZE = 100
SCRIPT = f"""{LOOP}
sock, to = socket.socket(fileno=int(sys.argv[1])), (sys.argv[2], int(sys.argv[3]))
sock.setblocking(True)
pace(lambda payload: sock.sendto(payload, to), float(sys.argv[4]), {SIZE})
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

    def stop(self) -> Sent:
        """End it; what the kernel took."""
        out, _ = self._process.communicate("stop\n", timeout=20)
        return told(out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
