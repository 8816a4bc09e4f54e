"""Where no relay is needed: resolve the server here, and find our own address and the largest payload toward it."""

from __future__ import annotations

import asyncio
import socket

from chainrelay.errors import Code, Refusal
from chainrelay.limits import IP_UDP_HEADERS, RESOLVE_TIMEOUT
from chainrelay.net.locate import candidate
from chainrelay.session.events import Candidate
from chainrelay.wire.endpoint import Address, parse_address


async def locate(host: Address | str) -> Candidate:
    """The first address of `host` that the kernel has a route to. Raises Refusal."""
    addresses = [host] if not isinstance(host, str) else await _resolve(host)
    why = "it has no address"
    for address in addresses:
        try:
            return candidate(address)
        except OSError as fault:
            why = fault.strerror or str(fault)
    raise Refusal(Code.NO_ROUTE, f"no route to {host} from here: {why}")


def payload(found: Candidate) -> int:
    """Largest datagram payload in bytes toward it."""
    return found.mtu - IP_UDP_HEADERS[found.address.version]


async def _resolve(name: str) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            rows = await loop.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as fault:
        why = "no answer in time" if isinstance(fault, TimeoutError) else getattr(fault, "strerror", None) or str(fault)
        raise Refusal(Code.NAME_NOT_RESOLVED, f"can't resolve {name} here: {why}") from fault
    return list(dict.fromkeys(parse_address(str(row[4][0]).partition("%")[0]) for row in rows))
