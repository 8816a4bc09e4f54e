"""Which of our ports is in use toward whom: one pool per own address and partner address (docs/design.md §4, "pool").

A port belongs to one session per pair of addresses, so the tuples that the kernel looks up are unambiguous. A closed session's
port rests toward that partner before it is given out again: a late datagram must not land in somebody else's session. (The
port is what rests, not the full tuple: toward the next relay the partner's port is not yet known when ours is chosen.)

Ports are kept in slots of an even port and the next one, so that a pair (RTP and RTCP) is one slot and two freed halves become
a slot again. Every operation takes constant time, but for ports that are put aside by `occupy`, which wait in a heap.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence

from chainrelay.errors import Code, Refusal
from chainrelay.session.prefixes import PortRange
from chainrelay.wire.endpoint import Address, Endpoint

Key = tuple[int, int, int]
"""Family, own address, partner address: as numbers, addresses are slow to hash."""


class PairPool:
    """The ports of one own address toward one partner address."""

    __slots__ = ("_avoid", "_cursor", "_halves", "_ports", "_resting", "_skip", "_slots", "in_use", "rested_at")

    def __init__(self, ports: PortRange, avoid: frozenset[int]) -> None:
        self._ports, self._avoid = ports, avoid
        self._cursor = ports.first & ~1  # even port of the next slot that was never given out
        self._skip: set[int] = set()  # ports taken out of turn: no news when the cursor comes by
        self._resting: OrderedDict[int, float] = OrderedDict()  # port → rested at, by time
        self._halves: OrderedDict[int, None] = OrderedDict()  # free ports without their sibling
        self._slots: OrderedDict[int, None] = OrderedDict()  # free slots, by even port
        self.in_use = 0
        self.rested_at = 0.0  # when the last port will have rested

    def take(self, components: int, now: float) -> int | None:
        """The first port of a session, or None when nothing is left or rested."""
        while self._resting and next(iter(self._resting.values())) <= now:
            self._free(self._resting.popitem(last=False)[0])
        port = self._pair() if components == 2 else self._single()
        if port is not None:
            self.in_use += components
        return port

    def _pair(self) -> int | None:
        while not self._slots and self._cursor <= self._ports.last:
            self._advance()
        return _pop(self._slots)

    def _single(self) -> int | None:
        while not self._slots and not self._halves and self._cursor <= self._ports.last:
            self._advance()
        if self._halves:
            return _pop(self._halves)
        even = _pop(self._slots)
        if even is not None:
            self._halves[even + 1] = None
        return even

    def _advance(self) -> None:
        """Free the next slot that was never given out, as far as it is ours to give."""
        even, self._cursor = self._cursor, self._cursor + 2
        for port in (even, even + 1):
            if port in self._ports and port not in self._avoid and port not in self._skip:
                self._free(port)

    def _free(self, port: int) -> None:
        """Two free halves are a slot."""
        sibling = port ^ 1
        if sibling in self._halves:
            del self._halves[sibling]
            self._slots[port & ~1] = None
        else:
            self._halves[port] = None

    def give_back(self, port: int, components: int, rested_at: float) -> None:
        """The end of `take` or `occupy`. Times must not run backwards."""
        self.rested_at = max(self.rested_at, rested_at)
        for one in range(port, port + components):
            if one in self._ports and one not in self._avoid:  # otherwise: from before a reload that gave the pool other ports
                self.in_use -= 1
                self._resting[one] = rested_at

    def occupy(self, port: int) -> bool:
        """Take a certain port out of turn. False when it is in use already, or never ours to give."""
        if port not in self._ports or port in self._avoid:
            return False
        even = port & ~1
        if port in self._resting:
            del self._resting[port]
        elif port in self._halves:
            del self._halves[port]
        elif even in self._slots:
            del self._slots[even]
            self._halves[port ^ 1] = None
        elif even >= self._cursor and port not in self._skip:
            self._skip.add(port)
        else:
            return False
        self.in_use += 1
        return True


def _pop(ports: OrderedDict[int, None]) -> int | None:
    """The one that has been free for the longest time."""
    return ports.popitem(last=False)[0] if ports else None


class PortPool:
    """All of a relay's ports."""

    def __init__(self, ports: PortRange, rest: float, avoid: frozenset[int] = frozenset()) -> None:
        self.ports, self.rest, self.avoid = ports, rest, avoid
        self._pools: dict[Key, PairPool] = {}
        self._emptied: deque[tuple[float, Key]] = deque()  # pools without a session, by the time that they have rested
        self._until: list[tuple[float, int, Key]] = []  # ports put aside for a time: a heap

    @property
    def in_use(self) -> int:
        """Ports that are not free, those resting not counted. For tests and listings: adds all pools up."""
        return sum(pool.in_use for pool in self._pools.values())

    @property
    def pools(self) -> int:
        """Pairs of addresses of which something is remembered."""
        return len(self._pools)

    def assign(self, owns: Sequence[Address], partner: Address, components: int, now: float) -> Endpoint:
        """A port (the first of two) at the first own address with room. Raises Refusal(PORTS_EXHAUSTED)."""
        self._tidy(now)
        for own in owns:
            port = self._pool(key_of(own, partner)).take(components, now)
            if port is not None:
                return Endpoint(own, port)
        busy = sum(self._pool(key_of(own, partner)).in_use for own in owns)
        text = (
            f"no port left in pool {self.ports} of {', '.join(map(str, owns))} toward {partner}: {busy} in use, others rest "
            f"for {self.rest:g} s; widen [ports] pool or list more own addresses under [addresses] in this relay's agent.toml"
        )
        raise Refusal(Code.PORTS_EXHAUSTED, text)

    def release(self, own: Endpoint, partner: Address, components: int, now: float) -> None:
        """Give back what `assign` gave; the ports rest first."""
        self._release(key_of(own.address, partner), own.port, components, now)

    def _release(self, key: Key, port: int, components: int, now: float) -> None:
        pool = self._pool(key)
        pool.give_back(port, components, now + self.rest)
        if not pool.in_use:
            self._emptied.append((pool.rested_at, key))

    def occupy(self, own: Endpoint, partner: Address, until: float = float("inf")) -> bool:
        """Put a port aside that something else holds (the kernel after a restart), for good or until a time."""
        key = key_of(own.address, partner)
        taken = self._pool(key).occupy(own.port)
        if taken and until != float("inf"):
            heapq.heappush(self._until, (until, own.port, key))
        return taken

    def _pool(self, key: Key) -> PairPool:
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = PairPool(self.ports, self.avoid)
        return pool

    def _tidy(self, now: float) -> None:
        """Forget what has rested, so that memory follows the sessions and not their history."""
        while self._until and self._until[0][0] <= now:
            _, port, key = heapq.heappop(self._until)
            self._release(key, port, 1, now)
        while self._emptied and self._emptied[0][0] <= now:
            _, key = self._emptied.popleft()
            pool = self._pools.get(key)
            if pool is not None and not pool.in_use and pool.rested_at <= now:
                del self._pools[key]


def key_of(own: Address, partner: Address) -> Key:
    """Where the pool of two addresses is kept."""
    return own.version, int(own), int(partner)
