"""The client's program in the demo: a player on the chainrelay library that writes the video it gets to a file.

    python -m demo.player CONFIG SERVER FILE

Speaks to play.py in JSON lines: the session's endpoints once it is open, the counters of every hop once it is closed. It
ends when its standard input does. It sends nothing: the server speaks first. Beside FILE it leaves FILE.datagrams, every payload
that the library handed out with its length in 4 octets before it: what a sealed session's were can be seen nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from chainrelay.client import Client, Session

RTP_HEADER = 12  # RFC 3550 §5.1, without contributing sources
SETTLE = 0.2  # seconds in which the loop takes what the sockets hold already


def payload(packet: bytes) -> bytes:
    """An RTP packet's payload (RFC 3550 §5.1), past contributing sources and extension."""
    start = RTP_HEADER + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4])
    return packet[start:]


class Recorder:
    """Writes the first component (RTP) as video, counts both, and keeps every payload as it was received."""

    def __init__(self, session: Session, video: IO[bytes], datagrams: IO[bytes]) -> None:
        self.packets = [0] * session.components
        self._session, self._video, self._datagrams = session, video, datagrams
        self._tasks = [asyncio.ensure_future(self._record(component)) for component in range(session.components)]

    async def _record(self, component: int) -> None:
        while True:
            packet = await self._session.receive(component)
            self.packets[component] += 1
            self._datagrams.write(len(packet).to_bytes(4, "big") + packet)
            if component == 0:
                self._video.write(payload(packet))

    async def close(self) -> None:
        """Take what has arrived, then no more."""
        await asyncio.sleep(SETTLE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def play(config: Path, server: str, output: Path) -> None:
    """Open the session, record until standard input ends, close it."""
    async with Client(config) as client:
        session = await client.open(server, components=2)
        with output.open("wb") as video, output.with_name(output.name + ".datagrams").open("wb") as datagrams:
            recorder = Recorder(session, video, datagrams)
            tell(
                local=str(session.local), entry=str(session.entry), exit=str(session.exit), server=str(session.peer),
                sealed=session.sealed, last=session.relays[-1],
            )  # fmt: skip
            await asyncio.to_thread(sys.stdin.read)
            await recorder.close()
        counters = await session.close()
    tell(packets=recorder.packets, counters=[asdict(each) for each in counters], seal=asdict(session.seal_counters))


def tell(**values: Any) -> None:
    """A line for play.py."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(play(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
