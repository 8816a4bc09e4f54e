"""The client's side of the set-up benchmark: a process of its own inside the client host, told what to do line by line.

Reads JSON commands from standard input and answers each with one JSON line. It speaks the real protocol over the real
connection code (net/neighbours.py); it binds no P1, because what is measured is the exchange and the installing, not datagrams.

    {"do": "open", "count": N, "concurrent": C, "keep": bool, "way": "recursive"|"iterative"}
                                                                → {"seconds", "latencies_ms": [...], "failed": {...}}
    {"do": "handshakes", "count": N, "concurrent": C}           → {"seconds", "failed"}
    {"do": "close_kept"}                                        → {"closed"}
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from chainrelay.client.leg import Asker
from chainrelay.client.walk import Walk
from chainrelay.errors import Refusal
from chainrelay.net.neighbours import Neighbour
from chainrelay.session.events import NextHop
from chainrelay.session.policy import Policy
from chainrelay.session.tables import AccessTable, Kind, PeerRow, PeerTable, RouteTable
from chainrelay.wire.endpoint import Endpoint, Target, parse_address
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import Close, Open, Protocol, Way

LEASE = 3600  # standing sessions are not to be renewed while others are measured
TIMEOUT = 30.0


@dataclass
class Load:
    """The state of the load client: its connection and the sessions it keeps open."""

    me: str
    hop: NextHop
    policy: Policy
    server: str
    neighbour: Neighbour
    kept: list[tuple[Asker, bytes]] = field(default_factory=list)
    ports: itertools.cycle[tuple[int, int]] = field(
        default_factory=lambda: itertools.cycle((p1, 5000 + p1 % 1000) for p1 in range(2000, 62000))
    )

    def request(self, way: Way) -> Open:
        """A fresh OPEN: the next P1, and one of a thousand server ports."""
        assert self.neighbour.local is not None
        port, server_port = next(self.ports)
        me = Endpoint(self.neighbour.local, port)
        server = Target(parse_address(self.server), server_port)
        return Open(os.urandom(16), Protocol.UDP, way, False, 1, me, server, self.me, me, LEASE, (), 8)

    def asker(self, way: Way) -> Asker:
        """Whom a session asks: relay 1, or all of them."""
        if way is Way.RECURSIVE:
            return self.neighbour
        assert self.neighbour.local is not None
        return Walk(self.me, self.hop.peer, self.neighbour, self.policy, self.hop.at.address, self.neighbour.local)

    async def open(self, count: int, concurrent: int, keep: bool, way: Way) -> dict[str, Any]:
        latencies: list[float] = []
        opened: list[tuple[Asker, bytes]] = []

        async def one() -> None:
            request = self.request(way)
            before = time.perf_counter()
            asker = self.asker(way)
            await asker.request(request, TIMEOUT)
            latencies.append((time.perf_counter() - before) * 1000)
            opened.append((asker, request.session))

        seconds, failed = await crowd(one, count, concurrent)
        if keep:
            self.kept += opened
        else:
            await self.close(opened)
        return {"seconds": seconds, "latencies_ms": latencies, "failed": failed}

    async def close(self, sessions: list[tuple[Asker, bytes]]) -> dict[str, Any]:
        """Close outside the measured time."""
        waiting = iter(sessions)

        async def one() -> None:
            asker, session = next(waiting)
            await asker.request(Close(session), TIMEOUT)

        _, failed = await crowd(one, len(sessions), 64)
        return {"closed": len(sessions) - sum(failed.values()), "failed": failed}

    async def handshakes(self, count: int, concurrent: int) -> dict[str, Any]:
        async def one() -> None:
            neighbour = Neighbour(self.me, self.hop, lambda: self.policy.peers.current_key(self.hop.peer), Purpose.CLIENT_HOP)
            await neighbour.connect(TIMEOUT)
            await neighbour.close()

        seconds, failed = await crowd(one, count, concurrent)
        return {"seconds": seconds, "failed": failed}


async def crowd(one: Callable[[], Awaitable[object]], count: int, concurrent: int) -> tuple[float, dict[str, int]]:
    """Run `one` `count` times, `concurrent` at once; the seconds it took, and the refusals by code."""
    left = iter(range(count))
    failed: Counter[str] = Counter()

    async def worker() -> None:
        for _ in left:
            try:
                await one()
            except Refusal as refusal:
                failed[str(refusal)] += 1

    before = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrent)))
    return time.perf_counter() - before, dict(failed)


async def main() -> None:
    setup = json.loads(sys.stdin.readline())
    hop = NextHop(setup["relay"], Endpoint.parse(setup["at"]))
    keys = {relay: PairKey(setup["kid"], bytes.fromhex(key)) for relay, key in setup["keys"].items()}
    peers = PeerTable(tuple(PeerRow(relay, Kind.RELAY, (key,)) for relay, key in keys.items()))
    policy = Policy(RouteTable(()), peers, AccessTable(()))
    neighbour = Neighbour(setup["me"], hop, lambda: keys[hop.peer], Purpose.CLIENT_HOP)
    await neighbour.connect(TIMEOUT)
    load = Load(setup["me"], hop, policy, setup["server"], neighbour)
    print(json.dumps({"ready": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match json.loads(line):
            case {"do": "open", "count": count, "concurrent": concurrent, "keep": keep, **others}:
                answer = await load.open(count, concurrent, keep, Way[str(others.get("way", "recursive")).upper()])
            case {"do": "handshakes", "count": count, "concurrent": concurrent}:
                answer = await load.handshakes(count, concurrent)
            case {"do": "close_kept"}:
                answer = await load.close(load.kept)
                load.kept = []
            case other:
                raise SystemExit(f"unknown command {other}")
        print(json.dumps(answer), flush=True)
    await neighbour.close()


if __name__ == "__main__":
    asyncio.run(main())
