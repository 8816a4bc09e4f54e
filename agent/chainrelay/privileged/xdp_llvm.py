"""bcc's intermediate code to instructions with 32-bit arithmetic (BPF v3), by the LLVM library that bcc has in memory anyway.

bcc generates code for BPF v1 and can't be told otherwise: `-mcpu` is unused there. v1 has only 64-bit arithmetic, which costs the cipher
every fourth instruction. So the intermediate code that bcc prints on request goes through LLVM's C interface once more. Whoever
calls takes bcc's own instructions where that fails: they do the same, slower. Only ever imported by xdp_compile.py.
"""

from __future__ import annotations

import ctypes
import re
import struct
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

TRIPLE: Final = b"bpf-pc-linux"
CPU: Final = b"v3"  # Linux 5.1; of later ones the verifier of Debian 12's kernel knows none
OPTIMIZE, DEFAULT, OBJECT_FILE, ERROR = 2, 0, 1, 0  # llvm-c: CodeGenLevelDefault, RelocDefault and CodeModelDefault, ObjectFile, DSError
SECTION: Final = ".bpf.fn."  # where bcc puts a function


class NoLlvm(Exception):
    """It can't be done here; the text says why."""


def instructions(printed: bytes, functions: Mapping[str, str]) -> tuple[dict[str, bytes], list[str]]:
    """What bcc printed -> instructions by name, and the maps' names: in the instructions -1 stands for the first, -2 for the second …

    Raises NoLlvm.
    """
    modules = re.split(rb"^; ModuleID = ", printed, flags=re.MULTILINE)
    main = next((text for text in modules if text.startswith(b"'/virtual/main.c'")), None)
    if main is None:
        raise NoLlvm("bcc printed no intermediate code")
    tables = [name.decode() for name in re.findall(rb'^@(\w+) = .*section "maps/', main, flags=re.MULTILINE)]
    code = _sections(_Library().compile(b"; " + main))
    missing = [function for function in functions.values() if SECTION + function not in code]
    if missing:
        raise NoLlvm(f"LLVM made no code for {', '.join(missing)}")
    return {name: code[SECTION + function] for name, function in functions.items()}, tables


class _Library:
    """The shared library that bcc is linked with."""

    def __init__(self) -> None:
        path = next((line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libLLVM" in line), None)
        if path is None:
            raise NoLlvm("bcc has LLVM built in")
        self._llvm = ctypes.CDLL(path)
        pointer = c_void_p
        for name, result, arguments in (
            ("LLVMInitializeBPFTargetInfo", None, ()),
            ("LLVMInitializeBPFTarget", None, ()),
            ("LLVMInitializeBPFTargetMC", None, ()),
            ("LLVMInitializeBPFAsmPrinter", None, ()),
            ("LLVMContextCreate", pointer, ()),
            ("LLVMContextDispose", None, (pointer,)),
            ("LLVMContextSetDiagnosticHandler", None, (pointer, pointer, pointer)),
            ("LLVMGetDiagInfoSeverity", c_int, (pointer,)),
            ("LLVMCreateMemoryBufferWithMemoryRangeCopy", pointer, (c_char_p, c_size_t, c_char_p)),
            ("LLVMParseIRInContext", c_int, (pointer, pointer, POINTER(pointer), POINTER(c_char_p))),
            ("LLVMGetTargetFromTriple", c_int, (c_char_p, POINTER(pointer), POINTER(c_char_p))),
            ("LLVMCreateTargetMachine", pointer, (pointer, c_char_p, c_char_p, c_char_p, c_int, c_int, c_int)),
            ("LLVMTargetMachineEmitToMemoryBuffer", c_int, (pointer, pointer, c_int, POINTER(c_char_p), POINTER(pointer))),
            ("LLVMGetBufferStart", pointer, (pointer,)),
            ("LLVMGetBufferSize", c_size_t, (pointer,)),
        ):
            try:
                function = getattr(self._llvm, name)
            except AttributeError as error:
                raise NoLlvm(f"{path} has no {name}") from error
            function.restype, function.argtypes = result, arguments

    def compile(self, text: bytes) -> bytes:
        """An object file. What is made on the way ends with the process."""
        llvm: Any = self._llvm
        for part in ("TargetInfo", "Target", "TargetMC", "AsmPrinter"):
            getattr(llvm, f"LLVMInitializeBPF{part}")()
        context = c_void_p(llvm.LLVMContextCreate())
        errors: list[int] = []

        def heard(diagnostic: int, _: int) -> None:
            """Else LLVM would end the process."""
            if llvm.LLVMGetDiagInfoSeverity(diagnostic) == ERROR:
                errors.append(diagnostic)

        handler = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)(heard)
        llvm.LLVMContextSetDiagnosticHandler(context, ctypes.cast(handler, c_void_p), None)
        source = c_void_p(llvm.LLVMCreateMemoryBufferWithMemoryRangeCopy(text, len(text), b"bcc"))
        module, target, output, why = c_void_p(), c_void_p(), c_void_p(), c_char_p()
        if llvm.LLVMParseIRInContext(context, source, byref(module), byref(why)):
            raise NoLlvm(f"LLVM does not read what bcc printed: {_text(why)}")
        if llvm.LLVMGetTargetFromTriple(TRIPLE, byref(target), byref(why)):
            raise NoLlvm(f"LLVM: {_text(why)}")
        machine = c_void_p(llvm.LLVMCreateTargetMachine(target, TRIPLE, CPU, b"", OPTIMIZE, DEFAULT, DEFAULT))
        if llvm.LLVMTargetMachineEmitToMemoryBuffer(machine, module, OBJECT_FILE, byref(why), byref(output)) or errors:
            raise NoLlvm(f"LLVM makes no code: {_text(why)}")
        return ctypes.string_at(llvm.LLVMGetBufferStart(output), llvm.LLVMGetBufferSize(output))


def _text(why: c_char_p) -> str:
    return (why.value or b"no reason given").decode(errors="replace")


def _sections(elf: bytes) -> dict[str, bytes]:
    """Section contents by name of a 64-bit little-endian object."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise NoLlvm("LLVM made something else than an object file")
    (table,) = struct.unpack_from("<Q", elf, 40)
    count, names_at = struct.unpack_from("<HH", elf, 60)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + 64 * number) for number in range(count)]
    names = headers[names_at][4]
    return {elf[names + name : elf.index(b"\0", names + name)].decode(): elf[at : at + size] for name, _, _, _, at, size in headers}
