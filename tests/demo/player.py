"""The client's program in the demo: a player on the chainrelay library that writes the video it gets to a file.

    python -m demo.player CONFIG SERVER FILE

Speaks to play.py in JSON lines: the session's endpoints once it is open, the counters of every hop once it is closed. It
ends when its standard input does. It sends nothing: the server speaks first.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from chainrelay.client import Client

RTP_HEADER = 12  # RFC 3550 §5.1, without contributing sources
LARGEST = 65535


def payload(packet: bytes) -> bytes:
    """An RTP packet's payload (RFC 3550 §5.1), past contributing sources and extension."""
    start = RTP_HEADER + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4])
    return packet[start:]


class Recorder:
    """Writes what arrives at the first socket (RTP) and counts what arrives at the second (RTCP)."""

    def __init__(self, sockets: list[socket.socket], file: IO[bytes]) -> None:
        self.packets = [0 for _ in sockets]
        self._sockets, self._file = sockets, file
        for component, sock in enumerate(sockets):
            asyncio.get_running_loop().add_reader(sock, self._readable, component)

    def _readable(self, component: int) -> None:
        while True:
            try:
                packet = self._sockets[component].recv(LARGEST)
            except BlockingIOError:
                return
            self.packets[component] += 1
            if component == 0:
                self._file.write(payload(packet))

    def close(self) -> None:
        """Take what has arrived, then no more."""
        for component, sock in enumerate(self._sockets):
            self._readable(component)
            asyncio.get_running_loop().remove_reader(sock)


async def play(config: Path, server: str, output: Path) -> None:
    """Open the session, record until standard input ends, close it."""
    async with Client(config) as client:
        session = await client.open(server, components=2)
        with output.open("wb") as file:
            recorder = Recorder(session.sockets, file)
            tell(local=str(session.local), entry=str(session.entry), exit=str(session.exit), server=str(session.peer))
            await asyncio.to_thread(sys.stdin.read)
            recorder.close()
        counters = await session.close()
    tell(packets=recorder.packets, counters=[asdict(each) for each in counters])


def tell(**values: Any) -> None:
    """A line for play.py."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(play(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
