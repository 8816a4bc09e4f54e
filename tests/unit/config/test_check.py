"""--check-config: errors and warnings apart, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chainrelay.config.agent import load_agent
from chainrelay.config.check import check, check_client
from chainrelay.errors import ConfigError
from unit.config.directory import CLIENT, NO_FACTS, RELAY, write


def test_good(tmp_path: Path) -> None:
    report = check(write(tmp_path, RELAY), NO_FACTS)
    assert report.ok
    assert report.as_text() == f"{tmp_path}: good, 0 errors, 0 warnings"
    assert json.loads(report.as_json()) == {"directory": str(tmp_path), "ok": True, "problems": []}
    (tmp_path / "client").mkdir()
    assert check_client(write(tmp_path / "client", CLIENT)).ok


WARNINGS = [
    ("access", '[[allow]]\nuser = "bob"\n', "access.toml:allow[1].user (line 2)", "never matches"),
    ("access", "", "access.toml", "every request is refused"),
    ("routes", "", "routes.toml", "every request is refused"),
    (
        "agent",
        RELAY["agent.toml"] + '[ports]\npool = "20000-20099"\n[limits]\nsessions_per_principal = 101\n',
        "agent.toml:limits.sessions_per_principal (line 6)",
        "101 sessions of one partner don't fit into 100 ports",
    ),
    ("agent", RELAY["agent.toml"] + "[lease]\nidle = 604800\n", "agent.toml:lease.idle (line 4)", "never comes before"),
    (
        "peers",
        RELAY["peers.toml"] + 'users = ["*", "alice"]\n',
        "peers.toml:peer[2].users (line 10)",
        "superfluous",
    ),
    (
        "agent",
        RELAY["agent.toml"] + '[targets]\nallow = ["10.9.0.0/16", "0.0.0.0/0"]\n',
        "agent.toml:targets.allow[2] (line 4)",
        "lifts every built-in refusal",
    ),
    ("peers", RELAY["peers.toml"].replace("fw2.key", "alice.key"), "peers.toml:peer[2].keys (line 9)", "either could pass for the other"),
]


@pytest.mark.parametrize(("file", "text", "where", "why"), WARNINGS)
def test_warnings_do_not_hinder(file: str, text: str, where: str, why: str, tmp_path: Path) -> None:
    report = check(write(tmp_path, RELAY, **{file: text}), NO_FACTS)
    assert report.ok
    assert [warning.where for warning in report.warnings] == [where]
    assert why in report.warnings[0].why
    assert load_agent(tmp_path, NO_FACTS).id == "fw1"


@pytest.mark.parametrize("folder", [None, "not there"])
def test_credentials_that_only_the_service_sees_are_no_error(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd hides them from what it runs for a reload, which begins with this check."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if folder is not None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / folder))
    write(tmp_path, RELAY, peers=RELAY["peers.toml"].replace('file = "alice.key"', 'credential = "alice"'))
    report = check(tmp_path, NO_FACTS)
    assert report.ok
    assert [warning.where for warning in report.warnings] == ["peers.toml:peer[1].keys[1].credential (line 4)"]
    with pytest.raises(ConfigError):
        load_agent(tmp_path, NO_FACTS)


def test_errors_and_warnings_together(tmp_path: Path) -> None:
    report = check(write(tmp_path, RELAY, access="", agent=RELAY["agent.toml"] + "[ports]\npol = 1\n"), NO_FACTS)
    first, second, last = report.as_text().splitlines()
    assert first.startswith("error: agent.toml:ports.pol (line 4): unknown key; did you mean 'pool'?")
    assert second.startswith("warning: access.toml: there is no [[allow]] row")
    assert last == f"{tmp_path}: can't be used, 1 errors, 1 warnings"
    told = json.loads(report.as_json())
    assert not told["ok"]
    assert told["problems"][0] == {
        "level": "error",
        "file": "agent.toml",
        "key": "ports.pol",
        "line": 4,
        "why": "unknown key",
        "mend": "did you mean 'pool'? (valid: pool, rest)",
    }
    assert [problem["line"] for problem in told["problems"]] == [4, None]


def test_a_mistake_in_a_peer_is_not_blamed_on_who_names_it(tmp_path: Path) -> None:
    peers = RELAY["peers.toml"].replace('kind = "relay"', 'kind = "realy"').replace('id = "alice"', "id = 5")
    report = check(write(tmp_path, RELAY, peers=peers), NO_FACTS)
    assert [error.key for error in report.errors] == ["peer[1].id", "peer[2].kind"]
    assert not report.warnings
