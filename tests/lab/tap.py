"""Wires with somebody on them: between two relays a host that is nothing but a bridge, where every frame can be captured.

    with Taps() as taps, Row(2, join=taps.join) as row, Capture(taps.ends["fw1 - fw2"]) as wire: …

On the relays themselves a capture sees nothing of what the fast path carries: XDP takes frames before, and redirects them past,
the place where tcpdump looks.
"""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any, Self

from lab.host import Namespace
from lab.link import End, Link, connect

if TYPE_CHECKING:
    from lab.link import Interface

BRIDGE = "wire"


class Taps:
    """Makes a row's links, those between two relays with a tap; `ends` is where to listen, by the relays' names."""

    def __init__(self) -> None:
        self.ends: dict[str, End] = {}
        self._stack = ExitStack()

    def join(self, left: Namespace, right: Namespace, networks: tuple[str, ...], **wishes: Any) -> Link:
        """`connect`, with a bridge between if both are relays."""
        if not (left.name.startswith("fw") and right.name.startswith("fw")):
            return connect(left, right, networks, **wishes)
        wire = Namespace(f"wire{len(self.ends) + 1}")
        self._stack.callback(wire.close)
        near = connect(left, wire, (), names=(f"to-{right.name}", "left"), **wishes)
        far = connect(wire, right, (), names=("right", f"to-{left.name}"), **wishes)
        wire.run(["ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"])
        for name in ("left", "right"):
            wire.run(["ip", "link", "set", name, "master", BRIDGE])
        wire.run(["ip", "link", "set", BRIDGE, "up"])
        self.ends[f"{left.name} - {right.name}"] = near.right
        return Link(*(_addressed(end, networks, number) for end, number in ((near.left, 1), (far.right, 2))))

    def close(self) -> None:
        """Every wire."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _addressed(end: End, networks: tuple[str, ...], number: int) -> End:
    interfaces: list[Interface] = []
    for network in networks:
        base = ip_interface(network).network
        interfaces.append(ip_interface(f"{base.network_address + number}/{base.prefixlen}"))
        end.host.run(["ip", "address", "add", str(interfaces[-1]), "dev", end.name, *(["nodad"] if base.version == 6 else [])])
    return End(end.host, end.name, tuple(interfaces))
