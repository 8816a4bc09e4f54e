"""How many sessions, and how many opens per second: per principal, and per user of an access row.

Counts follow the sessions; a rate is a bucket of one second that refills steadily. The numbers stand in policy.py's tables.
A reload makes new quotas and counts the standing sessions into them.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from chainrelay.errors import Code, Refusal
from chainrelay.session.policy import Policy
from chainrelay.session.tables import Allow

K = TypeVar("K")
RowUser = tuple[int, str]


class Bucket:
    """`rate` tokens per second, of which one second's worth (at least one) can be saved up."""

    __slots__ = ("_at", "_left", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate, self._left, self._at = rate, max(rate, 1.0), now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._left = min(max(self.rate, 1.0), self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Quotas:
    """What is used of the limits of one policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy  # keeps the rows alive, so that id(row) stays theirs
        self._sessions: Counter[str] = Counter()
        self._row_sessions: Counter[RowUser] = Counter()
        self._buckets: dict[str | RowUser, Bucket] = {}

    def admit(self, principal: str, now: float) -> None:
        """One more session of a principal, counted by `count`. Raises Refusal."""
        limit = self._policy.sessions_per_principal
        if self._sessions[principal] >= limit:
            text = f"{principal} has {limit} sessions here; close some, or raise [limits] sessions_per_principal"
            raise Refusal(Code.SESSION_LIMIT, text)
        if not self._bucket(principal, self._policy.opens_per_second, now).take(now):
            text = f"{principal} opens more than {self._policy.opens_per_second:g} sessions per second; try again in a second"
            raise Refusal(Code.RATE_LIMIT, text)

    def admit_row(self, row: Allow, user: str, now: float) -> None:
        """One more session by an access row. Raises Refusal."""
        key = id(row), user
        if row.sessions and self._row_sessions[key] >= row.sessions:
            text = f"user {user} has {row.sessions} sessions, as many as the access row permits; close some"
            raise Refusal(Code.SESSION_LIMIT, text)
        if row.opens_per_second and not self._bucket(key, row.opens_per_second, now).take(now):
            text = f"user {user} opens more than {row.opens_per_second:g} sessions per second; try again in a second"
            raise Refusal(Code.RATE_LIMIT, text)

    def count(self, principal: str) -> None:
        """A session of the principal exists."""
        self._sessions[principal] += 1

    def count_row(self, row: Allow, user: str) -> None:
        """A session stands on this row."""
        if row.sessions:
            self._row_sessions[id(row), user] += 1

    def forget(self, principal: str, row: Allow | None, user: str) -> None:
        """A session is gone."""
        _decrement(self._sessions, principal)
        if row is not None and row.sessions:
            _decrement(self._row_sessions, (id(row), user))

    def sessions(self, principal: str) -> int:
        """How many the principal has."""
        return self._sessions[principal]

    def _bucket(self, key: str | RowUser, rate: float, now: float) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(rate, now)
        return bucket


def _decrement(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
