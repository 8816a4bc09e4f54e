"""For every test: what the caller's shell must not decide."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Shells start background jobs with SIGINT ignored, nohup with SIGHUP, and children inherit that; tests need the usual."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
