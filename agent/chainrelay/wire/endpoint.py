"""Addresses with ports, as everything in chainrelay speaks of them (M-numbers: the README's table).

`Endpoint` is an address and a port; `Target` may still be a name (M19: the last relay resolves it) or lack its port
(*reserve*). IPv4-mapped IPv6 addresses become IPv4 here, before any check can see them. No sockets, no resolver.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from chainrelay.wire.names import is_name

Address = IPv4Address | IPv6Address


def canonical(address: Address) -> Address:
    """IPv4-mapped IPv6 (RFC 4291 §2.5.5.2) as the IPv4 address it stands for; anything else unchanged."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def parse_address(text: str) -> Address:
    """An address from text, canonical. Raises ValueError; scoped addresses (`fe80::1%eth0`) are refused."""
    if "%" in text:
        raise ValueError(f"scoped address {text!r}")
    return canonical(ip_address(text))


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An address and a port 1–65535 (0 only inside a `Target`)."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address!s}]:{self.port}" if self.address.version == 6 else f"{self.address!s}:{self.port}"  # !s: __format__ is slow

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.address.version

    def next(self, offset: int) -> Endpoint:
        """The endpoint `offset` ports further: component 2 of a pair is `next(1)`."""
        return Endpoint(self.address, self.port + offset) if offset else self

    @staticmethod
    def parse(text: str) -> Endpoint:
        """`192.0.2.1:5004` or `[2001:db8::1]:5004`. Raises ValueError for anything else, names included."""
        host, port = split_host_port(text)
        return Endpoint(parse_address(host), port)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a session leads: an address or a name, and a port; port 0 = *reserve* (named later by BIND)."""

    host: Address | str
    port: int

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port)) if not isinstance(self.host, str) else f"{self.host}:{self.port}"

    @staticmethod
    def parse(text: str) -> Target:
        """`host:port`, host an address (IPv6 in brackets) or a name. Raises ValueError."""
        host, port = split_host_port(text, lowest=0)
        with contextlib.suppress(ValueError):
            return Target(parse_address(host), port)
        name = host.rstrip(".").lower()
        if not is_name(name):
            raise ValueError(f"{host!r} is neither an address nor a host name")
        return Target(name, port)


def split_host_port(text: str, lowest: int = 1) -> tuple[str, int]:
    """`host:port` or `[host]:port` in two. Raises ValueError with a reason that names the text."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not host:port: write the port as well, as in 192.0.2.1:5004")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError(f"{text!r}: write IPv6 as [address]:port")
    if not port.isascii() or not port.isdecimal() or not lowest <= int(port) <= 65535:
        raise ValueError(f"{text!r}: port {port!r} is not {lowest}-65535")
    return host.strip("[]"), int(port)
