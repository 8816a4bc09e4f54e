"""Endpoints and targets as text; mapped addresses are IPv4 before anybody can look at them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.wire.endpoint import Address, Endpoint, Target, canonical, parse_address


@given(st.ip_addresses(), st.integers(1, 65535))
def test_text_and_back(address: Address, port: int) -> None:
    endpoint = Endpoint(canonical(address), port)
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert Target.parse(str(endpoint)) == Target(endpoint.address, port)


def test_mapped_addresses() -> None:
    assert canonical(IPv6Address("::ffff:127.0.0.1")) == IPv4Address("127.0.0.1") == parse_address("::ffff:7f00:1")
    assert Endpoint.parse("[::ffff:10.0.0.1]:5") == Endpoint(IPv4Address("10.0.0.1"), 5)
    assert Target.parse("[::ffff:10.0.0.1]:5").host == IPv4Address("10.0.0.1")
    assert canonical(ip_address("::7f00:1")) == IPv6Address("::7f00:1")


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:+1", "10.0.0.1:٣", "::1:80", "[::1:80", "::1]:80"]
)
def test_no_endpoints(text: str) -> None:
    with pytest.raises(ValueError, match=r"not|write|port"):
        Endpoint.parse(text)


@pytest.mark.parametrize("text", ["host:80", "[fe80::1%eth0]:80", "010.0.0.1:80"])
def test_neither_names_nor_scopes_nor_octal(text: str) -> None:
    with pytest.raises(ValueError, match=r"%|address|octet|appear|zero"):
        Endpoint.parse(text)


def test_targets() -> None:
    assert Target.parse("Media.Example.org.:5004") == Target("media.example.org", 5004)
    assert Target.parse("[2001:db8::1]:0") == Target(IPv6Address("2001:db8::1"), 0)
    assert str(Target("media.example.org", 0)) == "media.example.org:0"
    assert str(Target(IPv6Address("2001:db8::1"), 9)) == "[2001:db8::1]:9"


def test_components() -> None:
    first = Endpoint(IPv4Address("10.0.0.1"), 5004)
    assert first.next(0) is first
    assert first.next(1) == Endpoint(first.address, 5005)
    assert (first.family, Endpoint(IPv6Address("::1"), 1).family) == (4, 6)
