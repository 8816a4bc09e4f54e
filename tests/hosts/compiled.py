"""The fast path's programs as the built package would compile them, compiled on this machine: for hosts that take minutes for it.

Compiling knows nothing of a kernel but how long its jiffy is, so what is put into such a host's cache is what it would have come to
itself (or another fingerprint, and it compiles after all). Loading stays its own: its verifier judges, its driver runs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.host import CommandError

if TYPE_CHECKING:
    from hosts.packages import Repository

INSIDE: Final = "/var/cache/chainrelay"  # CacheDirectory= of the unit
TIMEOUT: Final = 120.0


def compile_into(folder: Path, repository: Repository) -> None:
    """Fill `folder` with what the helper keeps in its cache."""
    with tempfile.TemporaryDirectory(prefix="compiled-") as work:
        for package in (repository.path / "new").glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(package), work])
        pins = Path(work, "bpf")
        code = {"PYTHONPATH": f"{work}/usr/lib/python3/dist-packages", "CACHE_DIRECTORY": str(folder)}
        load = [sys.executable, "-m", "chainrelay.privileged.xdp_load", "--pins", str(pins), "--log", f"{work}/log"]
        try:
            _run([*load, "--source", f"{work}/usr/share/chainrelay/ebpf"], code)  # no interface: compile and pin only
        finally:
            subprocess.run(["umount", "-q", str(pins)], check=False)


def _run(argv: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=TIMEOUT, env={**os.environ, **(environment or {})}, check=False
    )
    if done.returncode != 0:
        raise CommandError(f"{' '.join(argv)} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
