"""Whether this host can carry iptables-legacy rules, asked before anything is installed (`--check-config`).

Listing an empty table makes the kernel load it, as every `iptables-legacy -L` does; nothing else is touched.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from chainrelay.datapath.legacy_ruleset import TABLES
from chainrelay.privileged.iptables import COMMANDS, INSTALL, NO_TABLES, lacks_tables, not_permitted

_TIMEOUT: Final = 20.0
_OTHERWISE: Final = 'set datapath.rules = "nftables"'
_OURS: Final = ("chainrelay",)

Run = Callable[[Sequence[str]], tuple[int, str]]
"""Exit status and output of a command; 127 where there is none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What stands in the way (`fatal`), or what an administrator should know."""

    fatal: bool
    why: str
    mend: str


def findings(run: Run | None = None) -> list[Finding]:
    """Everything found; empty where all is well."""
    ask = run or run_command
    return [*_python(), *(each for family in COMMANDS for each in _tables(ask, family)), *_beside(ask)]


def run_command(command: Sequence[str]) -> tuple[int, str]:
    """Run it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except FileNotFoundError:
        return 127, ""
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {_TIMEOUT:.0f} s"
    return done.returncode, done.stdout + done.stderr


def _python() -> Iterator[Finding]:
    if importlib.util.find_spec("iptc") is None:
        yield Finding(True, "python-iptables is not installed", INSTALL)


def _tables(run: Run, family: int) -> Iterator[Finding]:
    command = COMMANDS[family]
    for table in TABLES:
        status, said = run([command, "-w", "-t", table, "-n", "-L"])
        first = said.strip().partition("\n")[0]
        if status == 0:
            continue
        if status == 127:
            yield Finding(True, f"{command} is not installed", INSTALL)
            return
        if lacks_tables(said):
            yield Finding(True, f"this kernel has no legacy table {table} for IPv{family} ({first})", NO_TABLES)
        elif not_permitted(said):
            yield Finding(False, f"whether the kernel has legacy tables can't be seen ({first})", "check again as root")
            return
        else:
            yield Finding(True, f"{command} -t {table} fails: {first}", f"mend it, or {_OTHERWISE}")


def _beside(run: Run) -> Iterator[Finding]:
    status, said = run(["nft", "list", "tables"])
    others = [line.removeprefix("table ") for line in said.splitlines() if line.split()[-1:] != list(_OURS)] if status == 0 else []
    if others:
        why = f"nftables rules stand beside the legacy tables ({', '.join(others)})"
        mend = f"both decide on every packet, and `iptables` (nft) and `nft` don't show ours: look with iptables-legacy, or {_OTHERWISE}"
        yield Finding(False, why, mend)
