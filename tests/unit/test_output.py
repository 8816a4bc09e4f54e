"""Standard output that can't be written: one line, an exit code, no traceback; for every command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chainrelay.errors import OutputError
from chainrelay.output import put

COMMANDS = [
    ["chainrelay.client.cli", "key", "new"],
    ["chainrelay.agent.main", "--check-config", "--config", "/nonexistent"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=["chainrelay", "chainrelay-agent"])
@pytest.mark.parametrize(
    ("redirection", "says"),
    [(">/dev/full", "standard output: No space left on device"), (">&-", "standard output is closed"), ("| true", "")],
)
def test_one_line_and_an_exit_code(command: list[str], redirection: str, says: str) -> None:
    shell = f'sleep 0.2; "$@" {redirection}; exit "${{PIPESTATUS[0]}}"'
    if redirection == "| true":  # it has ended by the time that anything is written
        shell = f'{{ sleep 0.3; "$@"; echo "exit $?" >&2; }} {redirection}; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", shell, "sh", sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=30
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if says:
        assert done.returncode == 1
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == "exit 1\n"


def test_what_is_written_is_there_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    put("a")
    put("b", end="")
    assert capsys.readouterr().out == "a\nb"


def test_nowhere_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="closed"):
        put("a")
