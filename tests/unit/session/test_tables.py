"""Look-ups of the four tables, and that thousands of rows do not slow them."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from chainrelay.session.events import NextHop
from chainrelay.session.prefixes import PortRange, Prefixes, parse_prefix
from chainrelay.session.tables import (
    DIRECT,
    AccessTable,
    Allow,
    AnswerRow,
    AnswerTable,
    Kind,
    PeerRow,
    PeerTable,
    Question,
    Route,
    RouteTable,
    name_forms,
)
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from playbook import FW2, P1, key, routes

FW3 = NextHop("fw3", Endpoint.parse("10.0.3.3:9798"))


@pytest.mark.parametrize(
    ("host", "to"),
    [
        ("10.9.1.1", "10.9.1.0/24"),
        ("10.9.2.1", "10.9.0.0/16"),
        ("192.0.2.1", "*"),
        ("fd00::1", "*"),
        ("tv.example.org", "tv.example.org"),
        ("a.b.example.org", ".b.example.org"),
        ("x.example.org", ".example.org"),
        ("example.org", "*"),
        ("notexample.org", "*"),
    ],
)
def test_the_longest_route_wins(host: str, to: str) -> None:
    rows = ("*", ".example.org", ".b.example.org", "tv.example.org", "10.9.0.0/16", "10.9.1.0/24")
    table = RouteTable(tuple(Route(parse_prefix(one) if one[0].isdigit() else one, FW2) for one in rows))
    found = table.lookup(ip_address(host) if ":" in host or host[0].isdigit() else host)
    assert found is not None
    assert str(found.to) == to


def test_of_two_equal_routes_the_first_and_none_without_a_star() -> None:
    table = routes(("10.9.0.0/16", FW2), ("10.9.0.0/16", FW3), (".example.org", DIRECT), (".example.org", FW3))
    assert [row.via for host in (ip_address("10.9.0.1"), "a.example.org") if (row := table.lookup(host))] == [FW2, DIRECT]
    assert table.lookup(ip_address("10.8.0.1")) is None
    assert table.lookup("example.com") is None
    assert name_forms("a.b.c") == ("a.b.c", ".b.c", ".c")


def test_thousands_of_routes_are_looked_up_fast() -> None:
    table = RouteTable(tuple(Route(parse_prefix(f"10.{n >> 8}.{n & 255}.0/24"), FW2) for n in range(10_000)))
    host = ip_address("10.20.3.4")
    began = time.process_time()
    for _ in range(10_000):
        assert table.lookup(host)
    assert time.process_time() - began < 1  # 100 µs each would be far too slow; it takes about one


def test_peers_and_their_keys() -> None:
    old, new = key("o"), key("n")
    client = PeerRow("alice", Kind.CLIENT, (new, old), frozenset({"alice"}))
    table = PeerTable((client, PeerRow("fw2", Kind.RELAY, (), frozenset("*"))))
    assert table.find_key("alice", old.kid) is old
    assert table.find_key("alice", "other") is None
    assert table.find_key("bob", old.kid) is None
    assert table.current_key("alice") is new
    assert table.current_key("fw2") is None
    assert table.ids() == {"alice", "fw2"}
    assert (table.is_relay("fw2"), table.is_relay("alice"), table.is_relay("bob")) == (True, False, False)
    alice, relay = table.get("alice"), table.get("fw2")
    assert alice is not None
    assert relay is not None
    assert alice.speaks_for("alice")
    assert not alice.speaks_for("bob")
    assert relay.speaks_for("bob")
    assert "ooooo" not in repr(alice)


def question(**changes: Any) -> Question:
    usual = Question("alice", P1, Protocol.UDP, 1, ip_address("10.9.0.9"), 6000)
    return replace(usual, **changes)


NARROW = Allow(
    "alice",
    source=Prefixes.of("10.0.0.0/24"),
    source_ports=PortRange(5000, 5009),
    destination=Prefixes.of("10.9.0.0/16"),
    destination_names=frozenset({".example.org"}),
    destination_ports=PortRange(6000, 6009),
    protocols=frozenset({Protocol.UDP}),
)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"components": 2}, ""),
        ({"port": 0}, ""),
        ({"host": None}, ""),
        ({"host": "tv.example.org"}, ""),
        ({"user": "bob"}, "no row for user bob"),
        ({"origin": Endpoint.parse("10.0.1.5:5000")}, "source 10.0.1.5 is not in 10.0.0.0/24"),
        ({"origin": Endpoint.parse("10.0.0.5:4999")}, "source port 4999 is not in 5000-5009"),
        ({"origin": Endpoint.parse("10.0.0.5:5009"), "components": 2}, "source port 5009"),
        ({"protocol": Protocol.TCP}, "protocol tcp"),
        ({"host": ip_address("10.8.0.9")}, "destination 10.8.0.9 is not in 10.9.0.0/16"),
        ({"host": "example.com"}, "the name example.com"),
        ({"port": 6010}, "destination port 6010"),
        ({"port": 6009, "components": 2}, "destination port 6009"),
    ],
)
def test_access(changes: dict[str, Any], why: str) -> None:
    found = AccessTable((NARROW,)).check(question(**changes))
    assert found is NARROW if not why else isinstance(found, str) and why in found


def test_default_deny_and_the_first_row_that_permits() -> None:
    assert AccessTable(()).check(question()) == "no row for user alice"
    everybody, other = Allow("*", sessions=1), Allow("alice", sessions=2)
    assert AccessTable((everybody, other)).check(question()) is everybody
    assert AccessTable((other, everybody)).check(question()) is other
    assert AccessTable((other, everybody)).check(question(user="bob")) is everybody
    assert AccessTable((everybody,)).check(question(host="any.example.com")) is everybody


def test_the_reason_is_the_closest_rows() -> None:
    far = Allow("*", source=Prefixes.of("192.0.2.0/24"))
    found = AccessTable((far, NARROW, far)).check(question(port=7000))
    assert found == "destination port 7000 is not in 6000-6009"


def test_answers() -> None:
    row = AnswerRow("fw2", Prefixes.of("10.0.2.2"), PortRange(20000, 29999), Prefixes.of("10.3.0.0/24"), PortRange(30000, 30001))
    table = AnswerTable((AnswerRow("fw2", Prefixes.of("10.0.2.9")), row))
    entry, leave = Endpoint.parse("10.0.2.2:20100"), Endpoint.parse("10.3.0.2:30000")
    assert table.check("fw2", entry, leave, 1) == ""
    assert table.check("fw3", Endpoint.parse("1.1.1.1:1"), leave, 1) == ""
    assert "exit" in table.check("fw2", entry, leave.next(1), 2)
    assert "entry" in table.check("fw2", Endpoint.parse("10.0.2.2:30000"), leave, 1)
