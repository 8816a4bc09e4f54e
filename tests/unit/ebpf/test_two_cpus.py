"""find.h against control.c on two CPUs: flows come and go while others are looked for around the same homes.

The order in which control.c writes is what protects whoever looks: between two of its steps a few nanoseconds pass, which no test would
ever meet. So it runs here as if each step took its time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chainrelay.datapath.mapping import Flow
from chainrelay.datapath.xdp_layout import LAYOUT_VERSION, homes_of
from unit.ebpf import frames
from unit.ebpf.test_table import FAMILIES, HOMES, SMALL, entry_of, flow_of
from unit.ebpf.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

CHURN = 1.5  # seconds
STAY = 0.002  # seconds: so that there are always places out of quarantine
XDP_PASS, XDP_REDIRECT = 2, 4
ORDER = '#define IN_ORDER() asm volatile("" ::: "memory")'
LOOKED = "	if (!flow || flow->state.kind == FREE)\n"
WAIT = """
#define WAIT(turns) do { \\
	asm volatile("" ::: "memory"); \\
	_Pragma("clang loop unroll(disable)") \\
	for (int turn = 0; turn < (turns); turn++) \\
		bpf_ktime_get_ns(); \\
	asm volatile("" ::: "memory"); \\
} while (0)
"""
LINGER = WAIT + "#define IN_ORDER() WAIT(150)\n"
STEPS = ["	state->kind = kind;\n", "	state_of(flow, family)->kind = FREE;\n", "	name(flow, &nobody, family);\n"]


@pytest.fixture(params=["writer", "reader"])
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A small table whose writer takes some microseconds from each step to the next, or whose reader takes longer than a flow to go and
    another one to come, from the place that it has found to what is written there."""
    copy = shutil.copytree(Path(__file__).resolve().parents[3] / "ebpf", tmp_path / "ebpf")
    writer, reader = copy / "control.c", copy / "relay.c"
    text = (writer if request.param == "writer" else reader).read_text(encoding="utf-8")
    if request.param == "writer":
        for written, instead in [(ORDER, LINGER), *((step, f"{step}	IN_ORDER();\n") for step in STEPS)]:
            assert text.count(written) == 1, written
            text = text.replace(written, instead)
        writer.write_text(text, encoding="utf-8")
    else:
        assert text.count(LOOKED) == 4
        reader.write_text(WAIT + text.replace(LOOKED, "	WAIT(5000);\n" + LOOKED), encoding="utf-8")
    pins = tmp_path / "bpf"
    command = [sys.executable, "-m", "chainrelay.privileged.xdp_load", "--pins", str(pins), "--log", str(tmp_path / "log")]
    subprocess.run([*command, "--flows", str(SMALL), "--source", str(copy)], check=True, stdout=subprocess.DEVNULL)
    with closing(World(pins / f"v{LAYOUT_VERSION}", cases=False)) as made:
        yield made
    subprocess.run(["umount", "-q", str(pins)], check=False)


def home_of(flow: Flow, homes: int) -> int:
    """As find.h has it; numbers as a little-endian machine loads them."""

    def mixed(total: int, more: int) -> int:
        total = (total ^ more) * 0x9E3779B97F4A7C15 % 2**64
        return total ^ total >> 32

    ends = flow.source, flow.destination
    source, destination = ([end.address.packed[at : at + 4] for at in range(0, len(end.address.packed), 4)] for end in ends)
    words = [int.from_bytes(a, "little") << 32 | int.from_bytes(b, "little") for a, b in zip(source, destination, strict=True)]
    sport, dport = (int.from_bytes(end.port.to_bytes(2, "big"), "little") for end in ends)
    parts = [*words, sport << 16 | dport] if flow.source.family == 4 else [sport << 16 | dport, *words]
    total = 0 if flow.source.family == 4 else parts.pop(0)
    for part in parts:
        total = mixed(total, part)
    return ((total * 0xB504F333F9DE6485 % 2**64 >> 32) * homes) >> 32


@pytest.mark.parametrize("family", [4, 6])
def test_homes_are_known(family: int) -> None:
    flows = [flow_of(family, number) for number in range(0, 5000, 1000)]
    assert [home_of(flow, 131_072) for flow in flows] == HOMES[family]


@FAMILIES
def test_who_comes_and_goes_on_another_cpu_hides_and_disturbs_nobody(slow: World, family: int) -> None:
    """One CPU forwards by flows that stay, and by some that another CPU adds and removes in turn, all of them at one home. Who stays is
    found each time; who comes and goes is rewritten as a whole, as its own flow says, or not at all."""
    homes = homes_of(SMALL)
    candidates = [flow_of(family, number) for number in range(2000)]
    at = home_of(candidates[0], homes)
    coming = [flow for flow in candidates if home_of(flow, homes) == at][:4]
    staying = [flow for flow in candidates if flow not in coming and at - 3 <= home_of(flow, homes) <= at][: SMALL // 2]
    assert (len(coming), len(staying)) == (4, SMALL // 2)
    for flow in staying:
        assert slow.flows[family].insert(*entry_of(flow))
    flows = staying + coming
    sent = [frames.octets(frames.datagram(flow)) for flow in flows]
    seen: list[set[tuple[int, bytes]]] = [set() for _ in flows]
    over = threading.Event()
    cpus = sorted(os.sched_getaffinity(0))

    def forward() -> None:
        os.sched_setaffinity(0, {cpus[0]})
        while not over.is_set():
            for number, frame in enumerate(sent):
                action, after, _ = slow.programs["native"].run(frame)
                seen[number].add((action, after))

    forwarder = threading.Thread(target=forward)
    forwarder.start()
    try:
        os.sched_setaffinity(0, {cpus[-1]})
        came, ends = 0, time.monotonic() + CHURN
        while time.monotonic() < ends:
            for flow in coming:
                assert slow.flows[family].insert(*entry_of(flow))
                time.sleep(STAY)
                assert slow.flows[family].take(entry_of(flow)[0]) is not None
                came += 1
    finally:
        os.sched_setaffinity(0, set(cpus))
        over.set()
        forwarder.join()
    assert came > 100
    for number, flow in enumerate(flows):
        there, away = (XDP_REDIRECT, frames.octets(frames.rewritten(flow))), (XDP_PASS, sent[number])
        assert seen[number] <= ({there} if flow in staying else {there, away}), f"flow {number}"
    assert any(len(each) == 2 for each in seen[len(staying) :]), "nobody was ever met both there and away: this test shows nothing"
