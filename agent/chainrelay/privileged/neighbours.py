"""Where partners are: routes, links and neighbours as the kernel knows them, kept true in the map `hops`.

XDP never refreshes ARP or ND, so every address that sessions lead to is a *managed* neighbour: the kernel itself probes it
(NTF_EXT_MANAGED, Linux 5.16; before that we ask every PROBE seconds). A thread follows netlink events: a neighbour's new
MAC is one write, a changed route, link or address looks every way up again. What is not resolved goes up to the stack.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import IPv4Address
from socket import AF_INET, AF_INET6
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
)

from chainrelay.datapath.xdp_entries import Way, hop_of, place_of
from chainrelay.errors import DatapathError
from chainrelay.privileged.rtnetlink import ACK, CREATE, REPLACE, RTM_NEWNEIGH, Refused, Rtnetlink, attribute
from chainrelay.privileged.xdp_bpf import Map
from chainrelay.wire.endpoint import Address, parse_address

PROBE: Final = 5.0  # seconds between looks at what is unresolved, and between probes without managed neighbours
GROUPS: Final = (
    RTMGRP_NEIGH | RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
)
UNICAST: Final = 1  # RTN_UNICAST
VALID: Final = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT
BY_HAND: Final = 0x40 | 0x80  # NUD_NOARP, PERMANENT
USE: Final = 0x01  # NTF_USE
MANAGED: Final = 0x01  # NTF_EXT_MANAGED
NDA_DST, NDA_FLAGS_EXT = 1, 15
_NDMSG: Final = struct.Struct("=B3xiHBB")
_NEIGHBOUR_EVENTS: Final = {"RTM_NEWNEIGH", "RTM_DELNEIGH"}


log = logging.getLogger("chainrelay.neighbours")


class Neighbours:
    """The map `hops`, one place per partner address. Belongs to the network namespace in which it was made."""

    def __init__(self, hops: Map, exits: Map, ours: Callable[[int], bool]) -> None:
        """Ways are ready over interfaces that are among `exits` and have a program that is `ours`, by its id: both as they are now, for
        an interface may go, come again under another number, or lose its program."""
        self._hops, self._exits, self._ours = hops, exits, ours
        self._lock = threading.RLock()
        self._netlink, self._events, self._requests = IPRoute(), IPRoute(), Rtnetlink()
        self._events.bind(GROUPS)
        self._managed = True
        self._ways: dict[Address, tuple[int, Way]] = {}
        self._kept: set[tuple[Address, int]] = set()
        self._gates: dict[Address, Address] = {}
        """Partner address -> the neighbour that datagrams to it go through."""
        self._adopt()
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._follow, name="neighbours", daemon=True)
        self._thread.start()

    def way(self, address: Address) -> tuple[int, Way]:
        """The way to `address` and its place. Raises DatapathError(full) when there is no place left."""
        with self._lock:
            found = self._ways.get(address)
            if found is not None:
                return found
            place = self._free()
            self._ways[address] = place, Way(address)
            self._refresh(address)
            return self._ways[address]

    def release(self, used: Collection[int], keep: Collection[Address] = ()) -> None:
        """Give up every place that no entry uses, but for those of the addresses that are about to be used."""
        with self._lock:
            for address, (place, _) in list(self._ways.items()):
                if place not in used and address not in keep:
                    self._hops.update(_index(place), bytes(self._hops.value_size))
                    del self._ways[address]
                    self._gates.pop(address, None)

    def close(self) -> None:
        """End the thread; the ways stay in the map."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
        self._events.close()
        self._netlink.close()
        self._requests.close()

    def _adopt(self) -> None:
        """Take over what an earlier process left, looked up anew."""
        for place in range(self._hops.entries):
            value = self._hops.lookup(_index(place))
            address = place_of(value) if value is not None else None
            if address is not None:
                self._ways[address] = place, Way(address)
        for address in list(self._ways):
            self._refresh(address, always=True)

    def _free(self) -> int:
        taken = {place for place, _ in self._ways.values()}
        for place in range(self._hops.entries):
            if place not in taken:
                return place
        raise DatapathError(f"the table of next hops is full ({self._hops.entries} partner addresses)", full=True)

    def _refresh(self, address: Address, *, always: bool = False) -> None:
        """Look the way up and write it if it has changed."""
        place, before = self._ways[address]
        way = self._resolve(address)
        if always or way != before or not before.ifindex:
            self._ways[address] = place, way
            self._hops.update(_index(place), hop_of(way))

    def _resolve(self, address: Address) -> Way:
        family = AF_INET if isinstance(address, IPv4Address) else AF_INET6
        self._gates.pop(address, None)
        try:
            route = self._netlink.route("get", dst=str(address), family=family)[0]
            ifindex = route.get_attr("RTA_OIF")
            link = self._netlink.get_links(ifindex)[0]
        except (NetlinkError, IndexError):
            return Way(address)
        if route["type"] != UNICAST:
            return Way(address)
        gate = parse_address(_gateway(route) or str(address))
        self._gates[address] = gate
        own = _mac(link.get_attr("IFLA_ADDRESS"))
        metrics = route.get_attr("RTA_METRICS")
        mtu = (metrics.get_attr("RTAX_MTU") if metrics else None) or link.get_attr("IFLA_MTU")
        name = str(link.get_attr("IFLA_IFNAME"))
        if own is None or not self._takes(link):
            return Way(address, ifindex, mtu, own=own or bytes(6), name=name)
        neighbour = self._neighbour(gate, ifindex)
        if neighbour is None:
            return Way(address, ifindex, mtu, own=own, fast=True, name=name)
        return Way(address, ifindex, mtu, neighbour, own, ready=bool(link["flags"] & 1), fast=True, name=name)

    def _takes(self, link: Any) -> bool:  # noqa: ANN401 - pyroute2 has no types
        xdp = link.get_attr("IFLA_XDP")
        program = xdp.get_attr("IFLA_XDP_PROG_ID") if xdp is not None else None
        return program is not None and self._ours(program) and self._exits.lookup(_index(link["index"])) is not None

    def _neighbour(self, gate: Address, ifindex: int) -> bytes | None:
        """The MAC, if the kernel knows it now; it is asked to find it and to keep it. What is written by hand stays as it is."""
        state, mac = self._look_up(gate, ifindex)
        if not state & BY_HAND and (state == 0 or not self._managed or (gate, ifindex) not in self._kept):
            self._keep(gate, ifindex)
        return mac if state & VALID else None

    def _look_up(self, gate: Address, ifindex: int) -> tuple[int, bytes | None]:
        try:
            entry = self._netlink.neigh("get", dst=str(gate), ifindex=ifindex)[0]
        except (NetlinkError, IndexError):
            return 0, None
        return entry["state"], _mac(entry.get_attr("NDA_LLADDR"))

    def _keep(self, gate: Address, ifindex: int) -> None:
        """Have the kernel probe the neighbour from now on, or once where it can't do that."""
        family = AF_INET if isinstance(gate, IPv4Address) else AF_INET6
        body = _NDMSG.pack(family, ifindex, 0, 0 if self._managed else USE, 0) + attribute(NDA_DST, gate.packed)
        if self._managed:
            body += attribute(NDA_FLAGS_EXT, MANAGED.to_bytes(4, sys.byteorder))
        try:
            self._requests.request(RTM_NEWNEIGH, ACK | CREATE | REPLACE, body)
        except Refused as refused:
            if not self._managed or refused.number not in {errno.EINVAL, errno.EOPNOTSUPP}:
                log.warning("neighbour %s: %s; its datagrams go the slow way while it is not resolved", gate, refused)
                return
            self._managed = False
            self._keep(gate, ifindex)
        else:
            self._kept.add((gate, ifindex))

    def _follow(self) -> None:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._events.fileno(), select.POLLIN)
        due = time.monotonic() + PROBE
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(max(0.0, due - time.monotonic()) * 1000)}
            if self._stop in ready:
                return
            with self._lock:
                try:
                    if self._events.fileno() in ready:
                        self._heed(self._news())
                    if time.monotonic() >= due:
                        due = time.monotonic() + PROBE
                        self._retry()
                except OSError as fault:  # a thread that ended would leave every way as it is, for ever
                    log.warning("a way could not be looked up (%s); all that are not ready are tried again within %g s", fault, PROBE)

    def _news(self) -> Collection[Any] | None:
        """What has happened; None when the kernel had more to tell than the socket holds."""
        try:
            return tuple(self._events.get())
        except OSError as overrun:
            if overrun.errno != errno.ENOBUFS:
                log.warning("netlink events: %s; every way is looked up again", overrun)
            return None

    def _heed(self, events: Collection[Any] | None) -> None:
        gates: set[Address] = set()
        if events is None:
            gates = {*self._gates.values(), *self._ways}
        for event in events or ():
            if event["event"] not in _NEIGHBOUR_EVENTS:
                gates.update(self._gates.values())
                gates.update(self._ways)
            elif (text := event.get_attr("NDA_DST")) is not None:
                with suppress(ValueError):
                    gates.add(parse_address(text))
        for address in list(self._ways):
            if self._gates.get(address, address) in gates:
                self._refresh(address)

    def _retry(self) -> None:
        for address, (_, way) in list(self._ways.items()):
            if not way.ready or not self._managed:
                self._refresh(address)


def let_go(hops: Map) -> None:
    """Have the kernel keep none of the neighbours any more that it was asked to keep for these ways. What is written by hand stays."""
    with IPRoute() as netlink:
        for place in range(hops.entries):
            value = hops.lookup(_index(place))
            address = place_of(value) if value is not None else None
            if address is None:
                continue
            with suppress(NetlinkError, IndexError):
                route = netlink.route("get", dst=str(address), family=AF_INET if isinstance(address, IPv4Address) else AF_INET6)[0]
                gate, ifindex = _gateway(route) or str(address), route.get_attr("RTA_OIF")
                if not netlink.neigh("get", dst=gate, ifindex=ifindex)[0]["state"] & BY_HAND:
                    netlink.neigh("del", dst=gate, ifindex=ifindex)  # it comes again when somebody needs it, as any other


def _index(place: int) -> bytes:
    return place.to_bytes(4, sys.byteorder)


def _mac(text: str | None) -> bytes | None:
    octets = bytes.fromhex(text.replace(":", "")) if text else b""
    return octets if len(octets) == 6 and any(octets) else None


def _gateway(route: Any) -> str | None:  # noqa: ANN401 - pyroute2 has no types
    via = route.get_attr("RTA_VIA")
    return route.get_attr("RTA_GATEWAY") or (via["addr"] if via else None)

