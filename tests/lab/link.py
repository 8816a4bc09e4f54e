"""A veth pair between two hosts, with addresses of one or both families.

What XDP asks of veth (docs/design.md, and design §9's table): `gro` gives the far end NAPI, so that redirected frames
arrive; `tx_checksum=False` at a boundary makes local sockets write whole checksums.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TYPE_CHECKING

from lab.host import CommandError, Namespace

if TYPE_CHECKING:
    from chainrelay.wire.endpoint import Address

Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True)
class End:
    """One end: the host, the interface's name there and its addresses."""

    host: Namespace
    name: str
    interfaces: tuple[Interface, ...]

    def address(self, family: int) -> Address:
        """The end's address of `family` (4 or 6)."""
        return next(each.ip for each in self.interfaces if each.version == family)


@dataclass(frozen=True)
class Link:
    """Both ends."""

    left: End
    right: End


def connect(
    left: Namespace,
    right: Namespace,
    networks: tuple[str, ...],
    *,
    names: tuple[str, str] | None = None,
    numbers: tuple[int, int] = (1, 2),
    mtu: int = 1500,
    tx_checksum: bool = True,
    gro: bool | None = None,
) -> Link:
    """Join two hosts. `networks` are prefixes (`10.1.0.0/24`, `fd00:1::/64`), `numbers` the host parts left and right.

    `names` are the interfaces' names (default: `to-<other host>`). `gro=None` leaves the driver's default.
    """
    left_name, right_name = names or (f"to-{right.name}", f"to-{left.name}")
    ends = (
        End(left, left_name, tuple(_numbered(each, numbers[0]) for each in networks)),
        End(right, right_name, tuple(_numbered(each, numbers[1]) for each in networks)),
    )
    near, far = (f"{end.name} netns {end.host.netns} mtu {mtu}" for end in ends)
    _batch(None, [f"link add {near} type veth peer name {far}"])
    for end in ends:
        lines = [
            f"address add {each} dev {end.name}{' nodad' if each.version == 6 else ''}" for each in end.interfaces
        ]
        _batch(end.host, [*lines, f"link set {end.name} up"])
        features = [*([] if tx_checksum else ["tx", "off"]), *([] if gro is None else ["gro", "on" if gro else "off"])]
        if features:
            end.host.run(["ethtool", "-K", end.name, *features])
    return Link(*ends)


def route(host: Namespace, network: str, via: Address) -> None:
    """A static route; `network` may be `default`."""
    _batch(host, [f"route replace {network} via {via}"])


def _numbered(network: str, number: int) -> Interface:
    base = ip_interface(network)
    return ip_interface(f"{base.network.network_address + number}/{base.network.prefixlen}")


def _batch(host: Namespace | None, lines: list[str]) -> None:
    where = ["-n", host.netns] if host else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CommandError(f"ip on {host.name if host else 'the machine'}: {done.stderr.strip()} ({'; '.join(lines)})")
