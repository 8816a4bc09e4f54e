"""One family's flows in the kernel: the table that the program forwards by, and the records beside it (ebpf/find.h).

Where in the table a flow lies is the control program's affair: it alone writes there. What happens here is the order: a record
first, since it says that the tuple is taken and how many there may be, then the place; a flow leaves its place before its record
goes. So what a process that died has left halfway is a record without a place: the next insertion of the same tuple takes it over,
`sweep` removes it.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from chainrelay.datapath.xdp_entries import Renewed, removal_of, renewed_of
from chainrelay.datapath.xdp_layout import AT_ONCE, COUNT, FLOW4, FLOW6, PLACING4, PLACING6, RECORD, RENEWAL4, RENEWAL6
from chainrelay.errors import DatapathError
from chainrelay.privileged.xdp_bpf import NOEXIST, Map, Program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


class Flows:
    """The flows of family 4 or 6 whose maps and programs are pinned in a folder. All methods raise OSError when the kernel refuses; an
    insertion then leaves nothing behind."""

    def __init__(self, folder: Path, family: int) -> None:
        flow, self._placing, self._renewal = (FLOW4, PLACING4, RENEWAL4) if family == 4 else (FLOW6, PLACING6, RENEWAL6)
        self._size = flow.size
        self._key = slice(0, flow.offsets["leaves.source_be32"] if family == 4 else flow.offsets["padding"])
        self._own = flow.offsets["own.packets"]
        self._records = Map.open(folder / f"records{family}")
        self._placer, self._renewer, self._remover = (Program.open(folder / f"{name}{family}") for name in ("place", "renew", "remove"))
        with Map.open(folder / f"flows{family}") as table:
            self._table = table.mapped()

    @property
    def room(self) -> int:
        """How many flows there may be."""
        return self._records.entries

    def insert(self, key: bytes, entry: bytes) -> bool:
        """Add a flow with its record; False when the tuple is taken. Raises DatapathError, `full` when there is no room."""
        if not self._add_record(key, entry):
            return False
        if not self._place([(key, entry)]):
            raise DatapathError(f"the fast path is full around one place ({self._records.name})", full=True)
        return True

    def insert_all(self, entries: Iterable[tuple[bytes, bytes]]) -> int:
        """Add many, in as few runs as it takes; how many were added. Of several with one key the last. Raises DatapathError, `full`, when
        there is no room for all; those before are there."""
        added: list[tuple[bytes, bytes]] = []
        try:
            added += ((key, entry) for key, entry in dict(entries).items() if self._add_record(key, entry))
        finally:
            placed = self._place(added)
        return placed

    def lookup(self, key: bytes) -> bytes | None:
        """A flow with its record."""
        record = self._records.lookup(key)
        return self._entry(key, record) if record is not None else None

    def take(self, key: bytes) -> bytes | None:
        """Remove a flow and return what it held at last."""
        before = self.lookup(key)
        if before is None:
            self._records.delete(key)
            return None
        self._remover.run(removal_of(key))
        own = self._begin(before[self._size :]) + self._own
        counted = self._table[own : own + COUNT.size]
        record = self._records.take(key) or before[self._size :]
        return before[: self._own] + counted + record

    def renew(self, renewals: Sequence[bytes]) -> list[Renewed | None]:
        """Run the control program, in as many frames as it takes."""
        return [renewed_of(answer) for answer in _run(self._renewer, renewals, self._renewal.size)]

    def sweep(self) -> None:
        """Remove records without a place: what a process that died amid an insertion or a removal has left."""
        for key, record in list(self._records.items()):
            if self._entry(key, record) is None:
                self._records.delete(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All flows with their records: none twice, those that come or go meanwhile perhaps."""
        for key, record in self._records.items():
            entry = self._entry(key, record)
            if entry is not None:
                yield key, entry

    def close(self) -> None:
        """Let go of everything; the kernel's state stays."""
        self._table.close()
        for each in (self._records, self._placer, self._renewer, self._remover):
            each.close()

    def _add_record(self, key: bytes, entry: bytes) -> bool:
        record = entry[self._size :]
        try:
            self._records.update(key, record, NOEXIST)
        except FileExistsError:
            if self.lookup(key) is not None:
                return False
            self._records.update(key, record)  # one without a place
        except OSError as error:
            full = error.errno in {errno.E2BIG, errno.ENOMEM}
            name, room = self._records.name, self._records.entries
            why = f"the fast path is full ({name}: {room} entries)" if full else f"{name}: {error.strerror}"
            raise DatapathError(why, full=full) from error
        return True

    def _place(self, recorded: Sequence[tuple[bytes, bytes]]) -> int:
        """How many have found a place; the records of all others go."""
        asked = [entry[: self._size].ljust(self._placing.size, b"\0") for _, entry in recorded]
        at = self._placing.offsets["place"]
        homeless = {key: None for key, _ in recorded}
        try:
            for number, answer in enumerate(_run(self._placer, asked, self._placing.size)):
                if struct.unpack_from("=I", answer, at)[0]:
                    del homeless[recorded[number][0]]
        finally:
            for key in homeless:
                self._records.delete(key)
        return len(recorded) - len(homeless)

    def _entry(self, key: bytes, record: bytes) -> bytes | None:
        at = self._begin(record)
        flow = self._table[at : at + self._size] if at >= 0 else b""
        return flow + record if flow[self._key] == key else None

    def _begin(self, record: bytes) -> int:
        """Where in the table the record's flow begins; negative: nowhere."""
        return (int(struct.unpack_from("=I", record, RECORD.offsets["place"])[0]) - 1) * self._size


def _run(program: Program, asked: Sequence[bytes], size: int) -> Iterator[bytes]:
    for at in range(0, len(asked), AT_ONCE):
        _, after, _ = program.run(b"".join(asked[at : at + AT_ONCE]))
        yield from (after[start : start + size] for start in range(0, len(after), size))
