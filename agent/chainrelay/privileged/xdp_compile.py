"""ebpf/*.c to loaded programs, through bcc. Only ever imported by the short-lived xdp_load process: bcc keeps LLVM mapped.

bcc compiles; the maps and the loading are ours. It makes small maps of its own, which are thrown away: in its instructions each
of their descriptors is replaced by that of the pinned map of the same name. bcc's own way to pinned maps goes by their ids, which
takes CAP_SYS_ADMIN; so CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are enough. Kernel headers are not needed: ebpf/shim stands in
for them, the UAPI headers come from linux-libc-dev. What clang and the verifier have to say goes to a log that the error names.
"""

from __future__ import annotations

import os
import platform
import struct
import sys
import sysconfig
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from chainrelay.datapath.xdp_layout import MAPS, REACH, Slot
from chainrelay.errors import DatapathError
from chainrelay.privileged.xdp_bpf import Map, Program, Refused, opened, tick_ns
from chainrelay.privileged.xdp_cache import CodeCache
from chainrelay.privileged.xdp_pins import CONTROL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FUNCTIONS: Final = {
    "relay.c": {"native": "chainrelay_native", "generic": "chainrelay_generic"},
    "control.c": {name: f"chainrelay_{name}" for name in CONTROL},
}
SEALING: Final = {
    file: {slot.name.lower(): f"chainrelay_{slot.name.lower()}" for slot in slots}
    for file, slots in {
        "seal.c": (Slot.OPEN4, Slot.OPEN6, Slot.SEAL4, Slot.SEAL6),
        "seal_icmp.c": (Slot.ERROR4, Slot.ERROR6, Slot.ANSWER4, Slot.ANSWER6),
    }.items()
}
"""The programs that relay.c calls for sealed sessions, named as their places in the map `programs`."""
MACHINES: Final = ("x86_64",)  # find.h's tables rely on its order of stores, and the layouts on its byte order
NO_CACHE: Final = CodeCache(None, "")
LOAD_IMMEDIATE, MAP_DESCRIPTOR = 0x18, 1  # BPF_LD | BPF_DW | BPF_IMM, BPF_PSEUDO_MAP_FD (linux/bpf.h)


def load_programs(
    files: Mapping[str, Mapping[str, str]], source: Path, folder: Path, suffix: str, log: Path, cache: CodeCache = NO_CACHE
) -> None:
    """Compile, load and pin the programs of FUNCTIONS or SEALING as `folder/<name><suffix>`. Raises DatapathError; of these nothing stays
    pinned then."""
    pinned: list[Path] = []
    maps = {layout.name: Map.open(folder / layout.name) for layout in MAPS}
    with opened(*maps.values()):
        try:
            for file, functions in files.items():
                kept = cache.find(file)
                found = kept or compile_symbolic(source, file, functions, tuple(maps), _homes(maps), log)
                for name, code in in_place(found, maps).items():
                    target = folder / f"{name}{suffix}"
                    target.unlink(missing_ok=True)
                    with _load(file, name, code, log) as program:
                        program.pin(target)
                    pinned.append(target)
                if kept is None:
                    cache.keep(file, found)
        except BaseException:
            for path in pinned:
                path.unlink()
            raise


def compile_file(source: Path, file: str, functions: Mapping[str, str], maps: Mapping[str, Map], log: Path) -> dict[str, bytes]:
    """Instructions by name, with the given maps in them. Raises DatapathError."""
    return in_place(compile_symbolic(source, file, functions, tuple(maps), _homes(maps), log), maps)


def in_place(code: Mapping[str, bytes], maps: Mapping[str, Map]) -> dict[str, bytes]:
    """`compile_symbolic`'s instructions with the maps' descriptors in them. Raises DatapathError."""
    places = {-place: each.descriptor for place, each in enumerate(maps.values(), 1)}
    return {name: with_maps(each, places) for name, each in code.items()}


def _homes(maps: Mapping[str, Map]) -> int:
    """The compile-time constant HOMES of ebpf/find.h."""
    return maps["flows4"].entries - REACH


def compile_symbolic(
    source: Path, file: str, functions: Mapping[str, str], maps: tuple[str, ...], homes: int, log: Path
) -> dict[str, bytes]:
    """Instructions by name; in them -1 stands for the first of `maps`, -2 for the second … Raises DatapathError."""
    os.environ["BCC_KERNEL_SOURCE"] = str(source / "shim")
    places = {name: -place for place, name in enumerate(maps, 1)}
    if platform.machine() not in MACHINES:
        raise DatapathError(f"the fast path is made for {', '.join(MACHINES)}; on {platform.machine()} the rules carry all datagrams")
    try:
        from bcc import BPF
        from bcc.libbcc import lib
    except ImportError as error:
        raise DatapathError(f"bcc can't be imported ({error}); install python3-bpfcc, or set xdp = \"off\"") from error
    if not (source / file).is_file():
        raise DatapathError(f"{source / file} is missing; the fast path's source belongs to the installation")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    flags = [f"-I{source}", "-idirafter", "/usr/include", "-idirafter", f"/usr/include/{multiarch}"]
    flags += [f"-DHOMES={homes}U", f"-DTICK_NS={tick_ns()}U"]
    with _output_to(log):
        try:
            module: Any = BPF(src_file=str(source / file), cflags=flags)
            code = {name: module.dump_func(function) for name, function in functions.items()}
        except Exception as error:  # bcc raises bare Exception
            raise DatapathError(f"{file} does not compile: {error}; clang's words are in {log}") from error
    theirs = {lib.bpf_table_fd(module.module, name.encode()): place for name, place in places.items()}
    theirs.pop(-1, None)  # what the file does not use
    module.cleanup()
    return {name: with_maps(each, theirs) for name, each in code.items()}


def with_maps(code: bytes, descriptors: Mapping[int, int]) -> bytes:
    """The instructions with one map's number in another's place. Raises DatapathError for one that is not ours to give."""
    made = bytearray(code)
    at = 0
    while at < len(made):
        operation, registers, _, immediate = struct.unpack_from("=BBhi", made, at)
        if operation == LOAD_IMMEDIATE and registers >> 4 == MAP_DESCRIPTOR:
            if immediate not in descriptors:
                raise DatapathError("a program uses a map that datapath/xdp_layout.py does not know")
            struct.pack_into("=i", made, at + 4, descriptors[immediate])
        at += 16 if operation == LOAD_IMMEDIATE else 8
    return bytes(made)


def _load(file: str, name: str, code: bytes, log: Path) -> Program:
    try:
        return Program.load(code, name)
    except Refused as refused:
        with _log(log) as descriptor:
            os.write(descriptor, f"{file}, {name}:\n{refused.words}\n".encode())
        raise DatapathError(f"the kernel's verifier refuses {file}: {name}: {refused.strerror}; its log is in {log}") from refused


@contextmanager
def _log(log: Path) -> Iterator[int]:
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DatapathError(f"{log}: {error.strerror}; the compiler's log needs a place") from error
    try:
        yield target
    finally:
        os.close(target)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """clang writes to descriptors 1 and 2, whatever Python's sys.stderr is."""
    with _log(log) as target:
        sys.stdout.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(target, 1)
        os.dup2(target, 2)
        try:
            yield
        finally:
            for descriptor, before in enumerate(kept, 1):
                os.dup2(before, descriptor)
                os.close(before)
