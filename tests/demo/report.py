"""What the demo prints: a line per step with the seconds since the start, details indented below it."""

from __future__ import annotations

import sys
import time


class Report:
    """Prints as things happen."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def step(self, text: str) -> None:
        """Something begins, or is done."""
        _print(f"[{time.monotonic() - self._start:5.1f} s] {text}")

    def detail(self, text: str) -> None:
        """Lines that belong to the step before."""
        for line in text.splitlines():
            _print(f"          {line}" if line else "")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
