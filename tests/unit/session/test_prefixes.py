"""Prefixes and port ranges."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.session.prefixes import ANYWHERE, NOWHERE, PortRange, Prefixes, PrefixMap, parse_prefix
from chainrelay.wire.endpoint import Address


def test_parse_prefix() -> None:
    assert parse_prefix("::ffff:10.0.0.0/104") == ip_network("10.0.0.0/8")
    assert parse_prefix("10.0.0.1") == ip_network("10.0.0.1/32")
    with pytest.raises(ValueError, match="host bits"):
        parse_prefix("10.0.0.1/8")


@given(st.lists(st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), max_size=20), st.ip_addresses(v=4))
def test_longest_prefix_first_as_the_standard_library_sees_it(rows: list[tuple[Address, int]], address: Address) -> None:
    networks = [ip_network(f"{host}/{length}", strict=False) for host, length in rows]
    prefixes = PrefixMap([(network, network) for network in networks])
    found = list(prefixes.matches(address))
    assert prefixes.holds(address) == bool(found)
    assert found == sorted({one for one in networks if address in one}, key=lambda one: -one.prefixlen)


def test_sets_of_addresses() -> None:
    assert ip_address("10.1.2.3") in Prefixes.of("10.0.0.0/8", "fd00::/8")
    assert ip_address("fd12::1") in Prefixes.of("10.0.0.0/8", "fd00::/8")
    assert ip_address("11.0.0.1") not in Prefixes.of("10.0.0.0/8", "fd00::/8")
    assert ip_address("::a00:1") not in Prefixes.of("10.0.0.0/8")
    assert all(ip_address(one) in ANYWHERE and ip_address(one) not in NOWHERE for one in ("1.2.3.4", "::1"))
    assert str(Prefixes.of("10.0.0.0/8", "fd00::/8")) == "10.0.0.0/8, fd00::/8"


def test_port_ranges() -> None:
    assert PortRange.parse("20000-29999") == PortRange(20000, 29999)
    assert PortRange.parse("53") == PortRange(53, 53)
    assert len(PortRange(10, 19)) == 10
    assert 19 in PortRange(10, 19)
    assert 20 not in PortRange(10, 19)
    assert PortRange(10, 19).holds(18, 2)
    assert not PortRange(10, 19).holds(19, 2)
    assert str(PortRange(10, 19)) == "10-19"
    for wrong in ("", "0", "1-70000", "9-8", "x", "1-2-3", "-5", "5-", "\u0663"):
        with pytest.raises(ValueError, match="port"):
            PortRange.parse(wrong)
