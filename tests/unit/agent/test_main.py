"""The agent's command: what it prints and the status it ends with. Agents that run are started by tests/e2e."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chainrelay.agent.main import main
from unit.config.directory import RELAY, write


def test_check_config_says_good_or_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write(tmp_path, RELAY)
    assert main(["--config", str(directory), "--check-config"]) == 0
    capsys.readouterr()
    (directory / "agent.toml").write_text("colour = 3\n", encoding="utf-8")
    assert main(["--config", str(directory), "--check-config", "--json"]) == 2
    assert "colour" in json.dumps(json.loads(capsys.readouterr().out))


def test_an_address_that_the_host_has_not_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'id = "fw1"\nlisten = ["127.0.0.1:9798", "[::]:9798", "203.0.113.7:9798"]\n'
    assert main(["--config", str(write(tmp_path, RELAY, agent=text)), "--check-config", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["problems"]
    assert (found["level"], found["file"], found["key"]) == ("warning", "agent.toml", "listen")
    assert "203.0.113.7 is no address of this host" in found["why"]


def test_a_wrong_configuration_ends_it_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "nowhere")]) == 2
    assert "agent.toml" in capsys.readouterr().err


def test_the_ruleset_is_printed_without_touching_the_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(write(tmp_path, RELAY)), "--print-ruleset"]) == 0
    out = capsys.readouterr().out
    assert "table ip chainrelay" in out
    assert "table ip6 chainrelay" in out


@pytest.mark.parametrize("words", [["--bogus"], ["--check-config", "--teardown"]])
def test_wrong_usage_ends_it_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
