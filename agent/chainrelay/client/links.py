"""The links to first relays: one authenticated connection per relay, shared by all sessions of a Client."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from typing import Any

from chainrelay.client.leg import RelayedLeg
from chainrelay.errors import Code, Refusal
from chainrelay.net.neighbours import Neighbour
from chainrelay.session.events import NextHop
from chainrelay.session.tables import PeerTable
from chainrelay.wire.endpoint import Address
from chainrelay.wire.keys import Purpose


class Link:
    """The connection to one first relay and the legs that live on it."""

    def __init__(self, me: str, hop: NextHop, peers: PeerTable) -> None:
        self.hop = hop
        self.neighbour = Neighbour(me, hop, lambda: peers.current_key(hop.peer), Purpose.CLIENT_HOP)
        self.neighbour.on_lost = self._lost
        self._legs: weakref.WeakSet[RelayedLeg] = weakref.WeakSet()
        self._undone: set[asyncio.Task[None]] = set()

    async def addresses(self) -> tuple[Address, Address]:
        """Our own address on the link, where P1 lies, and the relay's. Connects if need be. Raises Refusal."""
        await self.neighbour.connect()
        local, remote = self.neighbour.local, self.neighbour.remote
        if local is None or remote is None:
            raise Refusal(Code.NEXT_HOP_UNREACHABLE, f"the connection to {self.hop.peer} at {self.hop.at} was lost")
        return local, remote

    def carries(self, leg: RelayedLeg) -> None:
        """This leg wants to know when the link was lost, and may leave a CLOSE to be said again."""
        self._legs.add(leg)
        leg.later = self._later

    async def close(self) -> None:
        """The link, and what is still to be said on it."""
        for task in self._undone:
            task.cancel()
        await asyncio.gather(*self._undone, return_exceptions=True)
        await self.neighbour.close()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._undone.add(task)
        task.add_done_callback(self._undone.discard)

    def _lost(self) -> None:
        for leg in self._legs:
            leg.look_now()


class Links:
    """All of a client's links, by relay."""

    def __init__(self, me: str, peers: PeerTable) -> None:
        self._me, self._peers = me, peers
        self._links: dict[NextHop, Link] = {}
        self._closed = False

    def to(self, hop: NextHop) -> Link:
        """The link to a relay; it connects when it is first used. Raises Refusal after `close`."""
        if self._closed:
            raise Refusal(Code.WRONG_STATE, "the client was closed; make another one")
        if hop not in self._links:
            self._links[hop] = Link(self._me, hop, self._peers)
        return self._links[hop]

    async def close(self) -> None:
        """Close every link; there will be no others."""
        self._closed = True
        await asyncio.gather(*(link.close() for link in self._links.values()))
        self._links.clear()
