"""Look-ups without a relay."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address

import pytest

from chainrelay.client import direct
from chainrelay.errors import Code, Refusal
from chainrelay.session.events import Candidate
from chainrelay.wire.endpoint import parse_address


def test_an_address_and_a_name() -> None:
    found = asyncio.run(direct.locate(IPv4Address("127.0.0.4")))
    assert found.source == IPv4Address("127.0.0.1")
    assert asyncio.run(direct.locate("localhost")).address.is_loopback


@pytest.mark.parametrize("name", ["nosuchhost.invalid", "a" * 70 + ".example"])
def test_a_name_that_does_not_exist(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        asyncio.run(direct.locate(name))
    assert caught.value.code is Code.NAME_NOT_RESOLVED


def test_no_route() -> None:
    with pytest.raises(Refusal) as caught:
        asyncio.run(direct.locate(parse_address("255.255.255.255")))
    assert caught.value.code is Code.NO_ROUTE


@pytest.mark.parametrize(("address", "payload"), [("192.0.2.1", 1472), ("2001:db8::1", 1452)])
def test_the_largest_payload_is_what_headers_leave(address: str, payload: int) -> None:
    there = parse_address(address)
    assert direct.payload(Candidate(there, there, 1500)) == payload
