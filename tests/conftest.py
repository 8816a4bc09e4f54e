"""For every test: what the caller's shell must not decide, and which tests stay together when several processes share them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

CACHE = Path("/var/cache/chainrelay-tests")
"""What systemd would give by CacheDirectory=: an agent of a test does not compile what another one has compiled."""


def pytest_configure() -> None:
    """Shells start background jobs with SIGINT ignored, nohup with SIGHUP, and children inherit that; tests need the usual."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if os.geteuid() == 0:
        CACHE.mkdir(mode=0o700, exist_ok=True)
        os.environ["CACHE_DIRECTORY"] = str(CACHE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-n`: a file's tests share its namespaces, and booted hosts their packages, so each of these is one process's. Most of a test is
    waiting, and namespaces are named after their process, so processes don't meet."""
    for item in items:
        hosts = "hosts" in item.path.parts
        item.add_marker(pytest.mark.xdist_group("hosts" if hosts else str(item.path)))
