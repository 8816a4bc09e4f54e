"""A session's record: what goes in comes out, and damage is told as such."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.datapath.mapping import Counters
from chainrelay.errors import ProtocolError
from chainrelay.session.events import Through
from chainrelay.session.record import Phase, Record, pack, unpack
from chainrelay.wire import cbor
from chainrelay.wire.endpoint import Endpoint, Target
from playbook import ALICE, FW2, an_open

RECORD = Record(
    Phase.OPEN, an_open(), replace(ALICE, number=0), FW2, 1000.25, 1120.5, 120,
    Endpoint.parse("10.0.0.1:20000"), Endpoint.parse("10.0.2.1:20001"), Endpoint.parse("10.0.2.2:20100"), None,
    Endpoint.parse("10.3.0.2:20102"), ("fw1", "fw2"), None, 1400, Counters(1, 2, 3, 4),
)  # fmt: skip
LAST = replace(
    RECORD, phase=Phase.RESERVED, next_hop=None, server_partner=None, server_address=ip_address("fd00::9"),
    request=an_open(server=Target("media.example.org", 0)), bound=Target("media.example.org", 5004), exit=None,
)  # fmt: skip


THROUGH = replace(RECORD, link=replace(RECORD.link, through=Through("fw1", False, 2, Endpoint.parse("10.0.2.1:20001"))))


@pytest.mark.parametrize("record", [RECORD, LAST, THROUGH])
def test_a_record_survives(record: Record) -> None:
    assert unpack(pack(record)) == record


@pytest.mark.parametrize("octets", [b"", b"\x80", cbor.encode([1] * 20), cbor.encode([9, b"", *[None] * 18]), pack(RECORD)[:-1]])
def test_damage_is_a_protocol_error(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(octets)


@given(st.integers(0, 1000), st.integers(0, 255))
def test_a_changed_octet_raises_nothing_else(at: int, octet: int) -> None:
    octets = bytearray(pack(RECORD))
    octets[at % len(octets)] = octet
    with contextlib.suppress(ProtocolError):
        unpack(bytes(octets))
