"""Sets of addresses and of ports, made for look-ups: what the tables' rows are written with.

A prefix is compared as an integer, so that a check costs a shift and a set look-up per prefix length, however many rows
there are. IPv4-mapped IPv6 prefixes become the IPv4 prefixes that they stand for. Parsing of files: config/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Generic, TypeVar

from chainrelay.wire.endpoint import Address

Prefix = IPv4Network | IPv6Network
V = TypeVar("V")
BITS = {4: 32, 6: 128}


def parse_prefix(text: str) -> Prefix:
    """`10.0.0.0/8`, `2001:db8::/32` or one address. Raises ValueError, also for host bits that are set."""
    prefix = ip_network(text)
    if isinstance(prefix, IPv6Network) and prefix.prefixlen >= 96 and prefix.network_address.ipv4_mapped:
        return IPv4Network((prefix.network_address.ipv4_mapped, prefix.prefixlen - 96))
    return prefix


class PrefixMap(Generic[V]):
    """Values by prefix; `matches` gives them longest prefix first. Of two values for one prefix the first stays."""

    __slots__ = ("_by_length",)

    def __init__(self, items: Iterable[tuple[Prefix, V]]) -> None:
        shifts: dict[int, dict[int, dict[int, V]]] = {4: {}, 6: {}}
        for prefix, value in items:
            shift = BITS[prefix.version] - prefix.prefixlen
            shifts[prefix.version].setdefault(shift, {}).setdefault(int(prefix.network_address) >> shift, value)
        self._by_length = {version: tuple(sorted(found.items())) for version, found in shifts.items()}

    def matches(self, address: Address) -> Iterator[V]:
        """Values of the prefixes that hold `address`, the longest first."""
        number = int(address)
        for shift, values in self._by_length[address.version]:
            value = values.get(number >> shift)
            if value is not None:
                yield value

    def holds(self, address: Address) -> bool:
        """Whether `matches` gives anything."""
        number = int(address)
        for shift, values in self._by_length[address.version]:  # noqa: SIM110 - a generator costs more than the look-ups
            if number >> shift in values:
                return True
        return False


@dataclass(frozen=True)
class Prefixes:
    """A set of addresses, as prefixes. `address in prefixes`; an empty set holds nothing."""

    prefixes: tuple[Prefix, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_map", PrefixMap((prefix, True) for prefix in self.prefixes))

    def __contains__(self, address: Address) -> bool:
        found: PrefixMap[bool] = self.__dict__["_map"]
        return found.holds(address)

    def __str__(self) -> str:
        return ", ".join(map(str, self.prefixes)) or "nothing"

    @staticmethod
    def of(*texts: str) -> Prefixes:
        """`Prefixes.of("10.0.0.0/8", "2001:db8::1")`. Raises ValueError."""
        return Prefixes(tuple(parse_prefix(text) for text in texts))


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports `first` to `last`, both included, 1 ≤ first ≤ last ≤ 65535."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last <= 65535:
            raise ValueError(f"ports {self.first}-{self.last} are no range within 1-65535")

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def holds(self, port: int, components: int) -> bool:
        """Whether the ports of all components, `port` and the following ones, are in the range."""
        return self.first <= port and port + components - 1 <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    @staticmethod
    def parse(text: str) -> PortRange:
        """`20000-29999` or `5004`. Raises ValueError."""
        first, dash, last = text.partition("-")
        if not all(part.isascii() and part.isdecimal() for part in (first, last if dash else first)):
            raise ValueError(f"{text!r} is not a port or first-last")
        return PortRange(int(first), int(last if dash else first))


ANYWHERE = Prefixes.of("0.0.0.0/0", "::/0")
NOWHERE = Prefixes(())
ANY_PORT = PortRange(1, 65535)
