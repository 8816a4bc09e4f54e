"""What a reload says that it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrelay.config.agent import AgentConfig, load_agent
from chainrelay.config.agent_keys import AGENT
from chainrelay.config.diff import RESTART, differences, in_force
from chainrelay.config.schema import Schema
from unit.config.directory import NO_FACTS, RELAY, write, write_key

CHANGES = [
    ("agent", RELAY["agent.toml"] + "[ports]\nrest = 5\n", ["ports.rest: 30 → 5"]),
    (
        "agent",
        RELAY["agent.toml"].replace("10.0.1.1", "10.0.1.9"),
        ["listen: 10.0.1.1:9798 → 10.0.1.9:9798 (takes effect after a restart)"],
    ),
    (
        "agent",
        RELAY["agent.toml"] + '[addresses]\nannounce = { "10.0.2.1" = "192.0.2.7" }\n',
        ["addresses.announce: none → 10.0.2.1 as 192.0.2.7"],
    ),
    (
        "routes",
        '[[route]]\nto = "10.9.0.0/16"\ndirect = true\n[[route]]\nto = ".example.org"\ndirect = true\n',
        [
            "routes: .example.org added, direct",
            "routes: * removed",
            "routes: 10.9.0.0/16: fw2 at 10.0.2.2:9798 → direct",
        ],
    ),
    (
        "peers",
        RELAY["peers.toml"].replace('{ kid = "a", file = "ali', '{ kid = "b", file = "fw2.key" }, { kid = "a", file = "ali')
        + 'users = ["*"]\n',
        ["peers: alice: keys a → b, a", "peers: fw2: users none → *"],
    ),
    ("peers", RELAY["peers.toml"].replace('"alice"', '"bob"'), ["peers: bob added (client)", "peers: alice removed"]),
    (
        "access",
        '[[allow]]\nuser = "alice"\nsource = "10.0.0.0/24"\nsessions = 2\n',
        [
            "access: allow: + alice from 10.0.0.0/24 ports 1-65535 to 0.0.0.0/0, ::/0 ports 1-65535 tcp/udp sessions 2",
            "access: allow: - alice from 0.0.0.0/0, ::/0 ports 1-65535 to 0.0.0.0/0, ::/0 ports 1-65535 tcp/udp",
        ],
    ),
]


def load(directory: Path) -> AgentConfig:
    return load_agent(directory, NO_FACTS)


def test_the_same_is_no_change(tmp_path: Path) -> None:
    write(tmp_path, RELAY)
    assert differences(load(tmp_path), load(tmp_path)) == []


@pytest.mark.parametrize(("file", "text", "lines"), CHANGES)
def test_changes(file: str, text: str, lines: list[str], tmp_path: Path) -> None:
    old = load(write(tmp_path, RELAY))
    (tmp_path / f"{file}.toml").write_text(text)
    assert differences(old, load(tmp_path)) == lines


def test_a_key_with_a_new_content_is_told_and_not_shown(tmp_path: Path) -> None:
    old = load(write(tmp_path, RELAY))
    text = write_key(tmp_path / "alice.key").read_text()
    lines = differences(old, load(tmp_path))
    assert lines == ["peers: alice: key a has a new content"]
    assert text.strip() not in str(lines)


def test_another_order_of_rows(tmp_path: Path) -> None:
    one, two = '[[allow]]\nuser = "alice"\n', '[[allow]]\nuser = "*"\n'
    old = load(write(tmp_path, RELAY, access=one + two))
    (tmp_path / "access.toml").write_text(two + one)
    assert differences(old, load(tmp_path)) == ["access: allow: another order"]


EVERY_SETTING = """
id = "other"
listen = "10.0.1.9:9798"
firewall = "own"
state = "/var/lib/other"
[ports]
pool = "30000-30999"
rest = 5
[addresses]
client_side = ["10.0.1.1"]
server_side = ["10.0.2.1"]
announce = { "10.0.2.1" = "192.0.2.7" }
[datapath]
xdp = "native"
interfaces = ["eth0"]
pins = "/sys/fs/bpf/other"
mark = 0x20000000
mask = 0x20000000
socket = "/run/other/socket"
[lease]
default = 61
longest = 601
idle = 30
absolute = 3601
[limits]
sessions_per_principal = 9
opens_per_second = 8
handshakes_per_second = 7
fast_path_sessions = 4096
[targets]
allow = "127.0.0.0/8"
[log]
level = "error"
"""
ONE_VALUE_ONLY = {"datapath.rules"}  # a second one, when there is one, belongs into EVERY_SETTING


def test_every_setting_is_told(tmp_path: Path) -> None:
    old = load(write(tmp_path, RELAY))
    (tmp_path / "agent.toml").write_text(EVERY_SETTING)
    told = {line.partition(":")[0] for line in differences(old, load(tmp_path))}
    keys = {
        f"{key.name}.{inner.name}" if isinstance(key.kind, Schema) else key.name
        for key in AGENT.keys
        for inner in (key.kind.keys if isinstance(key.kind, Schema) else (key,))
    }
    assert keys - told <= ONE_VALUE_ONLY


def test_what_needs_a_restart_stays_in_force_and_is_told_again(tmp_path: Path) -> None:
    old = load(write(tmp_path, RELAY))
    (tmp_path / "agent.toml").write_text(EVERY_SETTING)
    new = load(tmp_path)
    running = in_force(old, new)
    assert (running.id, running.listen, running.ruleset, running.policy.pool) == (old.id, old.listen, old.ruleset, old.policy.pool)
    assert (running.policy.rest, running.policy.leases.default) == (5, 61)
    assert differences(running, new) == [line for line in differences(old, new) if RESTART in line]
