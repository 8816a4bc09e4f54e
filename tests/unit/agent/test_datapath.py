"""The helper's command: wrong usage, wrong configuration, unknown users. A running one: tests/e2e/test_daemons.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrelay.agent.datapath import main, uid_of
from chainrelay.config.datapath import load_datapath
from chainrelay.errors import ConfigError
from unit.config.directory import RELAY, write


def test_a_wrong_configuration_ends_it_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "nowhere")]) == 2
    assert "agent.toml" in capsys.readouterr().err


def test_it_reads_agent_toml_and_nothing_else(tmp_path: Path) -> None:
    directory = write(tmp_path, RELAY)
    for other in ("peers.toml", "routes.toml", "access.toml"):
        (directory / other).unlink()
    assert load_datapath(directory).ruleset.pool


def test_users_by_name_and_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (uid_of("root"), uid_of("64001")) == (0, 64001)
    with pytest.raises(ConfigError, match="systemd-sysusers"):
        uid_of("nobody-of-that-name")
    directory = write(tmp_path, RELAY)
    assert main(["--config", str(directory), "--agent-user", "nobody-of-that-name"]) == 2
    assert "nobody-of-that-name" in capsys.readouterr().err
