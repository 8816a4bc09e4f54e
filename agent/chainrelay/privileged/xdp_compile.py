"""ebpf/*.c to loaded programs, through bcc. Only ever imported by the short-lived xdp_load process: bcc keeps LLVM mapped.

Kernel headers are not needed: ebpf/shim stands in for them, the UAPI headers come from linux-libc-dev. Whatever clang and
the verifier have to say goes to a log file that the error names.
"""

from __future__ import annotations

import os
import sysconfig
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chainrelay.errors import DatapathError
from chainrelay.privileged.xdp_bpf import Program, possible_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

FUNCTIONS: Final = {
    "relay.c": {"native": "chainrelay_native", "generic": "chainrelay_generic"},
    "control.c": {"renew4": "chainrelay_renew4", "renew6": "chainrelay_renew6"},
}


def load_programs(source: Path, folder: Path, suffix: str, log: Path) -> None:
    """Compile, load and pin every program as `folder/<name><suffix>`. Raises DatapathError; nothing stays pinned then."""
    os.environ["BCC_KERNEL_SOURCE"] = str(source / "shim")
    pinned: list[Path] = []
    try:
        for file, functions in FUNCTIONS.items():
            for name, descriptor in _compile(source, file, functions, folder, log):
                target = folder / f"{name}{suffix}"
                target.unlink(missing_ok=True)
                Program(descriptor, name).pin(target)
                pinned.append(target)
    except BaseException:
        for path in pinned:
            path.unlink()
        raise


def _compile(source: Path, file: str, functions: dict[str, str], folder: Path, log: Path) -> list[tuple[str, int]]:
    try:
        from bcc import BPF
    except ImportError as error:
        raise DatapathError(f"bcc can't be imported ({error}); install python3-bpfcc, or set xdp = \"off\"") from error
    if not (source / file).is_file():
        raise DatapathError(f"{source / file} is missing; the fast path's source belongs to the installation")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    flags = [f"-I{source}", "-idirafter", "/usr/include", "-idirafter", f"/usr/include/{multiarch}"]
    with _stderr_to(log):
        try:
            module = BPF(src_file=str(source / file), cflags=[*flags, f'-DPINS="{folder}"', f"-DCPUS={possible_cpus()}"])
        except Exception as error:  # bcc raises bare Exception
            hint = "" if _is_admin() else "bcc opens pinned maps by their ids, which takes CAP_SYS_ADMIN, and that is missing here; "
            raise DatapathError(f"{file} does not compile: {error}; {hint}clang's words are in {log}") from error
        try:
            return [(name, module.load_func(function, BPF.XDP).fd) for name, function in functions.items()]
        except Exception as error:
            raise DatapathError(f"the kernel's verifier refuses {file}: {error}; its log is in {log}") from error
    raise AssertionError("unreachable")


def _is_admin() -> bool:
    """Whether CAP_SYS_ADMIN (number 21) is effective."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> 21 & 1)


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """clang and libbpf write to descriptor 2, whatever Python's sys.stderr is."""
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DatapathError(f"{log}: {error.strerror}; the compiler's log needs a place") from error
    kept = os.dup(2)
    os.dup2(target, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(target)
