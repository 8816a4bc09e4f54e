"""The fast path's kernel side for the agent: start the loader, open what it pinned, be the `FastKernel` of datapath/xdp.py.

`open_fast_path` is what the agent calls. Nothing here imports bcc: compiling happens in the loader's own process.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from chainrelay.datapath.xdp import XdpBackend
from chainrelay.datapath.xdp_entries import Renewed, Way, held_of
from chainrelay.datapath.xdp_layout import ENDING, RENEWAL4, SEAL_KEY, TUPLE4, Slot, Verdict
from chainrelay.datapath.xdp_seals import SealCounts, ended_of
from chainrelay.errors import DatapathError
from chainrelay.privileged import xdp_load, xdp_pins
from chainrelay.privileged.neighbours import Neighbours
from chainrelay.privileged.xdp_bpf import NOEXIST, Map, Program
from chainrelay.privileged.xdp_flows import Flows
from chainrelay.wire.endpoint import Address

log = logging.getLogger("chainrelay.xdp")

FRAME: Final = 3000  # octets of records in one control run: a test run's frame must fit a page
LOOKS: Final = 3  # at pins that a loader may be renaming
LOADER_TIMEOUT: Final = 60.0  # seconds; compiling takes one, on a busy machine some


@dataclass(frozen=True, slots=True)
class FastPathOptions:
    """What the configuration says. `mode`: "auto", "native" or "generic"; `interfaces`: where datagrams take it."""

    mode: str
    interfaces: tuple[str, ...]
    pins: Path
    log: Path
    flows: int
    hops: int


@dataclass(frozen=True, slots=True)
class FastPath:
    """A fast path that runs: the backend, and per interface the mode and the reason why not more."""

    backend: XdpBackend
    interfaces: dict[str, dict[str, str]]


def open_fast_path(options: FastPathOptions) -> FastPath:
    """Load, attach and open. Raises DatapathError: under "auto" the caller goes on with the rules alone, otherwise it refuses to start."""
    if not options.interfaces:
        raise DatapathError("no Ethernet interface of this host has an address")
    report = run_loader(replace(options, interfaces=_present(options.interfaces)) if options.mode == "auto" else options)
    modes: dict[str, dict[str, str]] = report["interfaces"]
    active = [name for name, state in modes.items() if state["mode"] != "off"]
    said = ", ".join(" ".join(filter(None, (name, state["mode"], state["why"]))) for name, state in modes.items())
    if not active:
        raise DatapathError(said)
    log.info("fast path (%s): %s", options.mode, said)
    if report["no_sealing"]:
        log.warning("sealed sessions are refused, plain ones are not concerned: %s", report["no_sealing"])
    folder = Path(report["folder"])
    return FastPath(XdpBackend(XdpKernel(folder)), modes)


def _present(interfaces: Sequence[str]) -> tuple[str, ...]:
    """Those that are there; of the others one line tells. None of them: all, so that the loader says so."""
    here = {name for _, name in socket.if_nameindex()}
    found = tuple(name for name in interfaces if name in here)
    if found and (missing := [name for name in interfaces if name not in here]):
        log.warning("fast path (auto): there is no %s now; when there is, systemctl restart chainrelay-datapath", ", ".join(missing))
    return found or tuple(interfaces)


def unload_fast_path(pins: Path) -> None:
    """Take what is ours off all interfaces, with its maps. Raises DatapathError."""
    try:
        xdp_load.unload(pins, ())
        xdp_pins.unmount(pins)
    except OSError as error:
        raise DatapathError(f"fast path not removed: {error.filename or pins}: {error.strerror}") from error


def run_loader(options: FastPathOptions) -> dict[str, Any]:
    """The loader's report. Raises DatapathError with its words."""
    command = [
        sys.executable, "-m", "chainrelay.privileged.xdp_load",
        "--pins", str(options.pins), "--log", str(options.log), "--mode", options.mode,
        "--flows", str(options.flows), "--hops", str(options.hops), *options.interfaces,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LOADER_TIMEOUT)
    except subprocess.TimeoutExpired as late:
        raise DatapathError(f"the fast path's loader did not end within {LOADER_TIMEOUT:g} s; see {options.log}") from late
    last = done.stdout.strip().rpartition("\n")[2]
    report: dict[str, Any] = json.loads(last) if last.startswith("{") else {}
    if done.returncode < 0:  # clang inside bcc has been seen to crash over source that does not compile
        raise DatapathError(f"fast path not loaded: the loader died of signal {-done.returncode}; see {options.log}")
    if done.returncode != 0:
        words = str(report.get("error") or done.stderr.strip()[-500:] or f"status {done.returncode}")
        raise DatapathError(f"fast path not loaded: {words}")
    return report


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatapathError(f"fast path, {error.filename or 'maps'}: {error.strerror}") from error


class XdpKernel:
    """The `FastKernel` of datapath/xdp.py over pinned maps."""

    def __init__(self, folder: Path) -> None:
        """Open what the loader pinned in `folder`. While it is open no loader gives the maps another size."""
        self._folder = folder
        self._programs: dict[int, Path] = {}
        try:
            self._use = xdp_pins.in_use(folder)
            self._flows = {family: Flows(folder, family) for family in (4, 6)}
            self._hops, self._verdicts = Map.open(folder / "hops"), Map.open(folder / "verdicts")
            self._seals, self._slots = Map.open(folder / "seals"), Map.open(folder / "programs")
            self._exits = Map.open(folder / "exits")
            self._end_keys = Program.open(folder / "end_keys")
        except OSError as error:
            raise DatapathError(f"{error.filename}: {error.strerror}; run the loader (xdp_load) first") from error
        self._neighbours = Neighbours(self._hops, self._exits, self._is_ours)

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC, as the program's bpf_ktime_get_coarse_ns."""
        return time.monotonic_ns()

    def ways(self, addresses: Collection[Address]) -> dict[Address, tuple[int, Way]]:
        """See Neighbours; when all places are taken, those that no entry uses are given up."""
        try:
            return {address: self._neighbours.way(address) for address in addresses}
        except DatapathError as refused:
            if not refused.full:
                raise
            used = {held_of(value).hop for _, value in self.entries()}
            self._neighbours.release(used, keep=addresses)
            return {address: self._neighbours.way(address) for address in addresses}

    @_refusals()
    def insert(self, key: bytes, value: bytes) -> bool:
        """Add an entry; False when the key is taken."""
        if len(key) != SEAL_KEY.size:
            return self._of(key).insert(key, value)
        try:
            self._seals.update(key, value, NOEXIST)
        except FileExistsError:
            return False
        except OSError as error:
            full = error.errno in {errno.E2BIG, errno.ENOMEM}
            why = f"no room for another key ({self._seals.name}: {self._seals.entries} entries)" if full else f"seals: {error.strerror}"
            raise DatapathError(why, full=full) from error
        return True

    @_refusals()
    def lookup(self, key: bytes) -> bytes | None:
        """An entry."""
        return (self._seals if len(key) == SEAL_KEY.size else self._of(key)).lookup(key)

    @_refusals()
    def take(self, key: bytes) -> bytes | None:
        """Delete an entry and return what it held."""
        return (self._seals if len(key) == SEAL_KEY.size else self._of(key)).take(key)

    @_refusals()
    def renew(self, records: Sequence[bytes]) -> list[Renewed | None]:
        """Run the control program, in as many frames as it takes."""
        return self._flows[4 if len(records[0]) == RENEWAL4.size else 6].renew(records)

    def entries(self) -> Iterable[tuple[bytes, bytes]]:
        """All entries of both families."""
        with _refusals():
            for flows in self._flows.values():
                yield from flows.items()

    @_refusals()
    def sweep(self) -> None:
        """Remove what an operation that did not come to its end has left."""
        for flows in self._flows.values():
            flows.sweep()

    def seals(self) -> bool:
        """Whether every place has its program."""
        return slots_filled(self._slots)

    def seal_entries(self) -> Iterable[tuple[bytes, bytes]]:
        """All entries of `seals`."""
        with _refusals():
            yield from self._seals.items()

    @_refusals()
    def end_keys(self, records: Sequence[bytes]) -> list[SealCounts | None]:
        """Run the control program for keys, in as many frames as it takes."""
        answers: list[SealCounts | None] = []
        room = FRAME // ENDING.size
        for at in range(0, len(records), room):
            _, after, _ = self._end_keys.run(b"".join(records[at : at + room]))
            answers += [ended_of(after[start : start + ENDING.size]) for start in range(0, len(after), ENDING.size)]
        return answers

    @_refusals()
    def verdicts(self) -> dict[Verdict, int]:
        """All CPUs together."""
        return read_verdicts(self._verdicts)

    def close(self) -> None:
        """The kernel's state stays."""
        self._neighbours.close()
        for flows in self._flows.values():
            flows.close()
        for each in (self._hops, self._exits, self._verdicts, self._seals, self._slots, self._end_keys):
            each.close()
        os.close(self._use)

    def _is_ours(self, program: int) -> bool:
        """By the pins, which the loader makes before it attaches, and renames afterwards: who is not found is looked for again. An id does
        not come again for another program."""
        for _ in range(LOOKS):
            if program in self._programs:
                return True
            self._programs.update(xdp_pins.our_programs(self._folder.parent))
        return program in self._programs

    def _of(self, key: bytes) -> Flows:
        return self._flows[4 if len(key) == TUPLE4.size else 6]


def read_verdicts(verdicts: Map) -> dict[Verdict, int]:
    """The map of that name, all CPUs together."""
    return {
        verdict: sum(int.from_bytes(each, sys.byteorder) for each in verdicts.lookup_percpu(_index(verdict))) for verdict in Verdict
    }


def slots_filled(programs: Map) -> bool:
    """Whether every place of the map `programs` has its program."""
    return all(programs.lookup(_index(slot)) is not None for slot in Slot)


def _index(place: int) -> bytes:
    return place.to_bytes(4, sys.byteorder)
