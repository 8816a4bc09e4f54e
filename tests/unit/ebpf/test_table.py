"""find.h and control.c: the tables of flows as seen from outside: what was put in is found, whatever came and went around it."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
import time
from contextlib import closing
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from chainrelay.datapath.mapping import Flow
from chainrelay.datapath.xdp_entries import Way, held_of, key_of, value_of
from chainrelay.datapath.xdp_layout import FLOW4, FLOW6, LAYOUT_VERSION, REACH, RECORD, Verdict, entries_of, homes_of
from chainrelay.datapath.xdp_layout import MAPS as LAYOUTS
from chainrelay.errors import DatapathError
from chainrelay.privileged.xdp_bpf import Map, Program
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from unit.ebpf import frames
from unit.ebpf.world import GOOD, LOOPBACK, NEVER, OWN, SESSION, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
QUARANTINE = 0.12  # seconds: control.c's, and a tick
SMALL = 16
HOMES = {4: [13356, 30652, 74725, 53675, 8911], 6: [14087, 3989, 119610, 119623, 110527]}  # of 131,072


def flow_of(family: int, number: int) -> Flow:
    near, far = ("10.9.0.1", "10.9.0.2") if family == 4 else ("fd09::1", "fd09::2")
    host, port = divmod(number, 60_000)
    client, ours = Endpoint(ip_address(near) + 256 * host, 1024 + port), Endpoint(ip_address(far), 7)
    return Flow(Protocol.UDP, client, ours, ours.next(2), client.next(1))


def entry_of(flow: Flow) -> tuple[bytes, bytes]:
    arrives = Way(flow.source.address, LOOPBACK, own=OWN)
    return key_of(flow.source, flow.destination), value_of(flow, SESSION, arrives, GOOD, NEVER)


def forwarded(world: World, flow: Flow) -> bool:
    verdict = world.run(frames.octets(frames.datagram(flow)))[0]
    assert verdict in {Verdict.FORWARDED, Verdict.NO_SESSION}
    return verdict is Verdict.FORWARDED


@pytest.fixture
def small(tmp_path: Path) -> Iterator[World]:
    """A table so small that homes are shared from the first flows on. The world's own flows are not in it."""
    pins = tmp_path / "bpf"
    command = [sys.executable, "-m", "chainrelay.privileged.xdp_load", "--pins", str(pins), "--log", str(tmp_path / "log")]
    subprocess.run([*command, "--flows", str(SMALL)], check=True, stdout=subprocess.DEVNULL)
    with closing(World(pins / f"v{LAYOUT_VERSION}", cases=False)) as made:
        yield made
    subprocess.run(["umount", "-q", str(pins)], check=False)


def reaches(world: World, family: int) -> list[int]:
    flow = FLOW4 if family == 4 else FLOW6
    with Map.open(world.folder / f"flows{family}") as table, table.mapped() as octets:
        return [octets[at * flow.size + flow.offsets["state.reach"]] for at in range(table.entries)]


@FAMILIES
def test_a_full_table_finds_all_and_refuses_one_more(small: World, family: int) -> None:
    flows = [flow_of(family, number) for number in range(SMALL)]
    for flow in flows:
        assert small.flows[family].insert(*entry_of(flow))
    assert any(reaches(small, family)), "no two flows share a home: this test shows nothing"
    assert all(forwarded(small, flow) for flow in flows)
    with pytest.raises(DatapathError, match=f"full .records{family}: {SMALL} entries") as refused:
        small.flows[family].insert(*entry_of(flow_of(family, SMALL)))
    assert refused.value.full
    assert not forwarded(small, flow_of(family, SMALL))
    assert {key for key, _ in small.flows[family].items()} == {entry_of(flow)[0] for flow in flows}


@FAMILIES
def test_who_leaves_takes_nobody_along_and_leaves_no_reach(small: World, family: int) -> None:
    flows = [flow_of(family, number) for number in range(SMALL)]
    for flow in flows:
        small.flows[family].insert(*entry_of(flow))
    random.Random(family).shuffle(flows)
    for number, flow in enumerate(flows, 1):
        taken = small.flows[family].take(entry_of(flow)[0])
        assert taken is not None
        assert held_of(taken).source == flow.source
        assert [forwarded(small, each) for each in flows] == [False] * number + [True] * (SMALL - number)
    assert not any(reaches(small, family)), "a foreign datagram would look further than it must"


@FAMILIES
def test_a_place_stays_empty_for_a_while(world: World, family: int) -> None:
    """A program that has found the old flow may still be at work on it."""
    key, value = entry_of(flow_of(family, 1))
    flow = FLOW4 if family == 4 else FLOW6
    at = slice(flow.size + RECORD.offsets["place"], flow.size + RECORD.offsets["place"] + 4)

    def place() -> bytes:
        assert world.flows[family].insert(key, value)
        entry = world.flows[family].lookup(key)
        world.flows[family].take(key)
        assert entry is not None
        return entry[at]

    first = place()
    assert place() != first
    time.sleep(QUARANTINE)
    assert place() == first


@FAMILIES
def test_after_many_came_and_went_the_table_holds_who_stayed(world: World, family: int) -> None:
    dice = random.Random(7 * family)
    there: dict[int, Flow] = {}
    for _ in range(3_000):
        number = dice.randrange(1_500)
        flow = flow_of(family, number)
        if number in there:
            assert world.flows[family].take(entry_of(flow)[0]) is not None
            del there[number]
        else:
            assert world.flows[family].insert(*entry_of(flow))
            there[number] = flow
    found = {held_of(entry).source for _, entry in world.flows[family].items()}
    assert {flow.source for flow in there.values()} <= found
    for number in dice.sample(range(1_500), 300):
        assert forwarded(world, flow_of(family, number)) == (number in there)
    for flow in there.values():
        world.flows[family].take(entry_of(flow)[0])


@FAMILIES
def test_what_a_process_that_died_has_left_is_taken_over(world: World, family: int) -> None:
    """Its record says that the tuple is taken, but there is no flow."""
    flow = flow_of(family, 5)
    key, value = entry_of(flow)
    with Map.open(world.folder / f"records{family}") as records:
        records.update(key, bytes(RECORD.size))
        assert world.flows[family].lookup(key) is None
        assert key not in {each for each, _ in world.flows[family].items()}
        assert world.flows[family].insert(key, value)
        assert forwarded(world, flow)
        assert world.flows[family].take(key) is not None
        assert records.lookup(key) is None
        records.update(key, bytes(RECORD.size))
        assert world.flows[family].take(key) is None
        assert records.lookup(key) is None


@FAMILIES
def test_what_a_process_that_died_has_left_is_swept(world: World, family: int) -> None:
    flow, other = entry_of(flow_of(family, 5)), entry_of(flow_of(family, 6))
    assert world.flows[family].insert(*other)
    with Map.open(world.folder / f"records{family}") as records:
        before = len(list(records.items()))
        records.update(flow[0], bytes(RECORD.size))
        world.flows[family].sweep()
        assert (records.lookup(flow[0]), len(list(records.items()))) == (None, before)
    assert world.flows[family].lookup(other[0]) is not None
    world.flows[family].take(other[0])


@FAMILIES
def test_a_refused_run_leaves_no_record(world: World, family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may refuse the second step as well: no memory, a signal."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory", "place")

    key, value = entry_of(flow_of(family, 5))
    with monkeypatch.context() as patched:
        patched.setattr(Program, "run", refuse)
        with pytest.raises(OSError, match="no memory"):
            world.flows[family].insert(key, value)
        with pytest.raises(OSError, match="no memory"):
            world.flows[family].insert_all([(key, value), entry_of(flow_of(family, 6))])
    with Map.open(world.folder / f"records{family}") as records:
        assert records.lookup(key) is None
        assert records.lookup(entry_of(flow_of(family, 6))[0]) is None


@FAMILIES
def test_a_tuple_of_zeros_is_no_empty_place(world: World, family: int) -> None:
    nobody = Endpoint(ip_address("0.0.0.0" if family == 4 else "::"), 0)
    datagram = frames.octets(frames.datagram(Flow(Protocol.UDP, nobody, nobody, nobody, nobody)))
    assert world.run(datagram)[0] is Verdict.NO_SESSION


@FAMILIES
def test_all_at_once_is_one_by_one(world: World, family: int) -> None:
    flows = [flow_of(family, number) for number in range(200)]
    assert world.flows[family].insert_all(entry_of(flow) for flow in [*flows, flows[0]]) == len(flows)
    assert all(forwarded(world, flow) for flow in flows[::20])
    for flow in flows:
        world.flows[family].take(entry_of(flow)[0])


@FAMILIES
def test_a_table_of_the_default_size_takes_what_it_is_made_for(world: World, family: int) -> None:
    """To the last flow: places around a home are enough, however full it is elsewhere."""
    room = world.flows[family].room - len(list(world.flows[family].items()))
    flows = [entry_of(flow_of(family, number)) for number in range(room)]
    assert (world.flows[family].insert_all(flows), len(flows)) == (room, room)
    for key, _ in flows:
        world.flows[family].take(key)


@FAMILIES
def test_homes_are_where_they_were(world: World, family: int) -> None:
    """What is pinned was placed by these numbers. Others need another LAYOUT_VERSION."""
    assert LAYOUT_VERSION == 4
    time.sleep(QUARANTINE)  # others' flows have left these places
    places = RECORD.offsets["place"]
    found = []
    for number in range(0, 5000, 1000):
        key, value = entry_of(flow_of(family, number))
        world.flows[family].insert(key, value)
        entry = world.flows[family].lookup(key) or b""
        world.flows[family].take(key)
        found.append(int.from_bytes(entry[len(value) - RECORD.size + places :][:4], sys.byteorder) - 1)
    assert found == HOMES[family]


def test_a_table_has_two_homes_a_flow_and_room_behind_the_last() -> None:
    table = next(layout for layout in LAYOUTS if layout.name == "flows4")
    assert entries_of(table, 100, 8) == homes_of(100) + REACH == 263
