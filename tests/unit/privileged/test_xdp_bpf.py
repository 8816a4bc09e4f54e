"""bpf(2) on maps of our own; programs are run by tests/unit/ebpf."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from chainrelay.datapath.xdp_layout import MapKind, MapLayout
from chainrelay.privileged.xdp_bpf import BATCH, EXIST, NOEXIST, Map, Program, possible_cpus

pytestmark = pytest.mark.root

HASH = MapLayout("a_hash", MapKind.HASH, 4, 8, preallocated=False)


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


def test_entries_come_and_go() -> None:
    with Map.create(HASH, 2) as made:
        assert (made.kind, made.key_size, made.value_size, made.entries) == (MapKind.HASH, 4, 8, 2)
        assert made.lookup(key(1)) is None
        assert not made.delete(key(1))
        assert made.take(key(1)) is None
        made.update(key(1), b"one.....", NOEXIST)
        with pytest.raises(FileExistsError):
            made.update(key(1), b"again...", NOEXIST)
        with pytest.raises(FileNotFoundError):
            made.update(key(2), b"none....", EXIST)
        made.update(key(2), b"two.....")
        with pytest.raises(OSError, match="a_hash") as full:
            made.update(key(3), b"three...")
        assert full.value.errno == errno.E2BIG
        assert made.take(key(1)) == b"one....."
        assert made.delete(key(2))
        assert list(made.items()) == []


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
def test_a_listing_has_every_entry_once(count: int) -> None:
    with Map.create(HASH, 2 * count) as made:
        for number in range(count):
            made.update(key(number), number.to_bytes(8, "little"))
        listed = list(made.items())
    assert sorted(listed) == sorted((key(number), number.to_bytes(8, "little")) for number in range(count))


def test_a_value_for_each_cpu() -> None:
    with Map.create(MapLayout("per_cpu", MapKind.PERCPU_ARRAY, 4, 8), 1) as made:
        assert made.lookup_percpu(key(0)) == [bytes(8)] * possible_cpus()
    assert possible_cpus() >= len(os.sched_getaffinity(0))


def test_what_is_not_pinned_is_named(tmp_path: Path) -> None:
    for kind in (Map, Program):
        with pytest.raises(FileNotFoundError, match="nothing"):
            kind.open(tmp_path / "nothing")
