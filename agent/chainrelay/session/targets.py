"""Addresses that a session never leads to nor comes from (docs/design.md §8), whatever the tables say.

`targets.allow` in agent.toml lists exceptions by prefix. Pure: the relay's own addresses are given. Whoever calls has
canonical addresses (wire/endpoint.py), so an IPv4-mapped form is judged as the IPv4 address that it stands for.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from chainrelay.errors import Code, Refusal
from chainrelay.session.prefixes import Prefixes
from chainrelay.wire.endpoint import Address, canonical

THIS_NETWORK = IPv4Network("0.0.0.0/8")  # RFC 1122 §3.2.1.3 (a): no destination
BROADCAST = IPv4Address("255.255.255.255")


@lru_cache(4096)  # a few hosts are asked for again and again, and the address properties are slow
def kind_of(address: Address) -> str:
    """What is wrong with an address as a partner or a target, in words; empty when nothing is."""
    if address.is_loopback:
        return "a loopback address"
    if address.is_unspecified or address in THIS_NETWORK:
        return "no address of a host"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address == BROADCAST:
        return "the broadcast address"
    return ""


def refuse_forbidden(what: str, address: Address, own: bool, allow: Prefixes) -> None:
    """Raises Refusal for an address that is never `what` ("the server's address"), unless `allow` holds it.

    `own`: it is one of the relay's own.
    """
    address = canonical(address)
    kind = kind_of(address)
    if not (own or kind) or address in allow:
        return
    if own:
        text = f"{what} {address} is an address of this relay; traffic of the relay itself is not relayed, name another host"
        raise Refusal(Code.LOCAL_TRAFFIC, text)
    text = f"{what} {address} is {kind}; if that is meant, list it under targets.allow in this relay's agent.toml"
    raise Refusal(Code.FORBIDDEN_TARGET, text)
