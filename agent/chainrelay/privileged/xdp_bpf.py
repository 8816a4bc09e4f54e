"""bpf(2), as far as the fast path needs it: pinned maps and programs, read and written without any compiler in memory.

Raw system calls by ctypes: importing bcc would map LLVM into the daemon (131 MB against 14). Raises OSError with the
kernel's errno and the object's name; what an errno means for a session is decided by the caller (datapath/xdp.py).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from chainrelay.privileged.xdp_btf import KEY_TYPE, VALUE_TYPE, locked_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chainrelay.datapath.xdp_layout import MapLayout

SYS_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, PROG_LOAD = 0, 1, 2, 3, 5
OBJ_PIN, OBJ_GET = 6, 7
PROG_TEST_RUN, PROG_GET_FD_BY_ID, OBJ_GET_INFO, BTF_LOAD = 10, 13, 15, 18
MAP_LOOKUP_AND_DELETE, MAP_LOOKUP_BATCH = 21, 24
ANY, NOEXIST, EXIST, LOCKED = 0, 1, 2, 4
F_NO_PREALLOC: Final = 1
F_MMAPABLE: Final = 1024
BATCH: Final = 4096  # entries per system call while a map is listed
TYPE_XDP: Final = 6
CLOCK_MONOTONIC_COARSE: Final = 6  # linux/time.h
LICENSE: Final = b"Dual BSD/GPL"
VERIFIER_LOG: Final = 16 * 1024 * 1024  # octets; the end matters, and the kernel keeps that of a longer one from 6.4 on

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes, what: str) -> tuple[int, bytes]:
    """The system call: its result and the attributes as the kernel left them."""
    number = SYS_BPF.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f'bpf(2) on {platform.machine()}: number not known, set xdp = "off"', what)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(number, command, buffer, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result, buffer.raw


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


class Object:
    """A BPF object by descriptor; closed with `close` or as a context."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor, self.name = descriptor, name

    def pin(self, path: Path) -> None:
        """Keep the object alive under `path`, which must lie on a bpffs and not exist."""
        text = ctypes.create_string_buffer(os.fsencode(path))
        _bpf(OBJ_PIN, struct.pack("=QII", _address(text), self.descriptor, 0), str(path))

    def info(self, size: int) -> bytes:
        """The kernel's description (struct bpf_map_info or bpf_prog_info), `size` octets of it."""
        room = ctypes.create_string_buffer(size)
        _bpf(OBJ_GET_INFO, struct.pack("=IIQ", self.descriptor, size, _address(room)), self.name)
        return room.raw

    def close(self) -> None:
        """Let go of the descriptor; pins and attachments stay."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _types(octets: bytes, name: str) -> Object:
    content = ctypes.create_string_buffer(octets, len(octets))
    return Object(_bpf(BTF_LOAD, struct.pack("=QQIIII", _address(content), 0, len(octets), 0, 0, 0), f"types of {name}")[0], name)


def _get(path: Path) -> int:
    text = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(OBJ_GET, struct.pack("=QII", _address(text), 0, 0), str(path))[0]


class Map(Object):
    """A map whose keys and values are octets of fixed sizes."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, name)
        self.entries: int
        self.kind, _, self.key_size, self.value_size, self.entries, self.flags = struct.unpack("=6I", self.info(24))

    @staticmethod
    def create(layout: MapLayout, entries: int) -> Map:
        """A new map. Needs CAP_BPF."""
        flags = (0 if layout.preallocated else F_NO_PREALLOC) | (F_MMAPABLE if layout.mapped else 0)
        attributes = struct.pack(
            "=7I16s", layout.kind, layout.key_size, layout.value_size, entries, flags, 0, 0, layout.name.encode()
        )
        if not layout.locked:
            return Map(_bpf(MAP_CREATE, attributes, layout.name)[0], layout.name)
        with _types(locked_value(layout.key_size, layout.value_size), layout.name) as types:
            attributes += struct.pack("=IIII", 0, types.descriptor, KEY_TYPE, VALUE_TYPE)
            return Map(_bpf(MAP_CREATE, attributes, layout.name)[0], layout.name)

    @staticmethod
    def open(path: Path) -> Map:
        """The map pinned at `path`."""
        return Map(_get(path), path.name)

    def lookup(self, key: bytes) -> bytes | None:
        """The value, None when there is none. Per-CPU maps: `lookup_percpu`."""
        return self._take(MAP_LOOKUP, key, self.value_size)

    def lookup_percpu(self, key: bytes) -> list[bytes]:
        """The value of every possible CPU; values are padded to 8 octets there."""
        stride = (self.value_size + 7) // 8 * 8
        cpus = possible_cpus()
        octets = self._take(MAP_LOOKUP, key, stride * cpus) or bytes(stride * cpus)
        return [octets[at : at + self.value_size] for at in range(0, len(octets), stride)]

    def take(self, key: bytes) -> bytes | None:
        """Delete the entry and return what it held, as one step (hash maps)."""
        return self._take(MAP_LOOKUP_AND_DELETE, key, self.value_size)

    def _take(self, command: int, key: bytes, size: int) -> bytes | None:
        given, room = ctypes.create_string_buffer(key, self.key_size), ctypes.create_string_buffer(size)
        try:
            _bpf(command, struct.pack("=IIQQQ", self.descriptor, 0, _address(given), _address(room), 0), self.name)
        except FileNotFoundError:
            return None
        return room.raw

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Write an entry: ANY, NOEXIST or EXIST; with LOCKED in place, under the value's lock. A full hash map raises OSError(E2BIG)."""
        given = ctypes.create_string_buffer(key, self.key_size)
        content = ctypes.create_string_buffer(value, len(value))
        _bpf(
            MAP_UPDATE,
            struct.pack("=IIQQQ", self.descriptor, 0, _address(given), _address(content), flags),
            self.name,
        )

    def delete(self, key: bytes) -> bool:
        """Remove an entry; False when there was none."""
        given = ctypes.create_string_buffer(key, self.key_size)
        try:
            _bpf(MAP_DELETE, struct.pack("=IIQQQ", self.descriptor, 0, _address(given), 0, 0), self.name)
        except FileNotFoundError:
            return False
        return True

    def mapped(self) -> mmap.mmap:
        """All values of an array made with `mapped`, to read, one after the other."""
        return mmap.mmap(self.descriptor, self.entries * self.value_size, mmap.MAP_SHARED, mmap.PROT_READ)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries of a hash map, in batches: none twice, those that come or go meanwhile perhaps."""
        keys = ctypes.create_string_buffer(BATCH * self.key_size)
        values = ctypes.create_string_buffer(BATCH * self.value_size)
        token = ctypes.create_string_buffer(max(4, self.key_size))
        begun, ended = False, False
        while not ended:
            attributes = struct.pack(
                "=QQQQIIQQ",
                _address(token) if begun else 0,
                _address(token),
                _address(keys),
                _address(values),
                BATCH,
                self.descriptor,
                0,
                0,
            )
            count, ended = self._batch(attributes)
            begun = True
            yield from zip(_cut(keys, count, self.key_size), _cut(values, count, self.value_size), strict=True)

    def _batch(self, attributes: bytes) -> tuple[int, bool]:
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        result = _libc.syscall(SYS_BPF[platform.machine()], MAP_LOOKUP_BATCH, buffer, len(attributes))
        number = ctypes.get_errno() if result < 0 else 0
        if number not in {0, errno.ENOENT}:
            raise OSError(number, os.strerror(number), self.name)
        return struct.unpack_from("=I", buffer.raw, 32)[0], number == errno.ENOENT


def _cut(buffer: ctypes.Array[ctypes.c_char], count: int, size: int) -> list[bytes]:
    octets = buffer.raw[: count * size]
    return [octets[at : at + size] for at in range(0, len(octets), size)]


class Refused(OSError):
    """The kernel's verifier does not want the program. `words`: what it said."""

    words = ""


class Program(Object):
    """A loaded program."""

    @staticmethod
    def load(instructions: bytes, name: str) -> Program:
        """Give an XDP program to the kernel. Needs CAP_BPF, and CAP_PERFMON for variable packet offsets. Raises Refused."""
        code = ctypes.create_string_buffer(instructions, len(instructions))
        license_ = ctypes.create_string_buffer(LICENSE)

        def attempt(log: ctypes.Array[ctypes.c_char] | None) -> int:
            attributes = struct.pack(
                "=IIQQIIQII16s",
                TYPE_XDP, len(instructions) // 8, _address(code), _address(license_),
                1 if log else 0, len(log) if log else 0, _address(log), 0, 0, name.encode()[:15],
            )  # fmt: skip
            return _bpf(PROG_LOAD, attributes, name)[0]

        try:
            return Program(attempt(None), name)
        except OSError as first:
            log = ctypes.create_string_buffer(VERIFIER_LOG)  # asked for only now: writing it takes longer than verifying
            try:
                return Program(attempt(log), name)
            except OSError:
                refused = Refused(*first.args, name)
                refused.words = log.value.decode("ascii", "replace")
                raise refused from first

    @staticmethod
    def open(path: Path) -> Program:
        """The program pinned at `path`."""
        return Program(_get(path), path.name)

    @staticmethod
    def by_id(number: int) -> Program:
        """The program with the kernel's id `number`. Needs CAP_SYS_ADMIN."""
        return Program(_bpf(PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0), f"program {number}")[0], str(number))

    @property
    def id(self) -> int:
        """The kernel's number of it: what a link reports as attached."""
        return int(struct.unpack_from("=I", self.info(8), 4)[0])

    @property
    def kernel_name(self) -> str:
        """The name that the loader gave it, 15 characters at most."""
        return self.info(80)[64:80].rstrip(b"\0").decode("ascii", "replace")

    def run(self, data: bytes, repeat: int = 1, context: bytes = b"") -> tuple[int, bytes, int]:
        """Run on one packet (BPF_PROG_TEST_RUN): the returned action, the packet afterwards, nanoseconds per run."""
        given = ctypes.create_string_buffer(data, len(data))
        room = ctypes.create_string_buffer(len(data) + 512)
        about = ctypes.create_string_buffer(context, len(context)) if context else None
        attributes = struct.pack(
            "=IIIIQQIIIIQQIIII",
            self.descriptor, 0, len(data), len(room), _address(given), _address(room),
            repeat, 0, len(context), 0, _address(about), 0, 0, 0, 0, 0,
        )  # fmt: skip
        after = struct.unpack("=IIIIQQIIIIQQIIII", _bpf(PROG_TEST_RUN, attributes, self.name)[1])
        return after[1], room.raw[: after[3]], after[7]


def tick_ns() -> int:
    """How long a jiffy of this kernel is: the coarse clock's resolution."""
    return round(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e9)


def possible_cpus() -> int:
    """How many values a per-CPU entry has."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return 1 + max(int(part.rpartition("-")[2]) for part in text.split(","))


@contextmanager
def opened(*objects: Object) -> Iterator[None]:
    """Close all of them at the end."""
    try:
        yield
    finally:
        for each in objects:
            each.close()
