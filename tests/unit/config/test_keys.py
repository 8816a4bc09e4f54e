"""Key files: what `new_key` makes is read; whatever is unsafe is refused, and never shown."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from chainrelay.config.agent import load_agent
from chainrelay.config.keys import CREDENTIAL, new_key, read_key
from chainrelay.config.schema import WrongError
from chainrelay.errors import ConfigErrors
from unit.config.directory import NO_FACTS, RELAY, write, write_key

SECRET = bytes(range(32))
TEXT = base64.b64encode(SECRET).decode()


def test_a_new_key_is_read_and_no_two_are_alike(tmp_path: Path) -> None:
    one, two = (read_key(write_key(tmp_path / name, new_key())) for name in "ab")
    assert len(one) == len(two) == 32
    assert one != two


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n", f"  {TEXT}\r\n"])
def test_line_ends_do_not_matter(text: str, tmp_path: Path) -> None:
    assert read_key(write_key(tmp_path / "k", text)) == SECRET


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds 0 bytes"),
        ("not base64!", "not one line of base64"),
        (f"{TEXT}\n{TEXT}", "not one line of base64"),
        (base64.b64encode(SECRET[:31]).decode(), "holds 31 bytes"),
        (base64.b64encode(SECRET * 2).decode(), "holds 64 bytes"),
        (base64.b64encode(bytes(32)).decode(), "same byte"),
        (base64.b64encode(b"x" * 32).decode(), "same byte"),
    ],
)
def test_a_bad_content_is_refused_without_showing_it(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(WrongError, match=why) as caught:
        read_key(write_key(tmp_path / "k", text))
    assert "chainrelay key new" in caught.value.mend
    assert len(text) < 10 or text[:10] not in caught.value.why + caught.value.mend


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o610, 0o644])
def test_a_file_open_to_others_is_refused(mode: int, tmp_path: Path) -> None:
    path = write_key(tmp_path / "k", mode=mode)
    with pytest.raises(WrongError, match=f"mode 0{mode:o}") as caught:
        read_key(path)
    assert caught.value.mend == f"chmod 0600 {path}"


def test_a_credential_may_show_group_bits_but_never_the_worlds(tmp_path: Path) -> None:
    assert read_key(write_key(tmp_path / "k", TEXT, 0o440), forbidden=CREDENTIAL) == SECRET
    with pytest.raises(WrongError, match="everybody"):
        read_key(write_key(tmp_path / "w", TEXT, 0o444), forbidden=CREDENTIAL)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(WrongError, match="not a regular file"):
            read_key(path)


def test_an_unreadable_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = write_key(tmp_path / "k")
    monkeypatch.setattr(os, "open", denied)  # root, who may run the tests, reads everything
    with pytest.raises(WrongError, match="Permission denied") as caught:
        read_key(path)
    assert "chown" in caught.value.mend


def test_a_world_readable_key_is_told_with_its_row(tmp_path: Path) -> None:
    write_key(write(tmp_path, RELAY) / "fw2.key", mode=0o644)
    with pytest.raises(ConfigErrors) as caught:
        load_agent(tmp_path, NO_FACTS)
    assert [error.where for error in caught.value.errors] == ["peers.toml:peer[2].keys[1].file (line 9)"]


def test_keys_come_from_files_and_credentials_and_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, RELAY, peers=RELAY["peers.toml"].replace('file = "alice.key"', 'credential = "alice"'))
    write_key(tmp_path / "fw2.key", TEXT)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    write_key(credentials / "alice", base64.b64encode(SECRET[::-1]).decode(), 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    config = load_agent(tmp_path, NO_FACTS)
    keys = [config.policy.peers.find_key(peer, "a") for peer in ("alice", "fw2")]
    assert [key.secret for key in keys if key] == [SECRET[::-1], SECRET]
    shown = repr(config) + str(config.policy.peers)
    assert repr(SECRET)[2:30] not in shown
    assert TEXT not in shown


def test_a_credential_is_a_name_not_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    write(tmp_path, RELAY, peers=RELAY["peers.toml"].replace('file = "alice.key"', 'credential = "../alice.key"'))
    with pytest.raises(ConfigErrors, match="no credential's name"):
        load_agent(tmp_path, NO_FACTS)
