"""What a caller may want of a session besides its server, and whether it can be had at all. No I/O.

Keyword arguments of `Client` and of the shorthands around it; the one value that they come to; what contradicts itself or the route.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypedDict

from chainrelay.client.sealing import key_with
from chainrelay.errors import Code, Refusal
from chainrelay.session.tables import Direct, PeerTable, Route
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

LAST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants of a session besides its server."""

    local: int | Endpoint
    """P1: a port (0 = any) at the client's own address, or a whole endpoint."""
    sockets: bool
    """Whether P1 is handed out as bound sockets; otherwise another program binds it."""
    lease: int
    seal: bool | None = None
    """Whether datagrams are encrypted up to the last relay (M17); None: what the client, then the route, says."""


class Wishes(TypedDict, total=False):
    """Keyword arguments of `Client.reserve`, for the shorthands around it."""

    components: int
    local: int | Endpoint
    sockets: bool
    lease: int
    seal: bool | None


class TargetWishes(Wishes, total=False):
    """Those of `Client.open_to`."""

    protocol: Protocol


class ServerWishes(TypedDict, total=False):
    """Those of `Client.open`."""

    protocol: Protocol | None
    components: int | None
    local: int | Endpoint
    sockets: bool
    lease: int
    seal: bool | None
    server_id: str | None
    peers: Sequence[IPv4Network | IPv6Network]


def check_ports(protocol: Protocol, components: int, wish: Wish, peer: int = 0) -> None:
    """Whether P1 and the server's port `peer` can be what was asked for. Raises ValueError."""
    port = wish.local.port if isinstance(wish.local, Endpoint) else wish.local
    if not isinstance(protocol, Protocol):
        raise ValueError(f"protocol is {protocol!r}; it must be client.UDP or client.TCP")
    if components not in (1, 2):
        raise ValueError(f"components is {components!r}; it must be 1 or 2")
    if int(port) != port or not 0 <= port <= LAST_PORT:
        raise ValueError(f"local port {port!r} is none; it must be 0 (any) to {LAST_PORT}")
    if components == 2 and protocol is not Protocol.UDP:
        raise ValueError("two components are a pair of UDP ports; a TCP session has one")
    if components == 2 and port % 2:
        raise ValueError(f"local port {port} is odd; a pair is an even port and the next one")
    if components == 2 and peer == LAST_PORT:
        raise ValueError(f"the server's port {peer} has no next one; a pair is a port and the next one")


def is_sealed(route: Route, protocol: Protocol, wish: Wish, peers: PeerTable) -> bool:
    """Whether the session is to be sealed. Raises Refusal when it is and can't be."""
    if not (route.seal if wish.seal is None else wish.seal):
        return False
    if isinstance(route.via, Direct):
        why = f"the route to {route.to} is direct: there is no relay that could open what is sealed; open it without a seal"
    elif protocol is not Protocol.UDP:
        why = "a TCP session can't be sealed, datagrams can; open it without a seal, and let its program encrypt (TLS, ssh)"
    elif not wish.sockets:
        why = "P1 is another program's, which can't seal: use the library's `send` and `receive`, or `chainrelay forward --seal`"
    elif not route.last:
        why = f'a sealed session must know who the last relay is: add last = "ITS ID" to the route to {route.to} in routes.toml'
    else:
        key_with(peers, route.last)
        return True
    raise Refusal(Code.SEAL_NOT_AVAILABLE, why)
