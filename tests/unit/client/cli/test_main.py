"""The command as its users start it: usage errors, exit codes, help, errors in two lines.

What argparse alone can tell runs in this process: a Python of its own for each of so many words would take half a minute.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrelay.client.cli.main import run as command
from unit.client.cli.command import run


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["opne"],
        ["open"],
        ["open", "server", "--peer", "10.0.0.1:5"],
        ["open", "server", "--components", "3"],
        ["open", "server", "--local", "70000"],
        ["open", "--peer", "no-port"],
        ["forward", "server"],
        ["forward", "localhost:x", "server"],
        ["offer"],
        ["offer", "--port", "0"],
        ["offer", "--port", "5010-5004"],
        ["offer", "--port", "5005", "--components", "2"],
        ["offer", "--port", "5004", "--allow-id", "alice"],
        ["offer", "--port", "5004", "--", "/no/such/program"],
        ["key"],
        ["open", "10.0.0.1:0"],
        ["open", "server", "--tcp"],
        ["open", "--peer", "10.0.0.1:5", "--server-id", "srv"],
        ["open", "--peer", "10.0.0.1:5", "--peers", "10.0.0.0/8"],
        ["open", "--peer", "10.0.0.1:5", "--until-done"],
        ["open", "--peer", "10.0.0.1:65535", "--components", "2"],
        ["open", "--peer", "10.0.0.1:6", "--tcp", "--components", "2"],
        ["forward", "0", "--peer", "10.0.0.1:6", "--tcp", "--components", "2"],
        ["forward", "0", "--peer", "10.0.0.1:6", "--components", "2", "--to", "127.0.0.1:65535"],
        ["forward", "0", "--peer", "10.0.0.1:6", "--server-id", "srv"],
        ["open", "127.0.0.1:9", "--server-id", "nobody"],
        ["open", "b\u00fccher.example"],
        ["offer", "--port", "5004", "--address", "0.0.0.0"],
        ["offer", "--port", "5004", "--address", "224.0.0.1"],
        ["offer", "--port", "5004", "--address", "2001:db8::1", "--listen", "127.0.0.1:0"],
        ["key", "new", ""],
        ["offer", "--port", "5004", "--tcp", "--components", "2"],
    ],
)
def test_wrong_usage_is_2_and_says_what(arguments: list[str], directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--config", str(directory)] if arguments and arguments[0] in ("open", "forward") else []
    assert command([*arguments[:1], *more, *arguments[1:]]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(("usage:", "chainrelay"))
    assert told.out == ""


def test_wrong_usage_of_the_process() -> None:
    """The control of the tests around it: the status is the process's own."""
    done = run("open")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage:")


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ([], ["open"], ["forward"], ["offer"], ["key"]):
        assert command([*verb, "--help"]) == 0
        told = capsys.readouterr().out
        assert "exit codes:" in told
        assert "3  not reachable" in told
    assert run("--version").stdout.startswith("chainrelay ")


def test_a_missing_configuration_is_2_and_names_the_file(tmp_path: Path) -> None:
    done = run("open", "server", "--config", str(tmp_path))
    assert done.returncode == 2
    assert "client.toml" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["127.0.0.1:9"], 3, "is its program running"),
        (["--peer", "10.9.0.1:5004"], 3, "fw1"),
        (["--peer", "192.0.2.1:5004"], 3, "routes.toml"),
        (["--peer", "127.0.0.1:5004", "--local", "192.0.2.1:5004"], 0, ""),
    ],
)
def test_exit_codes_and_what_to_do_next(arguments: list[str], code: int, says: str, directory: Path) -> None:
    done = run("open", "--config", str(directory), "--once", *arguments)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    if code:
        assert len(done.stderr.splitlines()) == 2, "what and why, then what to do"
