"""Group commit: operations of one turn of the loop, or that wait while a transaction is under way, go together (design:
waiting installs share one).

The backend blocks, so it runs in one worker thread; the order of operations is kept. Everything that crosses to it is a value
of datapath/mapping.py: this is the privilege seam (net/helper.py has the other process behind it). The same thread keeps the
journal, so that a session is written down before the kernel hears of it, in one commit per batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from chainrelay.datapath.backend import Backend
from chainrelay.datapath.mapping import Failed, Operation, Outcome
from chainrelay.limits import BATCH, JOURNAL_DELAY
from chainrelay.session.events import Forget, Remember

T = TypeVar("T")
Batch = list[tuple[int, Operation]]
Entry = Remember | Forget
log = logging.getLogger(__name__)


class Journal(Protocol):
    """What keeps records (net/journal.py)."""

    def write(self, entries: Iterable[Entry]) -> None:
        """Keep them. Never raises."""

    def close(self) -> None:
        """Write what is left, close."""


class DatapathQueue:
    """Feeds one Backend. `done(token, outcome)` is called once for each submitted operation."""

    def __init__(self, backend: Backend, done: Callable[[int, Outcome], None], journal: Journal | None = None) -> None:
        self._backend, self._done, self._journal = backend, done, journal
        self._entries: dict[bytes, Entry] = {}  # go with the next batch
        self._later: dict[bytes, Entry] = {}  # may wait, and are often out of date before they are written
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[int, Operation]] = deque()
        self._idle = asyncio.Event()  # nothing waits, nothing is under way
        self._idle.set()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="datapath")

    def submit(self, token: int, operation: Operation) -> None:
        """Queue one operation."""
        self._waiting.append((token, operation))
        self._wake()

    def remember(self, entry: Entry) -> None:
        """Have the journal keep or forget a record: before the next operation, or soon."""
        if self._journal is None:
            return
        self._later.pop(entry.session, None)
        if isinstance(entry, Remember) and entry.first:
            self._entries[entry.session] = entry
            self._wake()
        else:
            self._later[entry.session] = entry
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(JOURNAL_DELAY, self._write_later)

    def _write_later(self) -> None:
        self._timer = None
        self._entries |= self._later
        self._later.clear()
        if self._entries:
            self._wake()

    def _wake(self) -> None:
        if self._idle.is_set():
            self._idle.clear()
            loop = asyncio.get_running_loop()
            loop.call_soon(self._start, loop)

    async def call(self, function: Callable[[], T]) -> T:
        """Run another function of the backend (setup, flows, counters) between transactions. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, function)

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._write_later()
        await self._idle.wait()

    def close(self) -> None:
        """Let go of the thread after the transaction under way."""
        self._worker.shutdown(wait=True)
        self._backend.close()
        if self._journal is not None:
            self._journal.close()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
        entries, self._entries = self._entries, {}
        self._worker.submit(self._carry_out, loop, batch, entries)

    def _carry_out(self, loop: asyncio.AbstractEventLoop, batch: Batch, entries: dict[bytes, Entry]) -> None:
        """In the worker. Comes back by itself: asyncio's futures for executors would take another turn of the loop."""
        outcomes: list[Outcome]
        try:
            if self._journal is not None and entries:
                self._journal.write(entries.values())
            outcomes = self._backend.apply([operation for _, operation in batch]) if batch else []
        except Exception as fault:
            log.exception("the datapath failed outright")
            outcomes = [Failed(f"datapath: {fault}")] * len(batch)
        loop.call_soon_threadsafe(self._finish, loop, batch, outcomes)

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: Batch, outcomes: list[Outcome]) -> None:
        if self._waiting or self._entries:
            self._start(loop)  # before the answers, so that the kernel works while we do
        else:
            self._idle.set()
        for (token, _), outcome in zip(batch, outcomes, strict=True):
            self._done(token, outcome)
