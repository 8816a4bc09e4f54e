"""Rules with a fast path in front, as one backend. Pure: an order of calls.

They are two stores. Rules come first, then the fast path, so that a datagram which goes up always finds its rule; on
removal the other way round. What the fast path can't hold is refused as a whole: no session runs by half. Sealed mappings are the
fast path's alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from chainrelay.datapath.backend import Backend
from chainrelay.datapath.mapping import Counters, Done, Failed, Install, LiveFlow, Mapping, Operation, Outcome, Remove
from chainrelay.datapath.unsealed import is_plain
from chainrelay.datapath.xdp import XdpBackend


class Stack:
    """`Backend` made of two."""

    def __init__(self, rules: Backend, fast: XdpBackend) -> None:
        self.rules, self.fast = rules, fast

    def setup(self) -> None:
        """Both, rules first."""
        self.rules.setup()
        self.fast.setup()

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """In runs that keep the rules' transactions large and the order right where it matters."""
        return [outcome for run in _runs(operations) for outcome in self._apply(run)]

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """Both paths together."""
        return [slow + fast for slow, fast in zip(self.rules.counters(mappings), self.fast.counters(mappings), strict=True)]

    def flows(self) -> list[LiveFlow]:
        """The rules' list, with the fast path's counts in it, and what is sealed: that the fast path holds alone."""
        fast = {(each.protocol, each.source, each.destination): each for each in self.fast.flows()}
        plain = [
            replace(each, packets=each.packets + here.packets, octets=each.octets + here.octets) if here else each
            for each in self.rules.flows()
            for here in (fast.get((each.protocol, each.source, each.destination)),)
        ]
        return plain + [each for each in fast.values() if each.sealed]

    def intact(self) -> bool:
        """Both."""
        return self.rules.intact() and self.fast.intact()

    def seals(self) -> bool:
        """What the fast path can."""
        return self.fast.seals()

    def flush_own(self) -> None:
        """Both, the fast path first."""
        self.fast.flush_own()
        self.rules.flush_own()

    def close(self) -> None:
        """Both."""
        self.fast.close()
        self.rules.close()

    def _apply(self, run: Sequence[Operation]) -> list[Outcome]:
        gone = self._fast([operation if isinstance(operation, Remove) else None for operation in run])
        slow = self._slow(run)
        held = self._fast(
            [
                operation if not isinstance(outcome, Failed) and not isinstance(operation, Remove) else None
                for operation, outcome in zip(run, slow, strict=True)
            ]
        )
        self._take_back(run, held)
        return [_both(outcome, gone[at] or held[at]) for at, outcome in enumerate(slow)]

    def _slow(self, run: Sequence[Operation]) -> list[Outcome | None]:
        """The rules' outcome for those operations that they ever hear of: what is sealed must not reach them."""
        outcomes = iter(self.rules.apply([operation for operation in run if is_plain(operation)]))
        return [next(outcomes) if is_plain(operation) else None for operation in run]

    def _fast(self, chosen: Sequence[Operation | None]) -> list[Outcome | None]:
        """The fast path's outcome for those operations that are meant for it now."""
        outcomes = iter(self.fast.apply([operation for operation in chosen if operation is not None]))
        return [None if operation is None else next(outcomes) for operation in chosen]

    def _take_back(self, run: Sequence[Operation], held: Sequence[Outcome | None]) -> None:
        """A session that the fast path refused at its start leaves nothing in the rules. A running one goes on there."""
        refused = [
            Remove(operation.mapping)
            for operation, outcome in zip(run, held, strict=True)
            if isinstance(operation, Install) and is_plain(operation) and isinstance(outcome, Failed)
        ]
        if refused:
            self.rules.apply(refused)


def _both(slow: Outcome | None, fast: Outcome | None) -> Outcome:
    match slow, fast:
        case None, (Done() | Failed()):
            return fast
        case Failed(), _:
            return slow
        case Done(), Failed():
            return fast
        case Done(counters=one), Done(counters=two):
            return Done(one + two)
        case Done(), None:
            return slow
        case _:
            raise AssertionError("nobody was asked")


def _runs(operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """Removals go first in a run, so none may follow what it removes: there a new run begins."""
    run: list[Operation] = []
    begun: set[bytes] = set()
    for operation in operations:
        if isinstance(operation, Remove) and operation.mapping.session in begun:
            yield run
            run, begun = [], set()
        if not isinstance(operation, Remove):
            begun.add(operation.mapping.session)
        run.append(operation)
    if run:
        yield run
