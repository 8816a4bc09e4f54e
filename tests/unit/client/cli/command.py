"""The command as a process: start it, read its JSON lines, interrupt it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from chainrelay.config.keys import new_key

COMMAND = [sys.executable, "-m", "chainrelay.client.cli"]


def make_directory(tmp_path: Path) -> Path:
    """A client's configuration that needs no relay but for 10.9.0.0/16, whose relay is not there."""
    key = tmp_path / "fw1.key"
    key.touch(0o600)
    key.write_text(new_key(), encoding="ascii")
    (tmp_path / "client.toml").write_text('id = "alice"\n')
    (tmp_path / "routes.toml").write_text(
        '[[route]]\nto = "127.0.0.0/8"\ndirect = true\n'
        '[[route]]\nto = "10.9.0.0/16"\nvia = "fw1"\nat = "127.0.0.1:9"\n'
    )
    (tmp_path / "peers.toml").write_text(
        f'[[peer]]\nid = "fw1"\nkind = "relay"\nkeys = [{{ kid = "a", file = "{key}" }}]\n'
    )
    return tmp_path


def run(*arguments: str, seconds: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=seconds, check=False)


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in the background, interrupted at the end; it must end with 0 then."""
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(20, process.kill)
        guard.start()
        try:
            yield process
        finally:
            guard.cancel()
            process.send_signal(signal.SIGINT)
            process.wait(10)
            assert process.stderr is not None
            trouble = process.stderr.read()
        assert process.returncode == 0, trouble
        assert trouble == ""


def event(stream: IO[str] | None, name: str) -> dict[str, Any]:
    """The next JSON line of that event."""
    assert stream is not None
    for line in stream:
        with contextlib.suppress(json.JSONDecodeError):
            found: dict[str, Any] = json.loads(line)
            if found.get("event") == name:
                return found
    raise AssertionError(f"no event {name}")


def datagram_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(10)
    return sock


def ended(process: int) -> bool:
    """Whether it is gone, or waits only for whoever inherited it to notice."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
