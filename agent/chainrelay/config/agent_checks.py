"""What takes two keys of agent.toml, or the host's ports and interfaces, to judge. A mistake that would only be seen when the kernel or a
partner refuses is told here.
"""

from __future__ import annotations

from pathlib import Path

from chainrelay.config import agent_keys as keys
from chainrelay.config.host import HostFacts
from chainrelay.config.pool import check_pool
from chainrelay.config.problems import Place
from chainrelay.config.schema import Values, nearest, shorten
from chainrelay.session.prefixes import PortRange
from chainrelay.wire.endpoint import Address, Endpoint


def check_values(values: Values, listen: tuple[Endpoint, ...], facts: HostFacts) -> None:
    """What takes more than one key of agent.toml, or the host, to judge. Sections that are wrong are passed over."""
    _check_listen(values, listen)
    sections = [values.get(key) for key in (keys.PORTS, keys.ADDRESSES, keys.DATAPATH, keys.LEASE, keys.LIMITS)]
    ports, addresses, datapath, lease, shares = sections
    pool = ports.get(keys.POOL) if ports else None
    if ports and pool is not None:
        check_pool(ports.at(keys.POOL), pool, listen, facts)
    if addresses:
        _check_addresses(addresses)
    if datapath:
        check_mark(datapath)
        check_interfaces(datapath, facts)
    if lease:
        _check_lease(lease)
    if shares and pool is not None and addresses:
        _check_share(shares, pool, max(1, len(addresses.get(keys.CLIENT_SIDE, ()))))
    if (state := values.get(keys.STATE)) and Path(state).exists() and not Path(state).is_dir():
        values.at(keys.STATE).wrong(f"{shorten(state)} is no folder", "name a folder, or leave it out under systemd")
    if targets := values.get(keys.TARGETS):
        _check_targets(targets)


def _check_listen(values: Values, listen: tuple[Endpoint, ...]) -> None:
    wildcards = {(end.family, end.port) for end in listen if end.address.is_unspecified}
    for end in listen:
        if end.address.is_multicast:
            values.at(keys.LISTEN).wrong(f"{end.address} is a multicast address", "write an address of this host")
        elif not end.address.is_unspecified and (end.family, end.port) in wildcards:
            every = "0.0.0.0" if end.family == 4 else "::"
            values.at(keys.LISTEN).wrong(f"{end} is covered by {every} on the same port already", "remove one of the two")


def _check_addresses(values: Values) -> None:
    for key in (keys.CLIENT_SIDE, keys.SERVER_SIDE):
        for address in values.get(key, ()):
            _expect_host(values.at(key), address)
    announce = values.get(keys.ANNOUNCE, {})
    told: dict[Address, Address] = {}
    for bound, announced in announce.items():
        place = values.at(keys.ANNOUNCE).of(str(bound))
        _expect_host(place, bound)
        if bound.version != announced.version:
            why = f"{bound} is announced as {announced}: IPv{bound.version} can't be announced as IPv{announced.version}"
            place.wrong(why, "announce an address of the same family")
        elif announced != bound:
            _expect_host(place, announced)
        if announced in told:
            why = f"{announced} is announced for {told[announced]} as well: their ports would collide"
            place.wrong(why, "announce another address for one of the two")
        told.setdefault(announced, bound)


def _expect_host(place: Place, address: Address) -> None:
    """A relay's own address has to be one that packets of others can reach."""
    kinds = {
        "unspecified": address.is_unspecified,
        "a loopback address": address.is_loopback,
        "a multicast address": address.is_multicast,
        "a link-local address": address.is_link_local,
    }
    for what, holds in kinds.items():
        if holds:
            place.wrong(f"{address} is {what}: partners can't send to it", "write a routable address of this host")
            return


def check_mark(values: Values) -> None:
    """Of [datapath]."""
    mark, mask = values.get(keys.MARK), values.get(keys.MASK)
    if mark is not None and mask is not None and mark & ~mask:
        why = f"mark {mark:#x} has bits outside of mask {mask:#x}"
        values.at(keys.MARK if values.has(keys.MARK) else keys.MASK).wrong(why, f"write mask = {mark | mask:#x}, or a mark within it")


def check_interfaces(values: Values, facts: HostFacts) -> None:
    """Of [datapath]: a name that is not there may come back, so it is no error."""
    if values.get(keys.XDP, keys.Xdp.OFF) is keys.Xdp.OFF:
        return
    here = sorted(facts.interfaces - {"lo"})
    names = values.get(keys.INTERFACES)
    for at, name in enumerate(names or ()):
        place = values.at(keys.INTERFACES).of(at)
        if name == "lo":
            place.wrong("no datagram of others arrives at lo", "remove it")
        elif here and name not in here:
            place.warn(f"there is no interface {shorten(name)!r} on this host now", nearest(name, here, "name one that exists"))


def _check_lease(values: Values) -> None:
    default, longest, absolute = values.get(keys.DEFAULT), values.get(keys.LONGEST), values.get(keys.ABSOLUTE)
    idle = values.get(keys.IDLE)
    if default is not None and longest is not None and default > longest:
        why = f"default {default} is longer than longest {longest}"
        values.at(keys.DEFAULT if values.has(keys.DEFAULT) else keys.LONGEST).wrong(why, "write default ≤ longest")
    if longest is not None and absolute is not None and longest > absolute:
        why = f"longest {longest} is longer than absolute {absolute}"
        values.at(keys.ABSOLUTE if values.has(keys.ABSOLUTE) else keys.LONGEST).wrong(why, "write longest ≤ absolute")
    if idle and absolute is not None and idle >= absolute:
        values.at(keys.IDLE).warn(f"idle {idle} never comes before absolute {absolute}", "write idle < absolute, or 0")


def _check_targets(values: Values) -> None:
    allowed = values.get(keys.ALLOW)
    for at, prefix in enumerate(allowed or ()):
        if not prefix.prefixlen:
            why = f"{prefix} lifts every built-in refusal: loopback, link-local and this host's own addresses become targets"
            values.at(keys.ALLOW).of(at).warn(why, "write the prefixes that you mean")


def _check_share(values: Values, pool: PortRange, addresses: int) -> None:
    sessions, ports = values.get(keys.SESSIONS), len(pool) * addresses
    if sessions is not None and values.has(keys.SESSIONS) and sessions > ports:
        why = f"{sessions} sessions of one partner don't fit into {ports} ports"
        values.at(keys.SESSIONS).warn(why, "widen ports.pool, or list more addresses.client_side")
