"""Own addresses, of the namespace the test runs in."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from chainrelay.privileged.addresses import interfaces_with_addresses, own_addresses
from lab.host import Namespace
from lab.link import connect

LOOPBACK = {IPv4Address("127.0.0.1"), IPv6Address("::1")}


def test_loopback_is_ours() -> None:
    assert IPv4Address("127.0.0.1") in own_addresses()


@pytest.mark.root
def test_the_other_end_of_a_link_is_not_ours() -> None:
    with Namespace("here") as here:
        here.run(["ip", "tuntap", "add", "tunnel", "mode", "tun"])
        for mine, other in (("10.1.0.1", "10.1.0.2/32"), ("fd01::1", "fd01::2/128")):
            here.run(["ip", "address", "add", mine, "peer", other, "dev", "tunnel"])
        with here.enter():
            assert {IPv4Address("10.1.0.1"), IPv6Address("fd01::1")} == own_addresses() - LOOPBACK


@pytest.mark.root
def test_interfaces_that_others_can_reach() -> None:
    """Not lo, not a tunnel without Ethernet headers, not a port with its link-local address alone."""
    with Namespace("here") as here, Namespace("there") as there:
        connect(here, there, ("10.1.0.0/24",), names=("wan", "far"))
        connect(here, there, (), names=("bare", "end"))
        here.run(["ip", "tuntap", "add", "tunnel", "mode", "tun"])
        here.run(["ip", "address", "add", "10.2.0.1/24", "dev", "tunnel"])
        here.run(["ip", "address", "add", "10.3.0.1/32", "dev", "lo"])
        with here.enter():
            assert interfaces_with_addresses() == ("wan",)
