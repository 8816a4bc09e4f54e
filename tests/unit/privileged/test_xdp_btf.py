"""BTF by hand: the kernel takes it, finds the lock, and the programs of tests/unit/ebpf use it."""

from __future__ import annotations

import struct

import pytest

from chainrelay.datapath.xdp_layout import MapKind, MapLayout
from chainrelay.privileged.xdp_bpf import Map
from chainrelay.privileged.xdp_btf import KEY_TYPE, MAGIC, VALUE_TYPE, locked_value

LOCKED = MapLayout("locked", MapKind.HASH, 20, 296, preallocated=False, locked=True)


def test_lengths_agree() -> None:
    octets = locked_value(20, 296)
    magic, version, _, header, types_at, types, names_at, names = struct.unpack_from("=HBBIIIII", octets)
    assert (magic, version, header, types_at, names_at) == (MAGIC, 1, 24, 0, types)
    assert len(octets) == header + types + names
    assert octets.endswith(b"\0lock\0")


@pytest.mark.root
def test_the_kernel_knows_the_types_of_such_a_map() -> None:
    with Map.create(LOCKED, 4) as made:
        btf, key, value = struct.unpack_from("=III", made.info(80), 64)
        assert btf > 0
        assert (key, value) == (KEY_TYPE, VALUE_TYPE)
        made.update(bytes(20), b"\x11" * 296)
        assert made.lookup(bytes(20)) == bytes(4) + b"\x11" * 292, "the lock itself is never copied"


@pytest.mark.root
def test_without_room_for_a_lock_it_is_refused() -> None:
    with pytest.raises(OSError, match="types of small"):
        Map.create(MapLayout("small", MapKind.HASH, 4, 2, locked=True), 4)
