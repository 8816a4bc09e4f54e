"""What systemd hears, read from a socket as systemd's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from chainrelay.agent.notify import Notify


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(2)
        listening.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        yield listening


def test_every_word(systemd: socket.socket) -> None:
    notify = Notify()
    notify.ready("fw1\nREADY=0")
    assert systemd.recv(200) == b"READY=1\nSTATUS=fw1"
    notify.reloading()
    assert systemd.recv(200).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notify.status("3 sessions")
    assert systemd.recv(200) == b"STATUS=3 sessions"
    assert notify.watchdog == 10.0
    notify.alive()
    assert systemd.recv(200) == b"WATCHDOG=1"
    notify.stopping()
    assert systemd.recv(200) == b"STOPPING=1"


def test_another_process_is_watched(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notify = Notify()
    assert notify.watchdog is None
    notify.alive()
    notify.stopping()
    assert systemd.recv(200) == b"STOPPING=1"


def test_started_by_hand_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify = Notify()
    notify.ready("nobody listens")
    notify.alive()
    assert notify.watchdog is None
