"""Where a host is: its addresses, our source address toward each, and the path MTU the kernel knows (Locate → Located).

A connected UDP socket asks the kernel's routing without sending anything and without privilege. Answers are kept for
LOCATE_CACHE seconds: a row of requests for one server costs one look-up, and a changed route shows within that time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address

from chainrelay.errors import Code, Refusal
from chainrelay.limits import LOCATE_CACHE, RESOLVE_TIMEOUT, RESOLVERS
from chainrelay.session.events import Candidate
from chainrelay.wire.endpoint import Address, parse_address

IP_MTU = 14  # linux/in.h; the socket module does not name it
IPV6_MTU = 24  # linux/in6.h

Found = tuple[tuple[Candidate, ...], Refusal | None]


def candidate(address: Address) -> Candidate:
    """Our source address and the MTU toward `address`, from the kernel's routes. Raises OSError where there is no route."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), 9))  # the port is of no account: connect sends nothing
        source = parse_address(probe.getsockname()[0])
        if family == socket.AF_INET:
            mtu = probe.getsockopt(socket.IPPROTO_IP, IP_MTU)
        else:
            mtu = probe.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)
    return Candidate(address, source, mtu)


class Locator:
    """Looks hosts up; `locate` calls back at once for what is cached or needs no resolver."""

    def __init__(self) -> None:
        self._cache: dict[Address | str, tuple[float, Found]] = {}
        self._resolvers = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolve")

    def locate(self, host: Address | str, done: Callable[[Found], None]) -> None:
        """Find `host`; `done((candidates, reason for none))` is called exactly once, possibly before this returns."""
        now = asyncio.get_running_loop().time()
        cached = self._cache.get(host)
        if cached is not None and cached[0] > now:
            done(cached[1])
            return
        if isinstance(host, str):
            asyncio.get_running_loop().create_task(self._resolve(host, done))
            return
        done(self._keep(host, _usable((host,), str(host))))

    def close(self) -> None:
        """Let go of the resolver threads."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def _resolve(self, name: str, done: Callable[[Found], None]) -> None:
        loop = asyncio.get_running_loop()
        found: Found
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                rows = await loop.run_in_executor(
                    self._resolvers, lambda: socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
                )
        except (OSError, UnicodeError) as fault:
            why = "no answer in time" if isinstance(fault, TimeoutError) else getattr(fault, "strerror", None) or str(fault)
            text = f"the last relay can't resolve {name}: {why}; check the name and that relay's resolver"
            found = (), Refusal(Code.NAME_NOT_RESOLVED, text)
        else:
            addresses = dict.fromkeys(parse_address(str(row[4][0]).partition("%")[0]) for row in rows)
            found = self._keep(name, _usable(tuple(addresses), name))
        done(found)

    def _keep(self, host: Address | str, found: Found) -> Found:
        now = asyncio.get_running_loop().time()
        if len(self._cache) > 1024:
            self._cache = {key: value for key, value in self._cache.items() if value[0] > now}
        if len(self._cache) <= 1024:  # more than that many hosts within a second: not worth remembering
            self._cache[host] = (now + LOCATE_CACHE, found)
        return found


def _usable(addresses: tuple[Address, ...], host: str) -> Found:
    candidates: list[Candidate] = []
    code, why = Code.NO_ROUTE, f"no route to {host} from here: no address; check this relay's routing table"
    for address in addresses:
        try:
            candidates.append(candidate(address))
        except PermissionError:  # connect(2): a broadcast address without SO_BROADCAST, or a route of type prohibit
            code = Code.FORBIDDEN_TARGET
            why = f"{address} is a broadcast address here, or this relay's routing table prohibits it; name another host"
        except OSError as fault:
            code, why = Code.NO_ROUTE, f"no route to {host} from here: {fault.strerror or fault}; check this relay's routing table"
    return (tuple(candidates), None) if candidates else ((), Refusal(code, why))
