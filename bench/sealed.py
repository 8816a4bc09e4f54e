"""The sealed rows of `make bench`: every datagram is sealed at the first relay and opened at the second, all on one core.

    sealed         chainrelay's fast path           sealed-c        recvmmsg, OpenSSL, sendmmsg (c_sealed_relay.c, compiled here)
    sealed-python  asyncio and `cryptography`

And the programs alone: nanoseconds of one datagram by BPF_PROG_TEST_RUN, open and seal beside rewriting. Sizes are octets of text.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from chainrelay.datapath.mapping import Counters, Done, Install, Mapping
from chainrelay.datapath.xdp_entries import Seal, Way, hop_of, key_of, value_of
from chainrelay.datapath.xdp_layout import MAPS, SEAL_KEY, Kind, MapKind, MapLayout, Verdict
from chainrelay.datapath.xdp_seals import seal_key_of, seal_value_of
from chainrelay.privileged import xdp_pins
from chainrelay.privileged.xdp_bpf import Map, Program
from chainrelay.privileged.xdp_compile import compile_file
from chainrelay.privileged.xdp_flows import Flows
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import SealKeys
from lab import wait
from lab.fastpath import FastRow, Pins
from lab.host import Namespace
from lab.row import Row
from proxies import FIRST_WINDOW, _first, _listens, _pairs, _start
from rows import LEASE, PORT, bare
from traffic import ROOT, Traffic, mac, undisturbed
from unit.ebpf.sealed_world import SESSION, Peer, frame, pair
from unit.ebpf.world import LOOPBACK, NEVER, OWN, WAYS

SIZES: Final = (64, 172, 512, 1200, 1400)
HEADERS: Final = 42  # of an IPv4 frame: Traffic counts octets of frames
BURST: Final = 64
KEYS: Final = SealKeys(bytes.fromhex("d0000002"), b"k" * 32, b"i" * 12, b"k" * 32, b"i" * 12)
"""The same in both directions: what the first relay seals the second one opens."""
PARTS: Final = ("rewrite", "open", "seal")
LONGEST: Final = 1600
TEMPLATE: Final = MapLayout("templates", MapKind.ARRAY, 4, 8 + SEAL_KEY.size + LONGEST)
TESTED: Final = MapLayout("tested", MapKind.PROG_ARRAY, 4, 4)
REPEAT: Final = 2_000


@dataclass
class Sealed:
    """What was measured: nanoseconds by (part, text) and datagrams per second by (row, text), a value per round."""

    nanoseconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    delivered: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def ratios(self) -> dict[str, float]:
        """The figures that the targets are about."""
        slower = max(statistics.median(self.nanoseconds[part, 1400]) for part in ("open", "seal"))
        rate = {key: statistics.median(values) for key, values in self.delivered.items()}
        return {
            "sealed_gbit_1400": 1400 * 8 / slower,
            "sealed_vs_c_172": rate["sealed", 172] / rate["sealed-c", 172],
            "sealed_vs_python_172": rate["sealed", 172] / rate["sealed-python", 172],
        }

    def ratio_lines(self) -> str:
        """A name and a value a line."""
        return "\n".join(f"{name} {value:.3f}" for name, value in self.ratios().items())

    def ratio_table(self) -> str:
        """Markdown."""
        rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in self.ratios().items())
        return f"| figure | |\n|---|---|\n{rows}"

    def table(self) -> str:
        """Markdown."""
        lines = ["| one datagram, ns | " + " | ".join(f"{size}" for size in SIZES) + " |", "|---|" + "---|" * len(SIZES)]
        lines += [f"| {part} | " + " | ".join(_spread(self.nanoseconds[part, size]) for size in SIZES) + " |" for part in PARTS]
        sizes = sorted({size for _, size in self.delivered})
        lines += ["", "| delivered/s, sealed and opened | " + " | ".join(map(str, sizes)) + " |", "|---|" + "---|" * len(sizes)]
        for row in dict.fromkeys(row for row, _ in self.delivered):
            lines.append(f"| {row} | " + " | ".join(_spread(self.delivered[row, size]) for size in sizes) + " |")
        return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


# the programs alone ------------------------------------------------------------------


class Programs:
    """The loaded programs, a plain and a sealed session in their maps, and again.c to run them with."""

    def __init__(self, stack: ExitStack) -> None:
        pins = Pins()
        stack.callback(pins.close)
        host = stack.enter_context(Namespace("bench"))
        folder = Path(pins.load(host, [])["folder"])
        maps = {layout.name: Map.open(folder / layout.name) for layout in MAPS} | {
            layout.name: Map.create(layout, 1) for layout in (TEMPLATE, TESTED)
        }
        for each in maps.values():
            stack.callback(each.close)
        self._template, self._tested = maps["templates"], maps["tested"]
        source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-again-")), "ebpf")
        shutil.copytree(ROOT / "ebpf", source)
        shutil.copy(ROOT / "bench" / "bpf" / "again.c", source)
        os.environ["BCC_KERNEL_SOURCE"] = str(source / "shim")
        self._again = Program.load(compile_file(source, "again.c", {"again": "again"}, maps, pins.log)["again"], "again")
        stack.callback(self._again.close)
        program = stack.enter_context(Program.open(folder / "native"))
        self._native = program.descriptor.to_bytes(4, sys.byteorder)

        maps["hops"].update(bytes(4), hop_of(WAYS[0]))
        xdp_pins.set_exit(folder, LOOPBACK, takes=True)
        arrives = Way(WAYS[0].address, LOOPBACK, own=OWN)
        self.sealed, self.plain = pair(4), pair(4, 8000)
        flows = stack.enter_context(closing(Flows(folder, 4)))
        for flow, seal in zip(self.sealed, (Seal(Kind.OPEN), Seal(Kind.SEAL, 0, KEYS.key_id)), strict=True):
            assert flows.insert(key_of(flow.source, flow.destination), value_of(flow, SESSION, arrives, 0, NEVER, seal))
        for flow in self.plain:
            assert flows.insert(key_of(flow.source, flow.destination), value_of(flow, SESSION, arrives, 0, NEVER))
        maps["seals"].update(seal_key_of(SESSION, KEYS.key_id), seal_value_of(KEYS))

    def measure(self, part: str, text: int) -> float:
        """Nanoseconds of one datagram, without what putting the frame back takes."""
        payload = bytes(number % 251 for number in range(text))
        if part == "open":
            payload = Peer(KEYS).seal(payload, 0)
        flow = {"open": self.sealed[0], "seal": self.sealed[1], "rewrite": self.plain[0]}[part]
        octets = frame(flow.source, flow.destination, payload)
        head = len(octets).to_bytes(4, sys.byteorder) + (part == "open").to_bytes(4, sys.byteorder)
        self._template.update(bytes(4), head + seal_key_of(SESSION, KEYS.key_id) + octets.ljust(LONGEST, b"\0"))
        with undisturbed():
            self._tested.delete(bytes(4))
            without = self._again.run(octets, REPEAT)[2]
            self._tested.update(bytes(4), self._native)
            action, _, took = self._again.run(octets, REPEAT)
        assert action == 4, f"{part} of {text} octets: the program returned {action}"
        return took - without


# through two relays --------------------------------------------------------------------


@dataclass
class Live:
    """A row that is up."""

    name: str
    traffic: Traffic
    row: FastRow | None = None


def ours(stack: ExitStack) -> Live:
    """The first relay has the client's end as its server, so what comes from there it seals; the second one opens."""
    row = FastRow(2, "native", (4,))
    stack.callback(row.close)
    first, second = row.firewalls
    ends = (
        Endpoint(second.firewall.left.address(4), PORT), Endpoint(first.firewall.right.address(4), PORT),
        Endpoint(first.firewall.left.address(4), PORT), Endpoint(row.row.client_end.address(4), PORT),
    )  # fmt: skip
    sealing = Mapping(bytes(16), Protocol.UDP, 1, *ends, sealed=True)
    opening = replace(
        sealing,
        client_partner=ends[1],
        client_side=ends[0],
        server_side=Endpoint(second.firewall.right.address(4), PORT),
        server_partner=Endpoint(row.row.server_end.address(4), PORT),
    )
    for relay, mapping in ((first, sealing), (second, opening)):
        assert relay.fast.apply([Install(mapping, LEASE, KEYS)]) == [Done(Counters())]
    wait.until(lambda: first.ready(sealing) and second.ready(opening), "the neighbours")
    return Live("sealed", _traffic(row.row, ends[2]), row)


def _traffic(row: Row, to: Endpoint, first: int = 20_000) -> Traffic:
    source = Endpoint(row.client_end.address(4), PORT)
    gate = mac(row.firewalls[0].left)
    return Traffic(row.client_end, row.server_end, source, to, gate, burst=BURST, first=first, summed=False)


def in_user_space(name: str, command: list[str], stack: ExitStack) -> Live:
    """Two processes: the first seals, the second opens."""
    row = bare(stack, 2, 4)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{name}-")))
    secrets = [KEYS.open_key.hex(), KEYS.open_iv.hex(), KEYS.key_id.hex()]
    for what, (firewall, to) in zip(("seal", "open"), _pairs(row, PORT), strict=True):
        at = Endpoint(firewall.left.address(4), PORT)
        _start(firewall, [*command, what, str(at.address), str(PORT), str(to.address), str(to.port), *secrets], folder)
        _listens(firewall, at)
    return Live(name, _traffic(row, _first(row, PORT), FIRST_WINDOW))


def compiled(stack: ExitStack) -> str:
    """c_sealed_relay.c, by the system's compiler."""
    program = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-c-")), "c_sealed_relay")
    source = str(Path(__file__).with_name("c_sealed_relay.c"))
    subprocess.run(["gcc", "-O3", "-march=native", "-o", str(program), source, "-lcrypto"], check=True)
    return str(program)


def run(rounds: int, seconds: float, sizes: tuple[int, ...]) -> Sealed:
    """Everything, in alternating rounds of which the first is dropped."""
    measured = Sealed()
    with ExitStack() as stack:
        programs = Programs(stack)
        live = [
            ours(stack),
            in_user_space("sealed-c", [compiled(stack)], stack),
            in_user_space("sealed-python", [sys.executable, str(Path(__file__).with_name("sealed_relay.py"))], stack),
        ]
        for number in range(rounds + 1):
            for part in PARTS:
                for size in SIZES:
                    took = programs.measure(part, size)
                    if number:
                        measured.nanoseconds.setdefault((part, size), []).append(took)
            for each in live if number % 2 == 0 else reversed(live):
                for size in sizes:
                    rate = each.traffic.measure(seconds, size + HEADERS).delivered
                    if number:
                        measured.delivered.setdefault((each.name, size), []).append(rate)
        row = live[0].row
        assert row is not None
        counts = [relay.fast.sealed_keys()[0].counts for relay in row.firewalls]
        assert counts[0].sealed > 0
        assert counts[1].opened > 0.9 * counts[0].sealed, row.firewalls[1].fast.verdicts()
        assert row.firewalls[1].verdict(Verdict.FORGED) == row.firewalls[1].verdict(Verdict.REPLAYED) == 0
    return measured


def main() -> None:
    """These rows alone: `python -m sealed [rounds]`."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    measured = run(int(sys.argv[1]) if len(sys.argv) > 1 else 7, 0.12, SIZES)
    print(f"{measured.table()}\n\n{measured.ratio_lines()}")


if __name__ == "__main__":
    main()
