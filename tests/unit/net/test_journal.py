"""The journal on a real disk: what is written is read, and what can't be read or written ends neither the relay nor the file."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chainrelay.errors import ConfigError
from chainrelay.limits import JOURNAL_RETRY
from chainrelay.net.journal import NAME, SessionJournal, boot_id
from chainrelay.session.events import Forget, Remember
from chainrelay.session.record import RECORD_VERSION, Phase, Record
from unit.session.test_record import RECORD


def numbered(number: int) -> Record:
    return replace(RECORD, request=replace(RECORD.request, session=number.to_bytes(16)))


def kept(folder: Path, *numbers: int, boot: str | None = None) -> None:
    journal = SessionJournal(folder, boot)
    journal.write([Remember(numbered(number), first=True) for number in numbers])
    journal.close()


def found(folder: Path, boot: str | None = None) -> list[Record]:
    journal = SessionJournal(folder, boot)
    journal.close()
    return journal.records


def test_what_is_remembered_is_there_and_what_is_forgotten_is_not(tmp_path: Path) -> None:
    kept(tmp_path, 1, 2, 3)
    journal = SessionJournal(tmp_path)
    assert len(journal.records) == 3
    closing = replace(numbered(1), phase=Phase.CLOSING)
    journal.write([Remember(numbered(1), first=False), Forget(numbered(2).request.session), Remember(closing, first=True)])
    journal.close()
    assert sorted(found(tmp_path), key=lambda record: record.request.session) == [closing, numbered(3)]


def test_a_process_that_is_killed_loses_nothing_that_was_written(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from chainrelay.net.journal import SessionJournal\n"
        "from unit.net.test_journal import numbered; from chainrelay.session.events import Remember\n"
        "journal = SessionJournal(Path(sys.argv[1]))\n"
        "for number in range(500): journal.write([Remember(numbered(number), True)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=False, timeout=60)
    assert done.returncode == -9
    assert len(found(tmp_path)) == 500


def test_another_boot_begins_anew(tmp_path: Path) -> None:
    kept(tmp_path, 1, boot="one")
    assert found(tmp_path, "two") == []
    assert found(tmp_path, "one") == []
    assert len(boot_id()) == 36


@pytest.mark.parametrize("damage", [b"no database at all" * 300, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_damaged_one_is_set_aside_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    kept(tmp_path, 1)
    (tmp_path / NAME).write_bytes(damage)
    assert found(tmp_path) == []
    assert "is damaged" in caplog.text
    assert [record.event for record in caplog.records] == ["journal-set-aside"]  # type: ignore[attr-defined]
    (aside,) = tmp_path.glob(f"{NAME}.damaged-*")
    assert aside.read_bytes() == damage
    kept(tmp_path, 2)
    assert found(tmp_path) == [numbered(2)]


def test_damage_in_one_record_is_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(tmp_path, 1, 2)
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute("UPDATE sessions SET record = x'00' WHERE session = ?", (numbered(1).request.session,))
    database.close()
    assert found(tmp_path) == []
    assert "is damaged" in caplog.text


def test_another_version_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(tmp_path, 1)
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute(f"PRAGMA user_version = {RECORD_VERSION + 1}")
    database.close()
    assert found(tmp_path) == []
    assert f"is of version {RECORD_VERSION + 1}" in caplog.text
    assert (tmp_path / f"{NAME}.version-{RECORD_VERSION + 1}").exists()


def test_two_agents_on_one_host(tmp_path: Path) -> None:
    journal = SessionJournal(tmp_path)
    with pytest.raises(ConfigError, match=rf"another agent \(pid {os.getpid()}\)"):
        SessionJournal(tmp_path)
    journal.close()
    assert found(tmp_path) == []


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="install -d"):
        SessionJournal(tmp_path / "file")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.root
def test_a_full_disk_is_told_once_and_made_up_for(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    journal = SessionJournal(small_disk, clock=lambda: now)
    journal.write([Remember(numbered(1), first=True)])
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    with caplog.at_level(logging.WARNING):
        for number in range(2, 1000):
            journal.write([Remember(numbered(number), first=True)])
        now += JOURNAL_RETRY
        journal.write([Remember(numbered(1000), first=True)])
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "can't be written" in caplog.text
        filler.unlink()
        now += JOURNAL_RETRY
        journal.write([])
    assert "is written again" in caplog.text
    journal.close()
    assert len(found(small_disk)) == 1000
