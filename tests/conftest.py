"""For every test: what the caller's shell must not decide, and which tests stay together when several processes share them."""

from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """Shells start background jobs with SIGINT ignored, nohup with SIGHUP, and children inherit that; tests need the usual."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-n`: a file's tests share its namespaces, and booted hosts their packages, so each of these is one process's. Most of a test is
    waiting, and namespaces are named after their process, so processes don't meet."""
    for item in items:
        hosts = "hosts" in item.path.parts
        item.add_marker(pytest.mark.xdist_group("hosts" if hosts else str(item.path)))
