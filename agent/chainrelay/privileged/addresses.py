"""This host's own addresses, by netlink: none of them may ever be a session's target (docs/design.md §8); and where they are."""

from __future__ import annotations

from pyroute2 import IPRoute

from chainrelay.wire.endpoint import Address, parse_address

_ETHERNET = 1  # ARPHRD_ETHER, include/uapi/linux/if_arp.h: the fast path reads Ethernet headers
_GLOBAL = 0  # RT_SCOPE_UNIVERSE: neither link-local nor of this host alone


def own_addresses() -> frozenset[Address]:
    """Every address of every interface in this network namespace, link-local ones included."""
    with IPRoute() as netlink:
        messages = netlink.get_addr()
    # where there is a peer, IFA_ADDRESS is the peer's (linux/if_addr.h)
    return frozenset(parse_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")) for message in messages)


def interfaces_with_addresses() -> tuple[str, ...]:
    """The Ethernet interfaces of this network namespace that have an address which others can reach; so never lo."""
    with IPRoute() as netlink:
        numbered = {message["index"] for message in netlink.get_addr() if message["scope"] == _GLOBAL}
        return tuple(
            str(link.get_attr("IFLA_IFNAME"))
            for link in netlink.get_links()
            if link["ifi_type"] == _ETHERNET and link["index"] in numbered
        )
