"""The folder of pins on a bpffs that the test mounts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chainrelay.datapath.xdp_layout import MAPS, SEAL, SEALED_MOST
from chainrelay.errors import DatapathError
from chainrelay.privileged import xdp_pins
from chainrelay.privileged.xdp_bpf import Map

pytestmark = pytest.mark.root


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a folder" / "bpf"
    xdp_pins.ensure_bpffs(path)
    yield path
    subprocess.run(["umount", "-q", str(path)], check=False)


def test_a_bpffs_is_mounted_once(pins: Path) -> None:
    xdp_pins.ensure_bpffs(pins)
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(pins).replace(" ", "\\040") in line]
    assert len(mounts) == 1
    assert pins.stat().st_mode & 0o777 == 0o700


def test_maps_are_made_once_and_kept_while_the_size_stays(pins: Path) -> None:
    folder = xdp_pins.folder_of(pins)
    names = [layout.name for layout in MAPS]
    assert xdp_pins.ensure_maps(folder, 64, 8) == names
    with Map.open(folder / "records4") as records:
        records.update(bytes(records.key_size), bytes(records.value_size))
    assert xdp_pins.ensure_maps(folder, 64, 8) == []
    with Map.open(folder / "records4") as records:
        assert len(list(records.items())) == 1
    assert xdp_pins.ensure_maps(folder, 128, 8) == ["flows4", "flows6", "records4", "records6", "seals", "programs"]
    with Map.open(folder / "records4") as records:
        assert (records.entries, list(records.items())) == (128, [])


def test_the_programs_before_keep_each_other_until_others_are_attached(pins: Path) -> None:
    """A map of programs is emptied by the kernel when its last pin goes, and whoever is sent there drops what is sealed."""
    folder = xdp_pins.folder_of(pins)
    xdp_pins.ensure_maps(folder, 64, 8)
    xdp_pins.ensure_maps(folder, 128, 8)
    old = sorted(path.name for path in folder.glob("*_old*"))
    assert old == ["programs_old0", "seals_old0"]
    xdp_pins.wipe_old(folder)
    assert {path.name for path in folder.iterdir()} == {layout.name for layout in MAPS}


def test_no_map_is_replaced_under_a_daemon_that_works_with_it(pins: Path) -> None:
    folder = xdp_pins.folder_of(pins)
    xdp_pins.ensure_maps(folder, 64, 8)
    daemon = xdp_pins.in_use(folder)
    assert xdp_pins.ensure_maps(folder, 64, 8) == []
    with pytest.raises(DatapathError, match=r"a daemon works with these maps.*systemctl stop chainrelay-datapath"):
        xdp_pins.ensure_maps(folder, 128, 8)
    assert not list(folder.glob("*_old*"))
    os.close(daemon)
    assert "flows4" in xdp_pins.ensure_maps(folder, 128, 8)


def test_two_loaders_are_one_after_the_other(pins: Path) -> None:
    late = pytest.raises(DatapathError, match=r"another loader has been at work on .* for 0\.2 s")
    with xdp_pins.lock(pins), late, xdp_pins.lock(pins, 0.2):
        pass
    with xdp_pins.lock(pins, 0):
        pass


SEAL_SIZES = {"open_key": 32, "open_iv": 12, "seal_key": 32, "seal_iv": 12}


def seal_keys(folder: Path) -> None:
    with Map.open(folder / "seals") as seals:
        for number in (1, 2):
            seals.update(bytes([number]) * seals.key_size, b"\0\0\0\0" + b"secret" * ((seals.value_size - 4) // 6 + 1))


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the memory of every deleted value held at last."""
    values: list[bytes] = []
    delete = Map.delete

    def watched(self: Map, key: bytes) -> bool:
        values.append(self.lookup(key) or b"?")
        return delete(self, key)

    monkeypatch.setattr(Map, "delete", watched)
    return values


@pytest.mark.parametrize("what", ["resized", "another layout", "unloaded"])
def test_keys_that_are_given_up_become_zeros_first(pins: Path, freed: list[bytes], what: str) -> None:
    folder = pins / "v0" if what == "another layout" else xdp_pins.folder_of(pins)
    xdp_pins.ensure_maps(folder, 64, 8)
    seal_keys(folder)
    if what == "resized":
        xdp_pins.ensure_maps(folder, 128, 8)
        seal_keys(folder)
        xdp_pins.ensure_maps(folder, 256, 8)  # the loader before this one has not come to its end
        seal_keys(folder)
        xdp_pins.wipe_old(folder)
        assert {path.name for path in folder.iterdir()} == {layout.name for layout in MAPS}
        with Map.open(folder / "seals") as seals:
            assert len(list(seals.items())) == 2, "those of the map in force stay"
    else:
        xdp_pins.wipe_keys(folder)
    assert len(freed) == (4 if what == "resized" else 2)
    for value in map(SEAL.unpack, freed):
        assert all(value[name] == bytes(SEAL_SIZES[name]) for name in SEAL_SIZES)
        assert (value["next"], value["top"]) == (SEALED_MOST, 2**64 - 1), "whoever still holds it could use a key of zeros"


def test_whoever_replaces_a_map_says_first_that_the_programs_are_others(pins: Path) -> None:
    """A loader that is killed right afterwards must not leave programs that its successor takes for those of the new maps."""
    folder = xdp_pins.folder_of(pins)
    xdp_pins.ensure_maps(folder, 64, 8)
    for name in xdp_pins.PROGRAMS:
        with Map.open(folder / "hops") as hops:
            hops.pin(folder / name)
    xdp_pins.note_origin(folder, "a" * 32)
    assert xdp_pins.ensure_maps(folder, 64, 8) == []
    assert xdp_pins.made_of(folder) == "a" * 32
    (folder / "hops").unlink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Map, "create", lambda *_: (_ for _ in ()).throw(OSError(1, "killed", "hops")))
        with pytest.raises(DatapathError, match="killed"):
            xdp_pins.ensure_maps(folder, 64, 8)
    assert xdp_pins.made_of(folder) == ""


def test_other_versions_are_found_and_forgotten(pins: Path) -> None:
    old = pins / "v0"
    xdp_pins.ensure_maps(old, 64, 8)
    xdp_pins.ensure_maps(xdp_pins.folder_of(pins), 64, 8)
    assert xdp_pins.other_versions(pins) == [old]
    xdp_pins.forget(old)
    xdp_pins.forget(old)
    assert xdp_pins.other_versions(pins) == []
    assert xdp_pins.our_programs(pins) == {}


def test_a_folder_that_can_not_be_is_named() -> None:
    with pytest.raises(DatapathError, match="/proc/nowhere"):
        xdp_pins.ensure_bpffs(Path("/proc/nowhere"))
    with pytest.raises(DatapathError, match="writable bpffs"):
        xdp_pins.ensure_maps(Path("/proc/nowhere"), 1, 1)


def test_an_origin_counts_while_all_programs_are_there(pins: Path) -> None:
    folder = xdp_pins.folder_of(pins)
    xdp_pins.ensure_maps(folder, 64, 8)
    xdp_pins.note_origin(folder, "a" * 32)
    assert xdp_pins.made_of(folder) == "", "there is no program yet"
    for name in xdp_pins.PROGRAMS:  # any pinned object will do
        with Map.open(folder / "hops") as hops:
            hops.pin(folder / name)
    assert xdp_pins.made_of(folder) == "a" * 32
    xdp_pins.note_origin(folder, "b" * 32)
    assert xdp_pins.made_of(folder) == "b" * 32
    (folder / "native").unlink()
    assert xdp_pins.made_of(folder) == ""
    xdp_pins.note_origin(folder, "")
    xdp_pins.forget(folder)
    assert not folder.exists()
