"""The folder of pins: a bpffs of our own, one subfolder per layout version, maps and programs in it.

What is pinned there lives without any process of ours, and what is pinned there is what counts as ours: an interface
whose program's id is not among these programs belongs to somebody else. No compiler and no netlink here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

from chainrelay.datapath.xdp_layout import LAYOUT_VERSION, MAPS, SEAL, SEALED_MOST, MapKind, MapLayout, Slot, entries_of
from chainrelay.errors import DatapathError
from chainrelay.privileged.xdp_bpf import EXIST, LOCKED, Map, Program

DEFAULT_PINS: Final = Path("/run/chainrelay/bpf")  # /sys/fs/bpf is root's, and hidden by `ip netns exec`
SEALING: Final = tuple(slot.name.lower() for slot in Slot)
CONTROL: Final = ("place4", "place6", "renew4", "renew6", "remove4", "remove6", "end_keys")
PROGRAMS: Final = ("native", "generic", *CONTROL, *SEALING)
NEW: Final = "_new"  # (a bpffs refuses dots) a program that is about to take its predecessor's place
OLD: Final = "_old"  # a map that another one has replaced, with a number behind: its keys and programs are in use until `wipe_old`
LEFT: Final = "_left"  # a program that a loader has attached and not published before it died, with a number behind
LOCK_WAIT: Final = 30.0  # seconds; a loader that compiles is done within a few
ENDED: Final = SEAL.pack({"next": SEALED_MOST, "top": 2**64 - 1, "ends_ns": 1})
ORIGIN: Final = "made_of_"  # an empty folder whose name goes on with the fingerprint of what the programs were made of


def folder_of(pins: Path) -> Path:
    """Where this version's maps and programs are pinned."""
    return pins / f"v{LAYOUT_VERSION}"


def ensure_bpffs(pins: Path) -> None:
    """Make `pins` a bpffs unless it lies on one. Raises DatapathError that says what is missing."""
    try:
        pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatapathError(f"{pins}: {error.strerror}; create it, or name another folder for the pins") from error
    if _is_bpffs(pins):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(pins), b"bpf", 0, b"mode=0700") != 0:
        reason = os.strerror(ctypes.get_errno())
        raise DatapathError(f"{pins} is not a bpffs and can't be made one ({reason}); do `mount -t bpf bpf {pins}` as root")


def _is_bpffs(path: Path) -> bool:
    """By the mount table: the longest mount point that holds the path, the last one mounted there."""
    target, best, kind = path.resolve(), -1, ""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].replace("\\040", " "))
        if target.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split()[0]
    return kind == "bpf"


@contextmanager
def lock(pins: Path, seconds: float = LOCK_WAIT) -> Iterator[None]:
    """Two loaders at once would unpin each other's work. Raises DatapathError when another one takes longer than that."""
    descriptor = _open(pins)
    try:
        deadline = time.monotonic() + seconds
        while not _locked(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise DatapathError(f"another loader has been at work on {pins} for {seconds:g} s; wait for it, or end it")
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def in_use(folder: Path) -> int:
    """Say that a daemon works with the maps of this version, for as long as the descriptor is open. Raises OSError."""
    descriptor = _open(folder)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _assert_unused(folder: Path) -> None:
    descriptor = _open(folder)
    try:
        if not _locked(descriptor, fcntl.LOCK_EX):
            advice = "stop it first (systemctl stop chainrelay-datapath), or keep their sizes; it loads by itself when it starts"
            raise DatapathError(f"{folder}: a daemon works with these maps, and would not know of others in their place; {advice}")
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def ensure_maps(folder: Path, flows: int, hops: int) -> list[str]:
    """Create and pin the maps that are missing; returns the names of those made new.

    A map of another size than asked for is replaced by an empty one: until the new program is attached the old one keeps the
    old map, afterwards sessions go on through the rules and return here at their next renewal; sealed ones stand still until the
    client has sent a new key.
    """
    made = []
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        sizes = {layout: entries_of(layout, flows, hops) for layout in MAPS}
        wanted = [layout for layout, entries in sizes.items() if not _fits(folder / layout.name, layout, entries)]
        if wanted:
            _assert_unused(folder)
            # the programs that are there go on with their maps and with each other until the new ones are attached
            wanted += [layout for layout in MAPS if layout.kind is MapKind.PROG_ARRAY and layout not in wanted]
        for layout in wanted:
            note_origin(folder, "")  # whatever happens from here on: the programs that are there know other maps
            _put_aside(folder / layout.name, layout)
            with Map.create(layout, sizes[layout]) as created:
                created.pin(folder / layout.name)
            made.append(layout.name)
    except OSError as error:
        raise DatapathError(f"{folder}: {error.filename}: {error.strerror}; the maps need CAP_BPF and a writable bpffs") from error
    return made


def _put_aside(path: Path, layout: MapLayout) -> None:
    if (layout.locked or layout.kind is MapKind.PROG_ARRAY) and path.exists():  # the kernel empties one of programs with its last pin
        path.rename(_free(path.with_name(f"{path.name}{OLD}")))
    else:
        path.unlink(missing_ok=True)


def _fits(path: Path, layout: MapLayout, entries: int) -> bool:
    if not path.exists():
        return False
    with Map.open(path) as found:
        is_now = (found.kind, found.key_size, found.value_size, found.entries)
    return is_now == (layout.kind, layout.key_size, layout.value_size, entries)


def fill_slots(folder: Path) -> None:
    """Sealed flows go to the sealing programs pinned as `_new`; without them their places are emptied, and sealed datagrams dropped."""
    with Map.open(folder / "programs") as slots:
        for slot in Slot:
            path, key = folder / f"{slot.name.lower()}{NEW}", slot.to_bytes(4, sys.byteorder)
            if path.exists():
                with Program.open(path) as program:
                    slots.update(key, program.descriptor.to_bytes(4, sys.byteorder))
            else:
                slots.delete(key)


def set_exit(folder: Path, interface: int, *, takes: bool) -> None:
    """Whether the programs may send out of an interface (its index): one that has the program, too. The kernel removes what goes."""
    key = interface.to_bytes(4, sys.byteorder)
    with Map.open(folder / "exits") as exits:
        if takes:
            exits.update(key, key)
        else:
            exits.delete(key)


def wipe_keys(folder: Path) -> None:
    """Zeros in the place of every key of a version's `seals`, which is about to be removed."""
    for path in [folder / "seals", *folder.glob(f"seals{OLD}*")]:
        if path.exists():
            _wipe(path)


def wipe_old(folder: Path) -> None:
    """The same of maps that `ensure_maps` has replaced; their pins go."""
    for path in sorted(folder.glob(f"*{OLD}*")):
        if path.name.startswith("seals"):
            _wipe(path)
        path.unlink()


def _wipe(path: Path) -> None:
    """Under the value's lock bpf(2) writes in place; a value that it replaces or deletes stays readable in freed memory. A program
    that holds the entry seals nothing with it and opens nothing: its counters are at their ends."""
    with Map.open(path) as seals:
        for key, _ in list(seals.items()):
            with suppress(FileNotFoundError):
                seals.update(key, ENDED if seals.value_size == len(ENDED) else bytes(seals.value_size), EXIST | LOCKED)
            seals.delete(key)


def our_programs(pins: Path) -> dict[int, Path]:
    """Id -> pin of every program of ours, of this and of other layout versions. One that a loader renames meanwhile may be missing."""
    found = {}
    for path in sorted(pins.glob("v*/*")):
        if path.name.partition(LEFT)[0].removesuffix(NEW) in PROGRAMS:
            with suppress(FileNotFoundError), Program.open(path) as program:
                found[program.id] = path
    return found


def put_left_aside(folder: Path) -> None:
    """What an earlier loader pinned as `_new` may be attached: its only pin must not go before it is replaced."""
    for name in PROGRAMS:
        with suppress(FileNotFoundError):
            (folder / f"{name}{NEW}").rename(_free(folder / f"{name}{LEFT}"))


def drop_left(folder: Path) -> None:
    """No interface has them any more."""
    for path in folder.glob(f"*{LEFT}*"):
        path.unlink()


def _free(path: Path) -> Path:
    return next(free for number in count() if not (free := path.with_name(f"{path.name}{number}")).exists())


def publish(folder: Path) -> None:
    """The programs pinned as `_new` become the ones in force."""
    for name in PROGRAMS:
        with suppress(FileNotFoundError):
            (folder / f"{name}{NEW}").rename(folder / name)


def made_of(folder: Path) -> str:
    """The fingerprint that `note_origin` has noted; empty when there is none or a program is missing."""
    complete = all((folder / name).exists() for name in PROGRAMS)
    return next((path.name.removeprefix(ORIGIN) for path in folder.glob(f"{ORIGIN}*")), "") if complete else ""


def note_origin(folder: Path, fingerprint: str) -> None:
    """What the programs in force were made of; empty: nobody shall take them for complete. It lies beside them and goes when they go."""
    for path in folder.glob(f"{ORIGIN}*"):
        path.rmdir()
    if fingerprint:
        (folder / f"{ORIGIN}{fingerprint}").mkdir(mode=0o700)


def forget(folder: Path) -> None:
    """Remove all pins of a version; the kernel frees what nothing else holds. Missing is no error."""
    if folder.is_dir():
        note_origin(folder, "")
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def unmount(pins: Path) -> None:
    """Undo `ensure_bpffs` where we have the right to and no version's pins are left. What is not a mount of its own stays."""
    if pins.is_mount() and not any(pins.glob("v*")) and ctypes.CDLL(None).umount2(os.fsencode(pins), 0) == 0:
        pins.rmdir()


def other_versions(pins: Path) -> list[Path]:
    """Folders of other layout versions."""
    return [path for path in sorted(pins.glob("v*")) if path.is_dir() and path != folder_of(pins)]
