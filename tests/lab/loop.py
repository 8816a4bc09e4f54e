"""An asyncio loop in a thread that lives on a host, for code that opens its own sockets there, like the client library."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

from lab.host import Namespace

T = TypeVar("T")


class Loop:
    """Runs coroutines on `host`; threads that they start are on it as well."""

    def __init__(self, host: Namespace) -> None:
        self._host = host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"loop on {host.name}", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], Awaitable[T]], timeout: float = 30.0) -> T:
        """Await `work()` on the host; what it raises is raised here."""

        async def awaited() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(timeout)

    def close(self) -> None:
        """Cancel what still runs and end the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        with self._host.enter():
            self._loop.run_forever()

    @staticmethod
    async def _cancel() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()
        await asyncio.get_running_loop().shutdown_default_executor()
