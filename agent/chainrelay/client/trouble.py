"""When a session can't be renewed: told when it begins, when the leases have ended on it, and when it is over; each once.

Silence counts as well as refusals, so there are two timers here; what is asked of whom is leg.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from chainrelay.errors import Code, Refusal
from chainrelay.limits import LEASE_GRACE, RENEW_SILENCE


@dataclass(frozen=True, slots=True)
class Trouble:
    """A session that stands can't be renewed just now; its leg tries again until it can, or knows that it never will."""

    refusal: Refusal
    """The latest attempt's."""
    left: float
    """Seconds until the leases end; 0: they have ended, and no datagram passes until the session is opened again."""


class Watch:
    """One session's. `tell` is called with a Trouble, and with None when all is well again."""

    def __init__(self, tell: Callable[[Trouble | None], None]) -> None:
        self._tell = tell
        self._ends = 0.0
        self._told: Trouble | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def left(self) -> float:
        """Seconds until the leases end: the kernels' own, which last a little longer than the relays'."""
        return max(0.0, self._ends - now())

    def stands(self, lease: int, since: float) -> None:
        """The leases began at `since` at the earliest."""
        self._ends = since + lease + LEASE_GRACE

    def gone(self) -> None:
        """A relay has forgotten the session, and lets nothing pass."""
        self._ends = min(self._ends, now())

    def asking(self) -> None:
        """An attempt begins. Who does not answer is trouble, too, long before one gives up."""
        if self._silence is None:
            silent = Refusal(Code.NEXT_HOP_TIMEOUT, f"the chain has not answered for {RENEW_SILENCE:g} s")
            self._silence = asyncio.get_running_loop().call_later(RENEW_SILENCE, self.failed, silent)

    def failed(self, refusal: Refusal) -> None:
        """An attempt has failed, and there will be another one."""
        left = self.left()
        if self._told is None or (self._told.left > 0 and not left):
            self._told = Trouble(refusal, left)
            self._tell(self._told)
            if left:
                self._end = asyncio.get_running_loop().call_later(left, self.failed, refusal)

    def over(self) -> None:
        """All is well."""
        self.stop()
        if self._told is not None:
            self._told = None
            self._tell(None)

    def stop(self) -> None:
        """Nothing more is told by a timer."""
        for timer in (self._silence, self._end):
            if timer is not None:
                timer.cancel()
        self._silence = self._end = None


def now() -> float:
    """The loop's clock."""
    return asyncio.get_running_loop().time()
