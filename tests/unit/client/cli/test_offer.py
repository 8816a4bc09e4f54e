"""`chainrelay offer` as a process: a program per client, its end with its children, who is refused."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unit.client.cli.command import COMMAND, address, ended, event, run, started


def test_who_is_refused_by_the_server_ends_with_4(directory: Path) -> None:
    with started("offer", "--listen", "127.0.0.1:0", "--port", "5004", "--allow", "192.0.2.0/24", "--json") as server:
        at = event(server.stdout, "listening")["at"]
        done = run("open", at, "--config", str(directory))
        assert done.returncode == 4
        assert "whether it allows this client (--allow)" in done.stderr
        assert server.stderr is not None
        assert "not among the allowed sources" in server.stderr.readline()


def test_offer_starts_a_program_for_each_client_and_stops_it_with_its_children(directory: Path, tmp_path: Path) -> None:
    program = 'echo {peer} {peer_host} {peer_port} {port} {other} > "$0"; sleep 60 & echo $! >> "$0"; wait'
    shell = ["sh", "-c", program, str(tmp_path / "out.{port}")]
    with started("offer", "--listen", "127.0.0.1:0", "--port", "5004-5005", "--json", "--", *shell) as server:
        at = event(server.stdout, "listening")["at"]
        with started("open", at, "--json", "--config", str(directory)) as first:
            opened = event(first.stdout, "open")
            host, port = address(opened["exit"])
            with started("open", at, "--json", "--config", str(directory)) as second:
                assert event(second.stdout, "open")["peer"] == "127.0.0.1:5005"
            assert event(server.stdout, "left")["server"] == "127.0.0.1:5005"
        event(server.stdout, "left")
        said, child = (tmp_path / "out.5004").read_text().splitlines()
        assert said == f"{host}:{port} {host} {port} 5004 {{other}}"
        assert ended(int(child))


def test_offer_once_ends_with_the_programs_exit_code(directory: Path) -> None:
    command = [*COMMAND, "offer", "--listen", "127.0.0.1:0", "--port", "5004", "--once", "--json", "--", "sh", "-c", "exit 7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        at = event(server.stdout, "listening")["at"]
        done = run("open", at, "--until-done", "--config", str(directory))
        assert done.returncode == 0
        assert server.wait(10) == 7


@pytest.mark.parametrize("more", [("--once",), ()])
def test_it_does_not_serve_unseen(more: tuple[str, ...], directory: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = [*COMMAND, "offer", "--listen", "127.0.0.1:0", "--port", "5004", "--json", *more, "--", "touch", str(ran)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        at = event(server.stdout, "listening")["at"]
        assert server.stdout is not None
        server.stdout.close()
        run("open", at, "--until-done", "--config", str(directory))
        assert server.wait(10) == 1
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()
    assert not ran.exists()


def test_a_program_that_can_not_be_started_is_told_and_is_no_success(directory: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    command = [*COMMAND, "offer", "--listen", "127.0.0.1:0", "--port", "5004", "--once", "--json", "--", str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        at = event(server.stdout, "listening")["at"]
        run("open", at, "--until-done", "--config", str(directory))
        assert server.wait(10) == 126
        assert server.stderr is not None
        said = server.stderr.read()
    assert f"{program} can't be started: No such file or directory" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "program",
    [
        "trap '' TERM; echo $$ > \"$0\"; while :; do sleep 0.1; done",
        "(trap '' TERM; exec sleep 60) & echo $! > \"$0\"; exec sleep 60",
    ],
    ids=["the program", "its child"],
)
def test_who_ignores_sigterm_is_killed(program: str, directory: Path, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    with started("offer", "--listen", "127.0.0.1:0", "--port", "5004", "--json", "--", "sh", "-c", program, str(told)) as server:
        at = event(server.stdout, "listening")["at"]
        with started("open", at, "--json", "--config", str(directory)) as held:
            event(held.stdout, "open")
            wait_for(lambda: told.exists() and told.read_text().strip() != "")
        event(server.stdout, "left")
        assert ended(int(told.read_text()))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
