"""Closing what the lab opened, whatever ends the program: return, exception, Ctrl-C, SIGTERM, SIGHUP.

`register` takes a closer and hands back a token; closers that are still registered when the interpreter ends run in
reverse order. What a SIGKILL leaves behind is swept by the next run (host.py, `sweep`). Nothing happens at import.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_closers: dict[int, Callable[[], None]] = {}
_tokens = itertools.count()
_owner = 0


def register(close: Callable[[], None]) -> int:
    """Remember `close` for the end of the program. It must be idempotent. Returns the token for `forget`."""
    _arm()
    token = next(_tokens)
    _closers[token] = close
    return token


def forget(token: int) -> None:
    """The thing is closed already."""
    _closers.pop(token, None)


def run_all() -> None:
    """Close everything that is open, last first; an error in one does not keep the others open."""
    if os.getpid() != _owner:  # a forked child owns nothing of ours
        return
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signum, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleaning
    while _closers:
        _token, close = _closers.popitem()
        try:
            close()
        except Exception as error:  # noqa: BLE001 - the rest must be closed as well, and the error is shown
            print(f"lab: cleaning up: {error}", file=sys.stderr)


def _arm() -> None:
    global _owner  # noqa: PLW0603 - one process, one registry
    if _owner == os.getpid():
        return
    _owner = os.getpid()
    atexit.register(run_all)
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is signal.SIG_DFL:
                signal.signal(signum, _leave)


def _leave(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
