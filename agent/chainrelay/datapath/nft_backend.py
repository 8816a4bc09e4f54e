"""The nftables backend: operations in batches, each operation all or nothing. Needs no other backend beside it.

Decides what is sent to the kernel and what its answer means. Keeps no state: every operation brings its mapping, the
kernel holds the sessions. Whoever talks to the kernel is given as a `Kernel` (privileged/kernel.py); nothing here
opens a socket.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from chainrelay import limits
from chainrelay.datapath import nft
from chainrelay.datapath.mapping import (
    Counters,
    Done,
    Failed,
    Install,
    LiveFlow,
    Mapping,
    Operation,
    Outcome,
    Plain,
    Remove,
    Renew,
)
from chainrelay.datapath.nft import Change, Elements, Step, Tuple
from chainrelay.datapath.ruleset import Ruleset, render, teardown
from chainrelay.datapath.unsealed import apart
from chainrelay.errors import DatapathError

log = logging.getLogger(__name__)

NOTHING = (0, 0)
"""Packets and bytes of an element that was not there, or whose notification was lost."""

INSTALLED = Done(Counters())

Counted = dict[bytes, tuple[int, int]]
"""Packets and bytes by packed key (`Tuple.packed`)."""


@dataclass(frozen=True, slots=True)
class LiveElement:
    """An element of `live`: its key, seconds left, packets, bytes."""

    key: bytes
    expires: float
    packets: int
    octets: int


class TransactionError(DatapathError):
    """The kernel refused a transaction, which then changed nothing."""

    def __init__(self, why: str, *, full: bool = False, exists: bool = False, missing: bool = False) -> None:
        super().__init__(why, full=full)
        self.exists, self.missing = exists, missing


class Kernel(Protocol):
    """What the backend needs of the kernel. All raise DatapathError; what is a transaction its TransactionError."""

    def check_forwarding(self, families: Iterable[int]) -> None:
        """Raise when the kernel forwards none of the families, warn when it does not forward one."""

    def reserve_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        """Keep the kernel from handing pool ports to local sockets."""

    def release_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        """Take that back."""

    def run(self, text: str) -> None:
        """One nft transaction, given as text: the static rules."""

    def change(self, changes: Sequence[Change]) -> None:
        """One transaction of elements."""

    def change_counting(self, changes: Sequence[Change]) -> Counted:
        """One transaction of elements; the final counters of those of `live` that it deleted."""

    def live(self, family: int) -> list[LiveElement]:
        """All elements of `live`; empty where the table is missing."""

    def counters(self, keys: Sequence[bytes]) -> Counted:
        """Counters of those of `keys` that are alive."""

    def destinations(self, family: int) -> list[tuple[bytes, bytes]]:
        """All elements of `to_destination`, keys and data; empty where the table is missing."""

    def has_gate(self, family: int) -> bool:
        """Whether our table is there, with rules in its gate."""

    def forget(self, keys: Sequence[bytes]) -> None:
        """Delete the conntrack entries that know these tuples in either direction."""

    def tracked(self, mark: int, mask: int) -> list[bytes]:
        """The original tuples of conntrack entries with our mark, packed as keys."""

    def close(self) -> None:
        """Release handles."""


class NftBackend:
    """`Backend` on nftables."""

    def __init__(self, ruleset: Ruleset, kernel: Kernel) -> None:
        self._ruleset, self._kernel = ruleset, kernel
        self._lost = False  # a transaction found the tables gone and put them back, without the other sessions

    def setup(self) -> None:
        """Load the static rules, and clear away what ended sessions left while no agent ran."""
        self._load()
        self._lost = False
        self._reap()

    def reconfigure(self, ruleset: Ruleset) -> None:
        """Other static rules from now on; sessions stay, those on ports of an earlier pool included."""
        before, self._ruleset = self._ruleset, ruleset
        if before.pool != ruleset.pool:
            self._kernel.release_ports(before.pool)
        self._load()

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Carry the operations out, in their order where they touch the same keys."""
        return apart(operations, self._apply_all)

    def _apply_all(self, operations: Sequence[Plain]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for batch in _batches(operations):
            outcomes += self._apply(batch)
        return outcomes

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """Read them from the live elements."""
        counted = self._kernel.counters([key for mapping in mappings for key in nft.live_keys(mapping)])
        return [_counters(mapping, counted) for mapping in mappings]

    def flows(self) -> list[LiveFlow]:
        """Every element of `live`."""
        return [
            LiveFlow(key.protocol, key.source, key.destination, element.expires, element.packets, element.octets)
            for family in self._ruleset.families
            for element in self._kernel.live(family)
            for key in (Tuple.unpack(element.key),)
        ]

    def intact(self) -> bool:
        """Whether every family has its table with a gate in it, and had it all the time."""
        return not self._lost and all(self._kernel.has_gate(family) for family in self._ruleset.families)

    def seals(self) -> bool:
        """Rules can't."""
        return False

    def flush_own(self) -> None:
        """Tables first, so that nothing new is tracked; then what conntrack remembers; then the reserved ports."""
        self._kernel.run(teardown())
        self._kernel.forget(self._kernel.tracked(self._ruleset.mark, self._ruleset.mask))
        self._kernel.release_ports(self._ruleset.pool)

    def close(self) -> None:
        """The kernel's state stays."""
        self._kernel.close()

    def _apply(self, batch: Sequence[Step]) -> list[Outcome]:
        try:
            return self._commit(batch)
        except DatapathError as refused:
            if len(batch) == 1:
                return [self._once_more(batch, refused)]
        return [outcome for step in batch for outcome in self._apply([step])]

    def _once_more(self, step: Sequence[Step], refused: DatapathError) -> Outcome:
        """What stands in the way of an Install may have ended: flows that nobody knew any more leave their map elements behind."""
        operation = step[0][0]
        if isinstance(operation, Install) and isinstance(refused, TransactionError) and refused.exists and self._reap():
            try:
                return self._commit(step)[0]
            except DatapathError as again:
                refused = again
        return _failure(operation, refused)

    def _commit(self, batch: Sequence[Step]) -> list[Outcome]:
        """One transaction: first as if all were there, then for what has ended, then with the tables put back."""
        try:
            return self._transact(batch, certain=True)
        except TransactionError as refused:
            if not refused.missing:
                raise
        try:
            return self._transact(batch, certain=False)
        except TransactionError as refused:
            if not refused.missing:
                raise
        log.warning("table chainrelay is gone (was the whole ruleset flushed?); setting it up again")
        self._lost = True
        self._kernel.run(render(self._ruleset))
        return self._transact(batch, certain=False)

    def _transact(self, batch: Sequence[Step], *, certain: bool) -> list[Outcome]:
        changes = nft.transaction(batch, certain=certain)
        if all(isinstance(operation, Install) for operation, _ in batch):
            self._kernel.change(changes)
            return [INSTALLED] * len(batch)
        counted = self._kernel.change_counting(changes)
        over = [
            key
            for operation, _ in batch
            if isinstance(operation, Remove) and not operation.linger
            for key in nft.live_keys(operation.mapping)[::2]  # an entry is found by either direction's tuple
        ]
        if over:
            self._kernel.forget(over)
        return [
            INSTALLED if isinstance(operation, Install) else Done(_counters(operation.mapping, counted))
            for operation, _ in batch
        ]

    def _load(self) -> None:
        self._kernel.check_forwarding(self._ruleset.families)
        self._kernel.reserve_ports(self._ruleset.pool)
        self._kernel.run(render(self._ruleset))

    def _reap(self) -> bool:
        """Map elements and conntrack entries without a live element: an old entry would lead a new session astray. Whether there were
        any elements."""
        live: set[bytes] = set()
        found = False
        for family in self._ruleset.families:
            here = {element.key for element in self._kernel.live(family)}
            stale = [(key, data) for key, data in self._kernel.destinations(family) if key not in here]
            if stale:
                found = True
                self._kernel.change(nft.forget_maps(family, stale))
            live |= here
        marked = self._kernel.tracked(self._ruleset.mark, self._ruleset.mask)
        self._kernel.forget([key for key in marked if key not in live])
        return found


def _batches(operations: Iterable[Plain]) -> Iterator[list[Step]]:
    """Runs of at most BATCH operations of which no two share a key: these may be reordered within their transaction."""
    batch: list[Step] = []
    keys: set[bytes] = set()
    for operation in operations:
        elements = Elements.of(operation.mapping)
        if len(batch) == limits.BATCH or not keys.isdisjoint(elements.keys):
            yield batch
            batch, keys = [], set()
        batch.append((operation, elements))
        keys.update(elements.keys)
    if batch:
        yield batch


def _failure(operation: Plain, why: DatapathError) -> Outcome:
    """What it means that this operation, alone in its transaction, did not work."""
    held = isinstance(why, TransactionError) and why.exists
    match operation:
        case Remove() if held:
            return Done(Counters())  # its keys belong to another mapping: this one is not there
        case Install(mapping=mapping) | Renew(mapping=mapping) if held:
            partners = f"{mapping.client_partner} and {mapping.server_partner}"
            return Failed(f"another session already relays from or to one of {partners} by the same ports")
        case Install() | Renew() | Remove():
            return Failed(str(why), why.full)
        case _:
            assert_never(operation)


def _counters(mapping: Mapping, counted: Counted) -> Counters:
    found = [counted.get(key, NOTHING) for key in nft.live_keys(mapping)]
    to_server, to_client = found[::2], found[1::2]
    return Counters(*map(sum, zip(*to_server, strict=True)), *map(sum, zip(*to_client, strict=True)))
