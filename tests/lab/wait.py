"""Waiting on conditions with a deadline. Nobody else in the tests sleeps to synchronise."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

INTERVAL = 0.01  # seconds between two looks: short against what is waited for, long against a look


class WaitError(AssertionError):
    """The condition did not come true in time."""


def until(condition: Callable[[], T], what: str, timeout: float = 5.0) -> T:
    """Look until `condition()` is true and return it; after `timeout` seconds raise WaitError, which names `what`."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise WaitError(f"waited {timeout:g} s in vain for {what} (last seen: {result!r})")
        time.sleep(INTERVAL)


def never(condition: Callable[[], object], what: str, during: float) -> None:
    """Look for `during` seconds and fail as soon as `condition()` is true: the only proof of an absence."""
    deadline = time.monotonic() + during
    while time.monotonic() < deadline:
        result = condition()
        if result:
            raise AssertionError(f"{what} must not happen, but did: {result!r}")
        time.sleep(INTERVAL)
