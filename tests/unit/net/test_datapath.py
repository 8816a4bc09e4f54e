"""Group commit: what waits goes together, in order, and every operation is answered once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address

from chainrelay.datapath.mapping import (
    Counters,
    Done,
    Failed,
    Install,
    LiveFlow,
    Mapping,
    Operation,
    Outcome,
)
from chainrelay.limits import BATCH
from chainrelay.net.datapath import DatapathQueue
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol


class SlowBackend:
    """Records each transaction and holds the first until it is let go."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.transactions: list[list[Operation]] = []
        self.gate = threading.Event()
        self.closed = False
        self.fault = fault

    def setup(self) -> None:
        """Nothing to do."""

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """As the interface says."""
        self.transactions.append(list(operations))
        assert self.gate.wait(5)
        if self.fault is not None:
            raise self.fault
        return [Done(Counters()) for _ in operations]

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """None counted."""
        return [Counters() for _ in mappings]

    def flows(self) -> list[LiveFlow]:
        """None."""
        return []

    def intact(self) -> bool:
        """Nothing gets lost here."""
        return True

    def seals(self) -> bool:
        """Nothing here does."""
        return False

    def flush_own(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Remember it."""
        self.closed = True


def install(port: int) -> Install:
    host = IPv4Address("10.0.0.1")
    ends = [Endpoint(host, port + each) for each in range(4)]
    return Install(Mapping(bytes(16), Protocol.UDP, 1, *ends), 60)


def run(backend: SlowBackend, count: int) -> list[tuple[int, Outcome]]:
    answered: list[tuple[int, Outcome]] = []

    async def scenario() -> None:
        queue = DatapathQueue(backend, lambda token, outcome: answered.append((token, outcome)))
        queue.submit(0, install(1000))
        await asyncio.sleep(0)  # the first is under way
        for token in range(1, count):
            queue.submit(token, install(1000 + token))
        backend.gate.set()
        await queue.drain()
        queue.close()

    asyncio.run(scenario())
    return answered


def test_what_waits_shares_one_transaction() -> None:
    backend = SlowBackend()
    answered = run(backend, 10)
    assert [len(each) for each in backend.transactions] == [1, 9]
    assert [token for token, _ in answered] == list(range(10))
    assert backend.closed


def test_what_comes_in_one_turn_shares_one_transaction() -> None:
    async def scenario() -> None:
        backend = SlowBackend()
        backend.gate.set()
        queue = DatapathQueue(backend, lambda _token, _outcome: None)
        for token in range(10):
            queue.submit(token, install(1000 + token))
        await queue.drain()
        queue.close()
        assert [len(each) for each in backend.transactions] == [10]

    asyncio.run(scenario())


def test_a_transaction_has_its_limit_and_keeps_the_order() -> None:
    backend = SlowBackend()
    answered = run(backend, BATCH + 10)
    assert [len(each) for each in backend.transactions] == [1, BATCH, 9]
    assert [token for token, _ in answered] == list(range(BATCH + 10))


def test_a_backend_that_breaks_fails_each_operation_and_the_queue_goes_on() -> None:
    backend = SlowBackend(OSError("kernel says no"))
    answered = run(backend, 3)
    assert all(isinstance(outcome, Failed) and "kernel says no" in outcome.why for _, outcome in answered)
    assert len(answered) == 3
    assert len(backend.transactions) == 2


def test_other_calls_run_between_transactions() -> None:
    async def scenario() -> None:
        backend = SlowBackend()
        queue = DatapathQueue(backend, lambda _token, _outcome: None)
        queue.submit(1, install(1000))
        await asyncio.sleep(0)
        listing = asyncio.ensure_future(queue.call(backend.flows))
        await asyncio.sleep(0.02)
        assert not listing.done()
        backend.gate.set()
        assert await listing == []
        await queue.drain()
        queue.close()

    asyncio.run(scenario())
