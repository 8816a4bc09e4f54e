"""The installed commands where the relay's parts are missing, as after a client's `pip install`, and where they are not."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
LACKING = "import sys; sys.modules['pyroute2'] = None; "
COMMANDS = {"chainrelay-agent": "agent", "chainrelay-datapath": "datapath"}


def run(function: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command as its installed script calls it, with --version."""
    text = f"{before}import sys; sys.argv = ['x', '--version']; from chainrelay.agent import commands; sys.exit(commands.{function}())"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_part_is_named_in_one_line(command: str) -> None:
    done = run(COMMANDS[command], LACKING)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{command}: ")
    assert len(done.stderr.splitlines()) == 1
    assert "needs pyroute2" in done.stderr
    assert "chainrelay[agent]" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_with_all_parts_it_runs(command: str) -> None:
    done = run(COMMANDS[command])
    assert (done.returncode, done.stdout.split()[0]) == (0, command), done.stderr


def test_the_scripts_are_these() -> None:
    scripts = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]
    assert {name: scripts[name] for name in COMMANDS} == {name: f"chainrelay.agent.commands:{each}" for name, each in COMMANDS.items()}
