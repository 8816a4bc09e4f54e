"""What the commands write. Standard output: a full disk or a closed pipe is one line and an exit code. Standard error: nothing may come
of it that nobody reads it.
"""

from __future__ import annotations

import contextlib
import os
import sys

from chainrelay.errors import OutputError


def put(text: str, end: str = "\n") -> None:
    """Write at once: whoever reads a pipe must not wait for the end. Raises OutputError."""
    if sys.stdout is None:
        raise OutputError("standard output is closed; say where the answer should go, /dev/null if nowhere")
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except OSError as fault:
        _give_up()
        raise OutputError("" if isinstance(fault, BrokenPipeError) else f"standard output: {fault.strerror}") from fault


def warn(text: str) -> None:
    """A line for people. Lost if standard error is closed or full: there is nobody to tell."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def _give_up() -> None:
    """Or the interpreter would try once more as it ends, and say so."""
    null = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(null, sys.stdout.fileno())
    os.close(null)
