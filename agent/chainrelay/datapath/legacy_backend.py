"""The iptables-legacy backend: operations in batches, each operation all or nothing (docs/design.md §12).

Keeps an index of the sessions in memory, read back from the sets by `setup`: iptables has no keys that would refuse a second rule
for the same tuple. The switch of a session is its elements in the set; rules without them do nothing. So rules come before
elements, and go after them.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from chainrelay import limits
from chainrelay.datapath.legacy_ruleset import Element, Key
from chainrelay.datapath.mapping import (
    Counters,
    Done,
    Failed,
    Flow,
    Install,
    LiveFlow,
    Mapping,
    Operation,
    Outcome,
    Plain,
    Remove,
    Renew,
)
from chainrelay.datapath.nft import Tuple, live_keys
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.datapath.unsealed import apart
from chainrelay.errors import DatapathError

log = logging.getLogger(__name__)

Counted = dict[Key, tuple[int, int]]
"""Packets and bytes of those elements that are alive."""


class ChainsGoneError(DatapathError):
    """Our chains are not where they should be: a table was flushed or restored without them."""


@dataclass(frozen=True, slots=True)
class Put:
    """Add an element, or prolong it. `new`: counters begin at 0."""

    flow: Flow
    seconds: int
    new: bool


class Kernel(Protocol):
    """What the backend needs of the kernel. All raise DatapathError."""

    def check_forwarding(self, families: Iterable[int]) -> None:
        """Raise when the kernel forwards none of the families, warn when it does not forward one."""

    def reserve_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        """Keep the kernel from handing pool ports to local sockets."""

    def release_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        """Take that back."""

    def create_set(self, family: int) -> None:
        """Create the set unless it is there."""

    def destroy_set(self, family: int) -> None:
        """Destroy it; no error when it is missing. No rule may refer to it any more."""

    def elements(self, family: int) -> list[Element]:
        """All that is alive in the set; empty where the set is missing."""

    def counters(self, family: int, keys: Iterable[Key], *, fresh: bool) -> Counted:
        """Counters of those of `keys` that are alive. Not `fresh`: a reading of a moment ago will do."""

    def put(self, family: int, elements: Sequence[Put]) -> list[DatapathError | None]:
        """Write elements; what went wrong with each."""

    def delete(self, family: int, flows: Sequence[Flow]) -> None:
        """Delete elements; a missing one is no error."""

    def load(self, ruleset: Ruleset, family: int, flows: Iterable[Flow]) -> None:
        """Our chains in all tables, as they should be with these flows; each table at once."""

    def unload(self, family: int) -> None:
        """Remove our chains and hooks."""

    def hooked(self, family: int) -> bool:
        """Whether our chains still stand and are called."""

    def commit(self, family: int, add: Sequence[Flow], delete: Sequence[Flow]) -> None:
        """Rules of these flows, in one transaction; to delete a missing one is no error. Raises ChainsGoneError."""

    def forget(self, keys: Sequence[bytes]) -> None:
        """Delete the conntrack entries that know these tuples in either direction."""

    def tracked(self, mark: int, mask: int) -> list[bytes]:
        """The original tuples of conntrack entries with our mark, packed as `Tuple.packed`."""

    def close(self) -> None:
        """Release handles."""


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation with its flows, and where its outcome goes."""

    place: int
    operation: Plain
    flows: tuple[Flow, ...]


class LegacyBackend:
    """`Backend` on iptables-legacy and ipset. `capacity`: sessions of one family (of one component each) that fit in."""

    def __init__(self, ruleset: Ruleset, kernel: Kernel, capacity: int = limits.LEGACY_SESSIONS) -> None:
        self._ruleset, self._kernel, self._capacity = ruleset, kernel, capacity
        self._held: dict[int, dict[Key, Flow]] = {}
        self._translated: dict[Tuple, Flow] = {}
        self._counted: Counted = {}
        """Counters at the last Renew; the kernel's go on."""

    def setup(self) -> None:
        """Adopt what lives in the sets, make the rules anew from it, forget connections whose lease ended while no agent ran."""
        self._kernel.check_forwarding(self._ruleset.families)
        self._kernel.reserve_ports(self._ruleset.pool)
        for family in self._ruleset.families:
            self._kernel.create_set(family)
            self._adopt(family)
            self._kernel.load(self._ruleset, family, self._held[family].values())
        live = {_arriving(flow).packed() for held in self._held.values() for flow in held.values()}
        marked = self._kernel.tracked(self._ruleset.mark, self._ruleset.mask)
        self._kernel.forget([key for key in marked if key not in live])

    def reconfigure(self, ruleset: Ruleset) -> None:
        """Other static rules from now on; sessions stay, those on ports of an earlier pool included."""
        before, self._ruleset = self._ruleset, ruleset
        if before.pool != ruleset.pool:
            self._kernel.release_ports(before.pool)
        self._kernel.check_forwarding(ruleset.families)
        self._kernel.reserve_ports(ruleset.pool)
        for family in ruleset.families:
            self._kernel.load(ruleset, family, self._held.get(family, {}).values())

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Carry the operations out, in their order where they touch the same keys."""
        return apart(operations, self._apply_all)

    def _apply_all(self, operations: Sequence[Plain]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for batch in _batches(operations):
            outcomes += self._apply(batch)
        return outcomes

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """Read them from the sets."""
        keys: defaultdict[int, list[Key]] = defaultdict(list)
        for mapping in mappings:
            keys[mapping.family] += map(Key.of, _flows(mapping))
        counted: Counted = {}
        for family, wanted in keys.items():
            counted |= self._kernel.counters(family, wanted, fresh=True)
        return [self._since(_flows(mapping), counted) for mapping in mappings]

    def flows(self) -> list[LiveFlow]:
        """Every element of the sets."""
        return [
            LiveFlow(each.flow.protocol, each.flow.source, each.flow.destination, each.expires, each.packets, each.octets)
            for family in self._ruleset.families
            for each in self._kernel.elements(family)
        ]

    def intact(self) -> bool:
        """Whether our chains stand in every family, and are called before anything else."""
        return all(self._kernel.hooked(family) for family in self._ruleset.families)

    def seals(self) -> bool:
        """Rules can't."""
        return False

    def flush_own(self) -> None:
        """Rules and sets first, so that nothing new is tracked; then what conntrack remembers; then the reserved ports."""
        for family in (4, 6):
            self._kernel.unload(family)
            self._kernel.destroy_set(family)
        self._held, self._translated, self._counted = {}, {}, {}
        self._kernel.forget(self._kernel.tracked(self._ruleset.mark, self._ruleset.mask))
        self._kernel.release_ports(self._ruleset.pool)

    def close(self) -> None:
        """The kernel's state stays."""
        self._kernel.close()

    # one batch ---------------------------------------------------------------

    def _apply(self, batch: Sequence[_Step]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        for family in (4, 6):
            steps = [step for step in batch if step.operation.mapping.family == family]
            if steps:
                outcomes |= self._apply_family(family, steps)
        return [outcomes[step.place] for step in batch]

    def _apply_family(self, family: int, steps: Sequence[_Step]) -> dict[int, Outcome]:
        try:
            try:
                return self._transact(family, steps)
            except ChainsGoneError:
                self._restore(family)
                return self._transact(family, steps)
        except DatapathError as fault:
            if len(steps) == 1:
                return {steps[0].place: Failed(str(fault), fault.full)}
        outcomes: dict[int, Outcome] = {}
        for step in steps:
            outcomes |= self._apply_family(family, [step])
        return outcomes

    def _transact(self, family: int, steps: Sequence[_Step]) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        held = self._held.setdefault(family, {})
        todo: list[_Step] = []
        add: list[Flow] = []
        delete: list[Flow] = []
        for step in steps:
            refused = self._refused(step, held, len(add) - len(delete))
            if refused is not None:
                outcomes[step.place] = refused
                continue
            todo.append(step)
            if isinstance(step.operation, Remove):
                delete += [flow for flow in step.flows if held.get(Key.of(flow)) == flow]
            else:
                add += [flow for flow in step.flows if Key.of(flow) not in held]
        if add or delete:
            self._kernel.commit(family, add, delete)
        self._note(held, add, delete)
        counted = self._end(family, todo)
        return outcomes | self._switch(family, held, todo, set(add), counted)

    def _refused(self, step: _Step, held: dict[Key, Flow], more: int) -> Outcome | None:
        """The outcome, where nothing is to be done or nothing can be."""
        others = any(
            held.get(Key.of(flow), flow) != flow or self._translated.get(_translated(flow), flow) != flow for flow in step.flows
        )
        mapping = step.operation.mapping
        match step.operation:
            case Remove():
                return Done(Counters()) if others else None  # its keys belong to another mapping: this one is not there
            case Install() | Renew() if others:
                partners = f"{mapping.client_partner} and {mapping.server_partner}"
                return Failed(f"another session already relays from or to one of {partners} by the same ports")
            case Install() | Renew():
                new = sum(Key.of(flow) not in held for flow in step.flows)
                if new and len(held) + more + new > 2 * self._capacity:
                    why = f"iptables-legacy carries {self._capacity} sessions here; nftables carries more (datapath.rules)"
                    return Failed(why, full=True)
                return None
            case _:
                assert_never(step.operation)

    def _note(self, held: dict[Key, Flow], add: Iterable[Flow], delete: Iterable[Flow]) -> None:
        for flow in delete:
            held.pop(Key.of(flow), None)
            self._translated.pop(_translated(flow), None)
        for flow in add:
            held[Key.of(flow)] = flow
            self._translated[_translated(flow)] = flow

    def _end(self, family: int, steps: Sequence[_Step]) -> Counted:
        """Connections of removed sessions, then what was counted: without rules and connection nothing is counted any more."""
        removals = [step.operation for step in steps if isinstance(step.operation, Remove)]
        over = [key for each in removals if not each.linger for key in live_keys(each.mapping)[::2]]
        if over:
            self._kernel.forget(over)
        ended = {Key.of(flow) for step in steps if isinstance(step.operation, Remove) for flow in step.flows}
        renewed = {Key.of(flow) for step in steps if isinstance(step.operation, Renew) for flow in step.flows}
        if not ended and not renewed:
            return {}
        return self._kernel.counters(family, ended | renewed, fresh=bool(ended))

    def _switch(
        self, family: int, held: dict[Key, Flow], steps: Sequence[_Step], fresh: set[Flow], counted: Counted
    ) -> dict[int, Outcome]:
        """The elements: out with those of removed sessions, then in with the others."""
        outcomes: dict[int, Outcome] = {}
        puts: list[Put] = []
        gone: list[Flow] = []
        for step in steps:
            operation = step.operation
            renewed = not isinstance(operation, Install)
            outcomes[step.place] = Done(self._since(step.flows, counted) if renewed else Counters())
            for flow in step.flows:
                key = Key.of(flow)
                if isinstance(operation, Remove):
                    gone.append(flow)
                    self._counted.pop(key, None)
                    continue
                new = flow in fresh or (renewed and key not in counted)
                puts.append(Put(flow, max(1, math.ceil(operation.lease)), new))
                if new:
                    self._counted.pop(key, None)
                elif renewed:
                    self._counted[key] = counted[key]
        if gone:
            self._kernel.delete(family, gone)
        if puts:
            why = {put.flow: fault for put, fault in zip(puts, self._kernel.put(family, puts), strict=True) if fault}
            if why:
                outcomes |= self._undo(family, held, steps, why)
        return outcomes

    def _undo(
        self, family: int, held: dict[Key, Flow], steps: Sequence[_Step], why: dict[Flow, DatapathError]
    ) -> dict[int, Outcome]:
        """Sessions of which an element was refused: none of them stays."""
        outcomes: dict[int, Outcome] = {}
        over: list[Flow] = []
        for step in steps:
            fault = next((why[flow] for flow in step.flows if flow in why), None)
            if fault is not None:
                over += step.flows
                outcomes[step.place] = Failed(str(fault), fault.full)
        self._kernel.delete(family, over)
        self._kernel.commit(family, [], over)
        self._note(held, (), over)
        return outcomes

    # the kernel's state ------------------------------------------------------

    def _restore(self, family: int) -> None:
        log.warning("the chains CHAINRELAY-* are gone (was a table flushed or restored?); setting them up again")
        self._kernel.create_set(family)
        self._adopt(family)
        self._kernel.load(self._ruleset, family, self._held[family].values())

    def _adopt(self, family: int) -> None:
        """Take the index from the set. What an earlier process had been told of counts nobody knows: they begin anew."""
        before = self._held.pop(family, {})
        for flow in before.values():
            self._translated.pop(_translated(flow), None)
        self._held[family] = {}
        elements = self._kernel.elements(family)
        self._note(self._held[family], [each.flow for each in elements], ())
        for each in elements:
            if before.get(Key.of(each.flow)) != each.flow:
                self._counted[Key.of(each.flow)] = each.packets, each.octets

    def _since(self, flows: Iterable[Flow], counted: Counted) -> Counters:
        """What `counted` says beyond the last Renew."""
        found = []
        for flow in flows:
            key = Key.of(flow)
            packets, octets = counted.get(key, (0, 0))
            before = self._counted.get(key, (0, 0)) if key in counted else (0, 0)
            found.append((packets - before[0], octets - before[1]))
        to_server, to_client = found[::2], found[1::2]
        return Counters(*map(sum, zip(*to_server, strict=True)), *map(sum, zip(*to_client, strict=True)))


def _batches(operations: Iterable[Plain]) -> Iterator[list[_Step]]:
    """Runs of at most BATCH operations of which no two share a key: these may be reordered within their transaction."""
    batch: list[_Step] = []
    keys: set[Key | Tuple] = set()
    for place, operation in enumerate(operations):
        flows = _flows(operation.mapping)
        own: set[Key | Tuple] = {*map(Key.of, flows), *map(_translated, flows)}
        if len(batch) == limits.BATCH or not keys.isdisjoint(own):
            yield batch
            batch, keys = [], set()
        batch.append(_Step(place, operation, flows))
        keys |= own
    if batch:
        yield batch


def _flows(mapping: Mapping) -> tuple[Flow, ...]:
    return tuple(flow for pair in mapping.flows() for flow in pair)


def _arriving(flow: Flow) -> Tuple:
    return Tuple(flow.protocol, flow.source, flow.destination)


def _translated(flow: Flow) -> Tuple:
    return Tuple(flow.protocol, flow.source, flow.new_destination)
