"""What this host says about its ports: the only place of config/ that reads /proc. The checks take the values.

`read_host_facts` never fails: what can't be read is left at "not known", and the check of it does not take place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from chainrelay.session.prefixes import PortRange

_LISTEN = "0A"  # TCP_LISTEN, include/net/tcp_states.h
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """`ephemeral`: ports that the kernel gives to outgoing sockets; `reserved`: those it keeps out of that;
    `listening`: ports with a listening TCP or a bound, unconnected UDP socket; `interfaces`: their names. Empty = not known or none."""

    ephemeral: PortRange | None = None
    reserved: tuple[PortRange, ...] = ()
    listening: frozenset[int] = frozenset()
    interfaces: frozenset[str] = frozenset()


def read_host_facts(proc: Path = _PROC) -> HostFacts:
    """The facts of the network namespace that we run in."""
    bounds = re.fullmatch(r"(\d+)\s+(\d+)", _text(proc / "sys/net/ipv4/ip_local_port_range"))
    ephemeral = PortRange(int(bounds[1]), int(bounds[2])) if bounds else None
    reserved = parse_port_list(_text(proc / "sys/net/ipv4/ip_local_reserved_ports"))
    listening = {
        port
        for table, wanted in (("tcp", True), ("tcp6", True), ("udp", False), ("udp6", False))
        for port in _open_ports(_text(proc / "net" / table), tcp=wanted)
    }
    interfaces = {name.strip() for name, colon, _ in (line.partition(":") for line in _text(proc / "net/dev").splitlines()[2:]) if colon}
    return HostFacts(ephemeral, reserved, frozenset(listening), frozenset(interfaces))


def parse_port_list(text: str) -> tuple[PortRange, ...]:
    """`ip_local_reserved_ports` as ranges: `20000-29999,31000`. Empty text: none."""
    ranges = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        ranges.append(PortRange(int(first), int(last or first)))
    return tuple(ranges)


def _open_ports(table: str, *, tcp: bool) -> list[int]:
    """Local ports of /proc/net/{tcp,udp}[6]: listening for TCP; for UDP those without a partner (remote port 0)."""
    ports = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and (fields[3] == _LISTEN if tcp else fields[2].endswith(":0000")):
            ports.append(int(fields[1].rpartition(":")[2], 16))
    return ports


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
