"""The agent's command: what it prints and the status it ends with. Agents that run are started by tests/e2e."""

from __future__ import annotations

import json
import os
import pwd
import socket
from pathlib import Path

import pytest

from chainrelay.agent import main as main_module
from chainrelay.agent import packaged
from chainrelay.agent.main import main
from chainrelay.config.datapath import DatapathConfig
from unit.config.directory import RELAY, write
from unit.net.test_journal import found, kept


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


class Emptied:
    """A backend that only knows that it was emptied."""

    flushed = 0

    def flush_own(self) -> None:
        Emptied.flushed += 1

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> type[Emptied]:
    monkeypatch.setattr(main_module, "build_backend", lambda _config: Emptied())
    monkeypatch.setattr(Emptied, "flushed", 0)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return Emptied


def test_a_teardown_by_hand_finds_the_packaged_agents_journal(
    tmp_path: Path, emptied: type[Emptied], monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd tells the agent where it is, and nobody else: what is left in it would come back with the next start."""
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(packaged, "DIRECTORY", write(tmp_path / "etc", RELAY))
    monkeypatch.setattr(packaged, "STATE", tmp_path / "state")
    assert main(["--teardown"]) == 0
    assert not (tmp_path / "state").exists(), "it makes none"
    kept(tmp_path / "state", 1, 2)
    assert main(["--teardown", "--config", str(write(tmp_path, RELAY))]) == 0
    assert len(found(tmp_path / "state")) == 2, "another configuration's is not touched"
    assert main(["--teardown"]) == 0
    assert found(tmp_path / "state") == []
    assert emptied.flushed == 3


@pytest.mark.parametrize("text", [None, "half a f", RELAY["agent.toml"] + "nonsense = 1\n"])
def test_the_packaged_agent_is_taken_down_whatever_its_files_say(
    text: str | None, tmp_path: Path, emptied: type[Emptied], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package that is removed leaves nothing, above all no program that forwards."""
    monkeypatch.setattr(packaged, "DIRECTORY", tmp_path)
    monkeypatch.setattr(packaged, "STATE", tmp_path / "state")
    if text is not None:
        (tmp_path / "agent.toml").write_text(text)
    assert main(["--teardown"]) == 0
    assert emptied.flushed == 1
    assert "everything of ours is removed" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    assert main(["--teardown", "--config", str(tmp_path / "other")]) == 2, "where no package is, nothing is guessed"
    assert emptied.flushed == 1


def test_it_goes_through_the_packaged_helper_while_that_serves(
    tmp_path: Path, emptied: type[Emptied], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    def build(config: DatapathConfig) -> Emptied:
        asked.append(config.socket)
        return Emptied()

    monkeypatch.setattr(main_module, "build_backend", build)
    monkeypatch.setattr(packaged, "DIRECTORY", write(tmp_path, RELAY))
    monkeypatch.setattr(packaged, "STATE", tmp_path / "state")
    monkeypatch.setattr(packaged, "DEFAULT_SOCKET", tmp_path / "socket")
    assert main(["--teardown"]) == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as helper:
        helper.bind(str(tmp_path / "socket"))
        assert main(["--teardown"]) == 0
        helper.listen()
        assert main(["--teardown"]) == 0
    assert asked == [None, None, tmp_path / "socket"]
    assert emptied.flushed == 3


@pytest.mark.root
def test_keys_that_the_services_user_can_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packaged, "DIRECTORY", tmp_path)
    monkeypatch.setattr(packaged, "USER", "nobody")
    nobody = pwd.getpwnam("nobody").pw_uid
    peers, agent = RELAY["peers.toml"].replace('file = "', 'file = "keys/'), 'id = "fw1"\nlisten = ["127.0.0.1:9798"]\n'
    write(tmp_path, RELAY, peers=peers, agent=agent)
    (tmp_path / "keys").mkdir(mode=0o755)
    for name in ("alice.key", "fw2.key"):
        (tmp_path / name).rename(tmp_path / "keys" / name)
    os.chown(tmp_path / "keys" / "alice.key", nobody, 0)
    assert main(["--check-config", "--config", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["problems"]
    assert found["why"] == f"{tmp_path}/keys/fw2.key is not readable for nobody, as which the service runs"
    assert found["mend"] == f"chown nobody {tmp_path}/keys/fw2.key"


def test_a_teardown_needs_no_interface_and_makes_no_folder(tmp_path: Path, emptied: type[Emptied]) -> None:
    text = RELAY["agent.toml"] + f'state = "{tmp_path / "mistyped"}"\n[datapath]\nxdp = "native"\ninterfaces = ["gone0"]\n'
    assert main(["--teardown", "--config", str(write(tmp_path, RELAY, agent=text))]) == 0
    assert emptied.flushed == 1
    assert not (tmp_path / "mistyped").exists()


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
