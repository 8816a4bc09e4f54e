"""In which mode each interface gets the program, and which may be sent out of.

A native program hands frames to the other interface's driver. One that can't take them drops them, after the program has ended and
counted; no rule hears of it. So native programs send only where the driver takes frames, and as soon as one interface that takes
part can't, all are generic: there the stack sends. `auto` leaves an interface in the mode it has, since another mode is a gap.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from chainrelay.errors import DatapathError
from chainrelay.privileged import xdp_attach, xdp_pins
from chainrelay.privileged.xdp_attach import Mode
from chainrelay.privileged.xdp_bpf import Program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def attach_all(pins: Path, suffix: str, interfaces: Mapping[str, int], wanted: str) -> dict[str, dict[str, str]]:
    """The programs pinned with `suffix` on all of them, by name and index: mode and reason of each. Raises DatapathError where `wanted`
    is a mode that one can't have; under "auto" that is a reason."""
    report = {name: _attach(pins, suffix, name, index, wanted) for name, index in interfaces.items()}
    generic = [name for name, each in report.items() if each["mode"] == "generic"]
    if wanted == "auto" and generic:
        for name, index in interfaces.items():
            if report[name]["mode"] == "native":
                _attach_as(pins, suffix, index, Mode.GENERIC)
                report[name] = {"mode": "generic", "why": f"native programs can't send to {generic[0]}, which is generic"}
    for name, index in interfaces.items():
        xdp_pins.set_exit(xdp_pins.folder_of(pins), index, takes=report[name]["mode"] != "off")
    return report


def detach(pins: Path, index: int) -> None:
    """Take a program of ours off, and nobody else's; the interface is no exit any more."""
    folder = xdp_pins.folder_of(pins)
    if (folder / "exits").exists():
        xdp_pins.set_exit(folder, index, takes=False)
    ours = xdp_pins.our_programs(pins) if pins.is_dir() else {}
    now = xdp_attach.attached(index) if ours else xdp_attach.NOTHING
    if now.mode is not None and now.program in ours:
        with Program.open(ours[now.program]) as program:
            xdp_attach.detach(index, now.mode, program.descriptor)


def anywhere(pins: Path) -> bool:
    """Whether a program of ours is on any interface of this network namespace."""
    ours = xdp_pins.our_programs(pins) if pins.is_dir() else {}
    return any(xdp_attach.attached(index).program in ours for index, _ in socket.if_nameindex())


def _attach(pins: Path, suffix: str, name: str, index: int, wanted: str) -> dict[str, str]:
    reasons: list[str] = []
    modes = {"auto": [Mode.NATIVE, Mode.GENERIC], "native": [Mode.NATIVE], "generic": [Mode.GENERIC]}[wanted]
    now = xdp_attach.attached(index)
    if wanted == "auto" and now.mode is Mode.GENERIC and now.program in xdp_pins.our_programs(pins):
        modes, reasons = [Mode.GENERIC], ['kept as it was; xdp = "native", or a reboot, tries the other']
    for mode in modes:
        try:
            if mode is Mode.NATIVE and not xdp_attach.takes_frames(index):
                raise DatapathError("its driver takes no frames from other interfaces (a veth: unless its far end has GRO on, or XDP)")
            _attach_as(pins, suffix, index, mode)
        except DatapathError as error:
            reasons.append(f"{mode.name.lower()}: {error}")
        else:
            return {"mode": mode.name.lower(), "why": "; ".join(reasons)}
    if wanted != "auto":
        raise DatapathError(f"interface {name}: {'; '.join(reasons)}")
    return {"mode": "off", "why": "; ".join(reasons)}


def _attach_as(pins: Path, suffix: str, index: int, mode: Mode) -> None:
    now = xdp_attach.attached(index)
    ours = xdp_pins.our_programs(pins)
    with Program.open(xdp_pins.folder_of(pins) / f"{mode.name.lower()}{suffix}") as program:
        if not now.program:
            xdp_attach.attach(index, program.descriptor, mode)
            return
        if now.program not in ours or now.mode is None:
            raise DatapathError(
                f"another XDP program (id {now.program}) is attached and stays; take it off by `ip link set dev "
                f"{socket.if_indextoname(index)} xdp off`, or leave the interface out of datapath.interfaces"
            )
        with Program.open(ours[now.program]) as before:
            if now.mode == mode:
                xdp_attach.attach(index, program.descriptor, mode, expected=before.descriptor)
            else:  # the kernel can't change the mode in one step; the rules carry the datagrams in between
                xdp_attach.detach(index, now.mode, before.descriptor)
                xdp_attach.attach(index, program.descriptor, mode)
