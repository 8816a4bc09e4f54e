"""Kernel parameters of the relay: forwarding is checked, never switched on; pool ports are reserved and released.

Reserved ports (ip_local_reserved_ports) are not handed to local sockets that ask for any port; TCP and UDP, both
families. /proc/sys/net shows the network namespace of the calling thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from chainrelay.errors import DatapathError

_FORWARDING: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_RESERVED: Final = "net/ipv4/ip_local_reserved_ports"

log = logging.getLogger(__name__)

Ranges = Sequence[tuple[int, int]]


class Sysctl:
    """Parameters below `root`."""

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self._root = root

    def check_forwarding(self, families: Iterable[int]) -> None:
        """Warn when the kernel does not forward one of `families` (4, 6); raise DatapathError when it forwards none."""
        advice = {f"IPv{family}": f"sysctl -w {self._dotted(_FORWARDING[family])}=1" for family in families}
        missing = {f"IPv{family}" for family in families if not self._forwards(family)}
        for name in sorted(missing):
            log.warning("the kernel does not forward %s, so no such session will work: %s", name, advice[name])
        if len(missing) == len(advice):
            commands = " and ".join(advice.values())
            raise DatapathError(f"the kernel does not forward: {commands} (/etc/sysctl.d keeps it)")

    def reserve_ports(self, pool: Ranges) -> None:
        """Add `pool` to the reserved ports, keeping what is there. Raises DatapathError."""
        before = self._read(_RESERVED)
        after = format_ranges(add(parse_ranges(before), pool))
        if after != before:
            self._write(_RESERVED, after)

    def release_ports(self, pool: Ranges) -> None:
        """Take `pool` out of the reserved ports, whoever put it in. Raises DatapathError."""
        before = self._read(_RESERVED)
        after = format_ranges(subtract(parse_ranges(before), pool))
        if after != before:
            self._write(_RESERVED, after)

    def _forwards(self, family: int) -> bool:
        try:
            return self._read(_FORWARDING[family]) != "0"
        except DatapathError:
            return False  # a kernel without this family

    @staticmethod
    def _dotted(name: str) -> str:
        return name.replace("/", ".")

    def _read(self, name: str) -> str:
        try:
            return (self._root / name).read_text(encoding="ascii").strip()
        except OSError as fault:
            raise DatapathError(f"{self._root / name}: {fault.strerror}; is /proc mounted?") from fault

    def _write(self, name: str, value: str) -> None:
        try:
            (self._root / name).write_text(f"{value}\n", encoding="ascii")
        except OSError as fault:
            advice = f"set it by hand: sysctl -w {self._dotted(name)}={value}"
            raise DatapathError(f"{self._root / name}: {fault.strerror}; {advice}") from fault


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """`80,20000-29999` as the kernel prints it."""
    found = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.append((int(first), int(last or first)))
    return found


def format_ranges(ranges: Ranges) -> str:
    """The inverse of `parse_ranges`."""
    return ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in ranges)


def add(ranges: Ranges, more: Ranges) -> list[tuple[int, int]]:
    """The union, in order, neighbours joined as the kernel joins them."""
    union: list[tuple[int, int]] = []
    for first, last in sorted([*ranges, *more]):
        if union and first <= union[-1][1] + 1:
            union[-1] = union[-1][0], max(union[-1][1], last)
        else:
            union.append((first, last))
    return union


def subtract(ranges: Ranges, less: Ranges) -> list[tuple[int, int]]:
    """`ranges` without the ports of `less`."""
    left = list(ranges)
    for low, high in less:
        left = [
            part
            for first, last in left
            for part in ((first, min(last, low - 1)), (max(first, high + 1), last))
            if part[0] <= part[1]
        ]
    return left
