"""What the fast path is doing now, read from the kernel by a process that has no part in it: `chainrelay-agent --print-datapath`.

Changes nothing. The reasons why an interface has no better mode are not in the kernel; they are the caller's to bring.
"""

from __future__ import annotations

import json
import socket
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from chainrelay.datapath.xdp_entries import held_of
from chainrelay.datapath.xdp_layout import LAYOUT_VERSION
from chainrelay.datapath.xdp_seals import SealHeld, seal_held_of
from chainrelay.errors import DatapathError
from chainrelay.privileged import xdp_attach, xdp_pins
from chainrelay.privileged.xdp_bpf import Map
from chainrelay.privileged.xdp_flows import Flows
from chainrelay.privileged.xdp_kernel import read_verdicts, slots_filled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class InterfaceState:
    """`mode`: "native", "generic" or "off"; `program`: the kernel's id of ours, 0 = none."""

    mode: str
    program: int
    why: str


@dataclass(frozen=True)
class SealedState:
    """One key of a sealed session, and what happened under it. `current`: datagrams are sealed with it now."""

    session: str
    key_id: str
    current: bool
    opened: int
    sealed: int
    forged: int
    replayed: int


@dataclass(frozen=True)
class FastPathState:
    """`layout`: version of the maps in force, 0 = none. `room`: entries per family; `verdicts`: since the maps exist. `seals`: whether
    the sealing programs are loaded; `sealed`: every key that the maps hold."""

    wanted: str
    why: str
    layout: int = 0
    interfaces: dict[str, InterfaceState] = field(default_factory=dict)
    sessions: int = 0
    entries: int = 0
    room: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    seals: bool = False
    sealed: list[SealedState] = field(default_factory=list)

    def as_json(self) -> str:
        """One object."""
        return json.dumps(asdict(self), indent=2)

    def as_text(self) -> str:
        """For people; verdicts that never came are left out."""
        running = f"layout {self.layout}, {self.sessions} sessions" if self.layout else "not loaded"
        lines = [f"fast path: xdp = {self.wanted!r}, {running}{f' ({self.why})' if self.why else ''}"]
        for name, state in self.interfaces.items():
            program = f", program {state.program}" if state.program else ""
            lines.append(f"  {name}: {state.mode}{program}{f' ({state.why})' if state.why else ''}")
        if self.layout:
            lines.append(f"  entries: {self.entries}, room for {self.room} a family")
            lines.append(f"  sealing: {self._sealing()}")
        lines += [f"  {name}: {count}" for name, count in self.verdicts.items() if count]
        return "\n".join(lines)


    def _sealing(self) -> str:
        if not self.seals:
            return "off, its programs are not loaded"
        total = {name: sum(getattr(each, name) for each in self.sealed) for name in ("opened", "sealed", "forged", "replayed")}
        counts = ", ".join(f"{count} {name}" for name, count in total.items() if count)
        return f"{len({each.session for each in self.sealed})} sessions, {len(self.sealed)} keys{f' ({counts})' if counts else ''}"


def read_state(wanted: str, interfaces: Sequence[str], pins: Path, why: str, reasons: Mapping[str, str]) -> FastPathState:
    """The state of `interfaces` and of whatever else has a program of ours. Raises DatapathError, with what to do."""
    try:
        ours = xdp_pins.our_programs(pins)
        here: dict[str, InterfaceState] = {}
        for index, name in socket.if_nameindex():
            now = xdp_attach.attached(index)
            if now.mode is not None and now.program in ours:
                here[name] = InterfaceState(now.mode.name.lower(), now.program, reasons.get(name, ""))
            elif name in interfaces:
                here[name] = InterfaceState("off", 0, reasons.get(name, ""))
        folder = xdp_pins.folder_of(pins)
        if not (folder / "native").exists():
            return FastPathState(wanted, why, interfaces=here)
        with closing(Flows(folder, 4)) as flows4, closing(Flows(folder, 6)) as flows6, Map.open(folder / "verdicts") as counted:
            held = [held_of(value) for flows in (flows4, flows6) for _, value in flows.items()]
            room, verdicts = flows4.room, read_verdicts(counted)
        with Map.open(folder / "seals") as seals, Map.open(folder / "programs") as slots:
            sealed = [_sealed(seal_held_of(key, value)) for key, value in seals.items()]
            can_seal = slots_filled(slots)
    except OSError as error:
        raise DatapathError(f"{error.filename or pins}: {error.strerror}; run it as root, or as the helper's user") from error
    sessions = len({each.session for each in held})
    named = {verdict.name.lower().replace("_", "-"): count for verdict, count in verdicts.items()}
    return FastPathState(wanted, why, LAYOUT_VERSION, here, sessions, len(held), room, named, can_seal, sealed)


def _sealed(held: SealHeld) -> SealedState:
    counts = held.counts
    return SealedState(
        held.session.hex(), held.key_id.hex(), not held.ends_ns, counts.opened, counts.sealed, counts.forged, counts.replayed
    )
