"""A small world for the program: flows of both families, good and bad, in real maps, and the frames that meet them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from chainrelay.datapath.mapping import Flow
from chainrelay.datapath.xdp_entries import Way, hop_of, key_of, value_of
from chainrelay.datapath.xdp_layout import ENTRY4, ENTRY6, FLOW4, FLOW6, RENEWAL4, RENEWAL6, Verdict
from chainrelay.privileged import xdp_pins
from chainrelay.privileged.xdp_bpf import Map, Program
from chainrelay.privileged.xdp_flows import Flows
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = 1  # the interface on which a test run's frame arrives
OWN = bytes.fromhex("020000000001")  # our MAC where frames arrive
OUT = bytes.fromhex("020000000002")  # our MAC where they leave
PEER = bytes.fromhex("020000000003")  # the next hop's
STRANGER = bytes.fromhex("020000000009")
SESSION = bytes(range(16))
NEVER = 2**63
ENDED = 1

GOOD, UNRESOLVED, NARROW, NO_EXIT, OUTSIDE = 0, 1, 2, 3, 2**16 - 1  # indices into `hops`; the last lies beyond the map


@dataclass(frozen=True)
class Case:
    """A flow of the world with what is special about it."""

    flow: Flow
    hop: int = GOOD
    lease_ns: int = NEVER
    arrives: Way = Way(ip_address("0.0.0.0"), LOOPBACK, own=OWN)


def _endpoint(text: str) -> Endpoint:
    return Endpoint.parse(text)


def _flow(source: str, destination: str, new_source: str, new_destination: str) -> Flow:
    return Flow(Protocol.UDP, *(_endpoint(each) for each in (source, destination, new_source, new_destination)))


def _pair(family: int, port: int) -> tuple[Flow, Flow]:
    near, far = ("10.0.0.", "10.0.1.") if family == 4 else ("[fd00::", "[fd00:1::")
    end = "" if family == 4 else "]"
    there = _flow(f"{near}1{end}:{port}", f"{near}2{end}:20000", f"{far}1{end}:20001", f"{far}2{end}:{port + 1}")
    return there, Flow(there.protocol, there.new_destination, there.new_source, there.destination, there.source)


def _cases(family: int) -> dict[str, Case]:
    elsewhere = Way(ip_address("0.0.0.0"), LOOPBACK + 1, own=OWN)
    station = Way(ip_address("0.0.0.0"), LOOPBACK, own=STRANGER)
    cases = {}
    specials: list[tuple[str, int, dict[str, Any]]] = [
        ("good", 5000, {}),
        ("ended", 5010, {"lease_ns": ENDED}),
        ("elsewhere", 5020, {"arrives": elsewhere}),
        ("station", 5030, {"arrives": station}),
        ("unresolved", 5040, {"hop": UNRESOLVED}),
        ("outside", 5050, {"hop": OUTSIDE}),
        ("narrow", 5060, {"hop": NARROW}),
        ("no exit", 5070, {"hop": NO_EXIT}),
    ]
    for name, port, special in specials:
        there, back = _pair(family, port)
        cases[name] = Case(there, **special)
        cases[f"{name}-back"] = Case(back, **special)
    return cases


CASES = {4: _cases(4), 6: _cases(6)}
WAYS = {
    GOOD: Way(ip_address("10.0.1.2"), LOOPBACK, 1500, PEER, OUT, ready=True),
    UNRESOLVED: Way(ip_address("10.0.1.3")),
    NARROW: Way(ip_address("10.0.1.4"), LOOPBACK, 600, PEER, OUT, ready=True),
    NO_EXIT: Way(ip_address("10.0.1.5"), LOOPBACK + 1_000_000, 1500, PEER, OUT, ready=True),
}


class Table:
    """One family's flows, and what only a test does: an entry written over, by bpf(2)."""

    def __init__(self, folder: Path, family: int) -> None:
        self.flows = Flows(folder, family)
        self._table, self._records = Map.open(folder / f"flows{family}"), Map.open(folder / f"records{family}")
        self._flow, self._entry, self._renewal = (FLOW4, ENTRY4, RENEWAL4) if family == 4 else (FLOW6, ENTRY6, RENEWAL6)
        self._same = {name: name for name in self._renewal.offsets if name.startswith("key.")} | {
            "asked.hop": "state.hop", "asked.lease_ns": "record.lease_ns",
            "asked.arrives_on": "state.arrives_on", "asked.arrives_at": "state.arrives_at",
        }  # fmt: skip

    def update(self, key: bytes, entry: bytes) -> None:
        """Add it or, where there is one, write all of it but where it lies."""
        if self.flows.insert(key, entry):
            return
        before, after = self._entry.unpack(self.flows.lookup(key) or b""), self._entry.unpack(entry)
        place = before["record.place"]
        assert isinstance(place, int)
        written = self._entry.pack({**after, **{name: before[name] for name in ("record.place", "state.reach")}})
        self._records.update(key, written[self._flow.size :])
        self._table.update((place - 1).to_bytes(4, "little"), written[: self._flow.size])
        self.flows.renew([self._renewal.pack({name: after[at] for name, at in self._same.items()})])

    def close(self) -> None:
        """Let go of everything."""
        self.flows.close()
        self._table.close()
        self._records.close()


class World:
    """The maps and programs of one load."""

    def __init__(self, folder: Path, *, cases: bool = True) -> None:
        self.folder, self._cases = folder, CASES if cases else {family: {} for family in CASES}
        self.tables = {family: Table(folder, family) for family in (4, 6)}
        self.flows = {family: table.flows for family, table in self.tables.items()}
        self.hops, self.verdicts, self.seals = (Map.open(folder / name) for name in ("hops", "verdicts", "seals"))
        self.programs = {name: Program.open(folder / name) for name in ("native", "generic", "renew4", "renew6", "end_keys")}
        xdp_pins.set_exit(folder, LOOPBACK, takes=True)
        for index, way in WAYS.items():
            self.hops.update(index.to_bytes(4, "little"), hop_of(way))
        self.reset()

    def reset(self) -> None:
        """All flows as CASES has them, counters of the flows at zero; no keys."""
        for key, _ in list(self.seals.items()):
            self.seals.delete(key)
        for family, cases in self._cases.items():
            wanted = {
                key_of(case.flow.source, case.flow.destination): value_of(case.flow, SESSION, case.arrives, case.hop, case.lease_ns)
                for case in cases.values()
            }
            for key, _ in list(self.flows[family].items()):
                if key not in wanted:
                    self.flows[family].take(key)
            for key, value in wanted.items():
                self.tables[family].update(key, value)

    def counts(self) -> dict[Verdict, int]:
        """All verdict counters, CPUs together."""
        return {
            verdict: sum(
                int.from_bytes(each, "little") for each in self.verdicts.lookup_percpu(verdict.to_bytes(4, "little"))
            )
            for verdict in Verdict
        }

    def run(self, frame: bytes, program: str = "native") -> tuple[Verdict, int, bytes]:
        """One frame: its verdict by the counters, the action, the frame afterwards."""
        before = self.counts()
        action, after, _ = self.programs[program].run(frame)
        changed = [verdict for verdict, count in self.counts().items() if count != before[verdict]]
        assert len(changed) == 1, f"{changed} were counted for one frame"
        return changed[0], action, after

    def close(self) -> None:
        """Let go of everything."""
        for table in self.tables.values():
            table.close()
        for each in (self.hops, self.verdicts, self.seals, *self.programs.values()):
            each.close()


def lease(seconds: float) -> int:
    """A deadline from now, as entries hold it."""
    return time.monotonic_ns() + int(seconds * 1e9)
