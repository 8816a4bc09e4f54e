"""The session journal: records of session/record.py in SQLite, written in one commit per batch (docs/design.md §14).

Kept by the datapath's worker thread, before the kernel is told. It never raises while the relay runs: what can't be written is kept
and tried again, since a full disk is no reason to refuse sessions. What can't be read at the start is set aside, not overwritten.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from chainrelay.errors import ConfigError, JournalError, ProtocolError
from chainrelay.limits import JOURNAL_RETRY
from chainrelay.session.events import Forget, Remember
from chainrelay.session.record import RECORD_VERSION, Record, pack, unpack

log = logging.getLogger("chainrelay.journal")

NAME: Final = "sessions.db"
Entry = Remember | Forget
_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS boot (id TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS sessions (session BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""


class VersionError(Exception):
    """The file is of another version than this program's."""


def boot_id() -> str:
    """Which run of the machine this is: the records' times count from its start."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class SessionJournal:
    """The journal in `folder`. Raises ConfigError when the folder can't be used or another agent uses it, JournalError when it can't be
    read or written now, which another attempt may mend."""

    def __init__(self, folder: Path, boot: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = folder / NAME, clock
        self._lock = _lock(folder)
        self._unwritten: dict[bytes, Entry] = {}
        self._retry_at: float | None = None
        try:
            self._database, self.records = self._open(boot or boot_id())
        except BaseException:
            os.close(self._lock)
            raise

    def write(self, entries: Iterable[Entry]) -> None:
        """Keep all of `entries` in one commit; later ones of a session replace earlier ones."""
        self._unwritten.update((entry.session, entry) for entry in entries)
        if self._retry_at is not None and self._clock() < self._retry_at:
            return
        try:
            self._commit(self._unwritten.values())
        except sqlite3.Error as fault:
            self._failed(fault)
            return
        self._unwritten.clear()
        if self._retry_at is not None:
            self._retry_at = None
            log.warning("%s is written again; nothing is missing in it", self._path)

    def close(self) -> None:
        """Write what is left, close."""
        self._retry_at = None
        if self._unwritten:
            self.write(())
        self._database.close()
        os.close(self._lock)

    def _commit(self, entries: Iterable[Entry]) -> None:
        kept, gone = [], []
        for entry in entries:
            if isinstance(entry, Remember):
                kept.append((entry.session, pack(entry.record)))
            else:
                gone.append((entry.session,))
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if kept:
                self._database.executemany("INSERT OR REPLACE INTO sessions VALUES (?, ?)", kept)
            if gone:
                self._database.executemany("DELETE FROM sessions WHERE session = ?", gone)

    def _failed(self, fault: sqlite3.Error) -> None:
        if self._retry_at is None:
            text = "%s can't be written: %s; sessions go on, and are written when there is room. Make some before restarting the agent"
            log.error(text, self._path, fault, extra={"event": "journal-full"})
        self._retry_at = self._clock() + JOURNAL_RETRY

    # the start -------------------------------------------------------------

    def _open(self, boot: str) -> tuple[sqlite3.Connection, list[Record]]:
        try:
            return self._read(boot)
        except VersionError as other:
            self._set_aside(f"version-{other}", f"is of version {other}, this agent's is {RECORD_VERSION}")
        except sqlite3.OperationalError as fault:
            mend = f"make room, or let the agent's user write to {self._path.parent}; sessions go on until their leases end"
            raise JournalError(f"{self._path}: the session journal can't be opened: {fault}; {mend}") from fault
        except (sqlite3.DatabaseError, ProtocolError) as fault:
            self._set_aside(f"damaged-{int(time.time())}", f"is damaged ({fault})")
        return self._read(boot)

    def _read(self, boot: str) -> tuple[sqlite3.Connection, list[Record]]:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, RECORD_VERSION):
                raise VersionError(version)
            database.execute("PRAGMA journal_mode = WAL")
            # a process that dies loses nothing by this, and a machine that dies loses the kernel's part as well
            database.execute("PRAGMA synchronous = OFF")
            if (found := database.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            database.executescript(_TABLES)
            database.execute(f"PRAGMA user_version = {RECORD_VERSION}")
            if database.execute("SELECT id FROM boot").fetchall() != [(boot,)]:
                database.executescript("DELETE FROM sessions; DELETE FROM boot;")
                database.execute("INSERT INTO boot VALUES (?)", (boot,))
            records = [unpack(octets) for (octets,) in database.execute("SELECT record FROM sessions")]
        except BaseException:
            database.close()
            raise
        return database, records

    def _set_aside(self, suffix: str, why: str) -> None:
        aside = self._path.with_name(f"{NAME}.{suffix}")
        for ending in ("", "-wal", "-shm"):
            part = self._path.with_name(NAME + ending)
            if part.exists():
                part.replace(aside.with_name(aside.name + ending))
        text = "the session journal %s %s: set aside as %s. What the kernel holds goes on until its leases end, but can't be renewed"
        log.error(text, self._path, why, aside.name, extra={"event": "journal-set-aside"})


def _lock(folder: Path) -> int:
    """Held as long as the journal is open. Raises ConfigError."""
    path = folder / "lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as fault:
        mend = f"create it for the agent's user: install -d -o chainrelay -m 0700 {folder}"
        raise ConfigError("agent.toml:state", f"{folder}: {fault.strerror}", mend) from fault
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        mend = "stop that one first (systemctl stop chainrelay-agent), or give this one another `state` folder"
        raise ConfigError("agent.toml:state", f"another agent (pid {holder}) uses {folder}", mend) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode("ascii"))
    return lock
