"""`python -m chainrelay.privileged.xdp_load`: compile, pin, attach, say what was chosen as JSON, end.

A process of its own, so that the daemon never holds LLVM in memory. Whatever it makes stays in the kernel: maps and programs
by their pins, attachments by themselves. Run again it keeps the maps, and the programs as well if they would come out the same;
otherwise it replaces them in one step per interface, without a lost datagram. Its last line is a JSON object (`Report`, or
{"error": text} with status 1).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chainrelay.datapath.xdp_layout import LAYOUT_VERSION, homes_of
from chainrelay.errors import DatapathError
from chainrelay.limits import FAST_PATH_PARTNERS, FAST_PATH_SESSIONS
from chainrelay.privileged import xdp_attach, xdp_modes, xdp_pins
from chainrelay.privileged.xdp_bpf import Map, tick_ns
from chainrelay.privileged.xdp_cache import CodeCache, folder_from_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOWS: Final = 2 * FAST_PATH_SESSIONS  # entries per family: one a direction
HOPS: Final = FAST_PATH_PARTNERS
SOURCES: Final = (Path("/usr/share/chainrelay/ebpf"), Path(__file__).resolve().parents[3] / "ebpf")


@dataclass
class Report:
    """What the loader did: per interface `native`, `generic` or `off`, and why not more."""

    folder: str
    layout: int = LAYOUT_VERSION
    new_maps: list[str] = field(default_factory=list)
    interfaces: dict[str, dict[str, str]] = field(default_factory=dict)
    no_sealing: str = ""
    """Why sealed sessions can't be carried here; empty where they can."""
    reused: bool = False
    """The programs of an earlier run are these, so nothing was compiled."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The process. 0 = done, 1 = refused (the text says why), 2 = usage."""
    options = _parser().parse_args(arguments)
    try:
        if options.detach:
            report = unload(options.pins, options.interface)
        else:
            report = load(options)
    except (DatapathError, OSError) as error:
        print(json.dumps({"error": str(error)}))
        print(f"xdp: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(report)))
    return 0


def load(options: argparse.Namespace) -> Report:
    """Compile and attach. Under `--mode native` or `generic` an interface that can't is an error, under `auto` a reason in the report."""
    indices = {name: xdp_attach.interface_index(name) for name in options.interface}
    pins: Path = options.pins
    folder = xdp_pins.folder_of(pins)
    xdp_pins.ensure_bpffs(pins)
    with xdp_pins.lock(pins):
        return _load(options, indices, pins, folder)


def _load(options: argparse.Namespace, indices: dict[str, int], pins: Path, folder: Path) -> Report:
    report = Report(str(folder), new_maps=xdp_pins.ensure_maps(folder, options.flows, options.hops))
    xdp_pins.put_left_aside(folder)
    origin = fingerprint(options.source, options.flows)
    report.reused = not report.new_maps and xdp_pins.made_of(folder) == origin
    if not report.reused:
        _make_programs(options, folder, report, CodeCache(folder_from_environment(), origin))
    report.interfaces = xdp_modes.attach_all(pins, "" if report.reused else xdp_pins.NEW, indices, options.mode)
    for number, _ in socket.if_nameindex():
        if number not in indices.values():  # one that the configuration has named before
            xdp_modes.detach(pins, number)
    if not report.reused:
        xdp_pins.publish(folder)
        xdp_pins.note_origin(folder, "" if report.no_sealing else origin)
    xdp_pins.drop_left(folder)
    xdp_pins.wipe_old(folder)
    for stale in xdp_pins.other_versions(pins):
        xdp_pins.wipe_keys(stale)
        xdp_pins.forget(stale)
    return report


def _make_programs(options: argparse.Namespace, folder: Path, report: Report, cache: CodeCache) -> None:
    """Compile, load and pin as `_new`; the sealing ones take their places at once."""
    from chainrelay.privileged.xdp_compile import FUNCTIONS, SEALING, load_programs  # maps LLVM: not before everything else is right

    xdp_pins.note_origin(folder, "")
    load_programs(FUNCTIONS, options.source, folder, xdp_pins.NEW, options.log, cache)
    try:
        load_programs(SEALING, options.source, folder, xdp_pins.NEW, options.log, cache)
    except DatapathError as error:  # plain sessions need none of it, and sealed ones are refused
        report.no_sealing = str(error)
    xdp_pins.fill_slots(folder)


def fingerprint(source: Path, flows: int) -> str:
    """Of all that decides what the programs are: their source, our compiler's, the tables' size. 32 characters."""
    here = Path(__file__).parent
    makers = [here / name for name in ("xdp_compile.py", "xdp_bpf.py", "../datapath/xdp_layout.py")]
    digest = hashlib.sha256(f"{homes_of(flows)} {tick_ns()}".encode())
    for path in [*makers, *sorted(path for path in source.rglob("*") if path.is_file())]:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def unload(pins: Path, interfaces: Sequence[str]) -> Report:
    """Take our programs off the interfaces (none named: off all of them); with the last one all pins go. What is not ours stays."""
    with xdp_pins.lock(pins) if pins.is_dir() else nullcontext():
        return _unload(pins, interfaces)


def _unload(pins: Path, interfaces: Sequence[str]) -> Report:
    report = Report(str(xdp_pins.folder_of(pins)))
    for name in interfaces or [name for _, name in socket.if_nameindex()]:
        xdp_modes.detach(pins, xdp_attach.interface_index(name))
        report.interfaces[name] = {"mode": "off", "why": "detached"}
    if not xdp_modes.anywhere(pins):
        _let_go(xdp_pins.folder_of(pins) / "hops")
        for version in [*xdp_pins.other_versions(pins), xdp_pins.folder_of(pins)]:
            xdp_pins.wipe_keys(version)
            xdp_pins.forget(version)
    return report


def _let_go(hops: Path) -> None:
    from chainrelay.privileged.neighbours import let_go  # its netlink library takes a while to load

    if hops.exists():
        with Map.open(hops) as ways:
            let_go(ways)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chainrelay-xdp-load", description="Load chainrelay's XDP fast path.")
    parser.add_argument("interface", nargs="*", help="where to attach; none: compile and pin only")
    parser.add_argument("--pins", type=Path, default=xdp_pins.DEFAULT_PINS, help="folder for the pins (a bpffs is mounted there)")
    parser.add_argument("--source", type=Path, default=next((path for path in SOURCES if path.is_dir()), SOURCES[0]))
    parser.add_argument("--mode", choices=("auto", "native", "generic"), default="auto")
    parser.add_argument("--flows", type=int, default=FLOWS, help="entries per family, two a session and component")
    parser.add_argument("--hops", type=int, default=HOPS, help="partner addresses")
    parser.add_argument("--log", type=Path, default=Path("/run/chainrelay/xdp.log"), help="clang's and the verifier's words")
    parser.add_argument("--detach", action="store_true", help="take the fast path off and remove its maps")
    return parser


if __name__ == "__main__":
    sys.exit(main())
