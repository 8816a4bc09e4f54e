"""control.c: renewals in the live entry, exact against two CPUs that count meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chainrelay.datapath.xdp_entries import Renewed, held_of, key_of, renewal_of, renewed_of
from chainrelay.datapath.xdp_layout import LAYOUT_VERSION, RENEWAL4, RENEWAL6, Verdict
from unit.ebpf import frames
from unit.ebpf.world import CASES, NARROW, STRANGER, World, lease

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
SIZES = {4: RENEWAL4.size, 6: RENEWAL6.size}


def renew(world: World, family: int, records: list[bytes]) -> list[Renewed | None]:
    """One control run."""
    _, after, _ = world.programs[f"renew{family}"].run(b"".join(records))
    size = SIZES[family]
    return [renewed_of(after[at : at + size]) for at in range(0, len(after), size)]


@FAMILIES
def test_renewal_tells_what_was_counted_since_the_last_one(world: World, family: int) -> None:
    case = CASES[family]["good"]
    key = key_of(case.flow.source, case.flow.destination)
    record = renewal_of(key, case.arrives, case.hop, lease(100))
    length = (28 if family == 4 else 48) + 8
    for count in (2, 0, 3):
        for _ in range(count):
            assert world.run(frames.octets(frames.datagram(case.flow)))[0] is Verdict.FORWARDED
        assert renew(world, family, [record]) == [Renewed(count, count * length)]


@FAMILIES
def test_renewal_changes_lease_way_and_arrival_and_nothing_else(world: World, family: int) -> None:
    case = CASES[family]["good"]
    key = key_of(case.flow.source, case.flow.destination)
    before = world.flows[family].lookup(key)
    deadline = lease(77)
    elsewhere = replace(case.arrives, ifindex=7, own=STRANGER)
    renew(world, family, [renewal_of(key, elsewhere, NARROW, deadline)])
    after = world.flows[family].lookup(key)
    assert before is not None
    assert after is not None
    held = held_of(before)
    assert held_of(after) == replace(held, lease_ns=deadline, hop=NARROW)
    went = world.run(frames.octets(frames.datagram(case.flow)))[0]
    assert went is Verdict.OTHER_INTERFACE


@FAMILIES
def test_a_closed_flow_forwards_nothing(world: World, family: int) -> None:
    case = CASES[family]["good"]
    key = key_of(case.flow.source, case.flow.destination)
    before = held_of(world.flows[family].lookup(key) or b"")
    renew(world, family, [renewal_of(key, replace(case.arrives, ifindex=7), NARROW, 0)])
    assert world.run(frames.octets(frames.datagram(case.flow)))[0] is Verdict.LEASE_ENDED
    after = held_of(world.flows[family].lookup(key) or b"")
    assert after == replace(before, lease_ns=0), "what was admitted a moment ago still goes where it was meant to"


@FAMILIES
def test_a_batch_answers_each_record(world: World, family: int) -> None:
    case = CASES[family]["good"]
    known, unknown = (key_of(source, case.flow.destination) for source in (case.flow.source, case.flow.source.next(9)))
    world.run(frames.octets(frames.datagram(case.flow)))
    records = [renewal_of(key, case.arrives, case.hop, lease(9)) for key in (unknown, known, known, unknown) * 10]
    answers = world.flows[family].renew(records)
    length = (28 if family == 4 else 48) + 8
    assert answers[:4] == [None, Renewed(1, length), Renewed(0, 0), None]
    assert answers[4:] == [None, Renewed(0, 0), Renewed(0, 0), None] * 9


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[World]:
    """The program as CPUs run it that can't own a flow: both of this machine's count in the record."""
    source = Path(__file__).resolve().parents[3] / "ebpf"
    copy = shutil.copytree(source, tmp_path / "ebpf")
    text = (copy / "count.h").read_text(encoding="utf-8")
    assert "bpf_get_smp_processor_id()" in text
    (copy / "count.h").write_text(text.replace("bpf_get_smp_processor_id()", "bpf_get_smp_processor_id() + 1000"))
    pins = tmp_path / "bpf"
    command = [sys.executable, "-m", "chainrelay.privileged.xdp_load", "--pins", str(pins), "--log", str(tmp_path / "log")]
    subprocess.run([*command, "--source", str(copy)], check=True, stdout=subprocess.DEVNULL)
    made = World(pins / f"v{LAYOUT_VERSION}")
    yield made
    made.close()
    subprocess.run(["umount", "-q", str(pins)], check=False)


@FAMILIES
@pytest.mark.parametrize("places", ["world", "shared"])
def test_counting_is_exact_on_two_cpus_while_renewals_run(family: int, places: str, request: pytest.FixtureRequest) -> None:
    """Two threads on two CPUs send the same flow, a third renews all the time: every datagram is told exactly once."""
    world: World = request.getfixturevalue(places)
    case = CASES[family]["good"]
    frame = frames.octets(frames.datagram(case.flow))
    record = renewal_of(key_of(case.flow.source, case.flow.destination), case.arrives, case.hop, lease(100))
    each, told = 20_000, 0

    def send(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        for _ in range(each):
            world.programs["native"].run(frame)

    cpus = sorted(os.sched_getaffinity(0))[:2]
    senders = [threading.Thread(target=send, args=(cpu,)) for cpu in cpus]
    for sender in senders:
        sender.start()
    while any(sender.is_alive() for sender in senders):
        answer = renew(world, family, [record])[0]
        assert answer is not None
        told += answer.packets
    last = renew(world, family, [record])[0]
    assert last is not None
    assert told + last.packets == each * len(senders)
