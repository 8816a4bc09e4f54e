"""Kinds of fields, each at and beyond its edges, in both directions."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from chainrelay.errors import Code
from chainrelay.wire import fields
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.fields import Kind
from chainrelay.wire.messages import HopCounters, Protocol, Way

V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")


@pytest.mark.parametrize(
    ("kind", "value", "packed"),
    [
        (fields.SESSION, bytes(16), bytes(16)),
        (fields.ENDPOINT, Endpoint(V4, 1), V4.packed + b"\0\1"),
        (fields.ENDPOINT, Endpoint(V6, 65535), V6.packed + b"\xff\xff"),
        (fields.TARGET, Target("a.example", 65535), ["a.example", 65535]),
        (fields.TARGET_OR_RESERVE, Target(V4, 0), V4.packed + b"\0\0"),
        (fields.TARGET_OR_RESERVE, Target("a", 0), ["a", 0]),
        (fields.ID, "a" * 64, "a" * 64),
        (fields.PATH, ("a",) * 16, ["a"] * 16),
        (fields.BOOLEAN, True, True),
        (fields.PROTOCOL, Protocol.UDP, 17),
        (fields.WAY, Way.ITERATIVE, 2),
        (fields.COMPONENTS, 2, 2),
        (fields.LEASE, 0, 0),
        (fields.LEASE_GRANTED, 604800, 604800),
        (fields.HOPS, 16, 16),
        (fields.MTU, 65535, 65535),
        (fields.COUNTERS, (HopCounters("a", 0, 1, 2, 2**64 - 1),), [["a", 0, 1, 2, 2**64 - 1]]),
        (fields.CODE, Code.LOOP, 35),
        (fields.HOP, "", ""),
        (fields.TEXT, "é" * 512, "é" * 512),
    ],
)
def test_there_and_back(kind: Kind, value: object, packed: object) -> None:
    assert kind.pack(value) == packed
    assert type(kind.pack(value)) is type(packed)
    assert kind.unpack(packed) == value


@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        (fields.SESSION, bytes(17)),
        (fields.SESSION, "0" * 16),
        (fields.ENDPOINT, V4.packed + b"\0\0"),
        (fields.ENDPOINT, b""),
        (fields.ENDPOINT, bytes([1]) * 17),
        (fields.ENDPOINT, "192.0.2.1:5"),
        (fields.TARGET, ["a.example", 0]),
        (fields.TARGET, ["a.example"]),
        (fields.TARGET, ["192.0.2.1", 5]),
        (fields.TARGET, ["a.example", True]),
        (fields.TARGET, {0: "a.example"}),
        (fields.ID, ""),
        (fields.ID, b"a"),
        (fields.PATH, "fw1"),
        (fields.PATH, ["fw1", ""]),
        (fields.PATH, [["fw1"]]),
        (fields.BOOLEAN, 1),
        (fields.PROTOCOL, True),
        (fields.PROTOCOL, 0),
        (fields.WAY, [1]),
        (fields.COMPONENTS, True),
        (fields.LEASE, -1),
        (fields.LEASE_GRANTED, 0),
        (fields.MTU, 65536),
        (fields.COUNTERS, [["a", 0, 0, 0, 2**64]]),
        (fields.COUNTERS, [["a", 0, 0, 0, -1]]),
        (fields.COUNTERS, [["", 0, 0, 0, 0]]),
        (fields.COUNTERS, [["a", 0, 0, 0, 0]] * 17),
        (fields.COUNTERS, {0: []}),
        (fields.CODE, 65536),
        (fields.CODE, "1"),
        (fields.HOP, None),
        (fields.TEXT, "x" * 513),
        (fields.TEXT, "\x1b[31m"),
        (fields.TEXT, "\u202egnp"),
        (fields.TEXT, b"text"),
    ],
)
def test_what_a_partner_may_not_say(kind: Kind, packed: Any) -> None:
    with pytest.raises(ValueError, match=r"not|none|port|endpoint"):
        kind.unpack(packed)


def test_a_refusal_quotes_little() -> None:
    with pytest.raises(ValueError) as caught:
        fields.ID.unpack("x" * 60000)
    assert len(str(caught.value)) < 200
