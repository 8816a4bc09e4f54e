"""What strangers and partners may send that makes no sense or is not allowed: frames, CBOR, messages, requests.

Everything goes to running agents over TCP. A stranger is told nothing; a partner whose message can't be read is cut; a
request that can be read gets an ERROR with its code and the hop where it arose. Every time the agents live on and serve,
and no relay keeps anything (the fixture `survives`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from chainrelay.errors import Code
from chainrelay.limits import FRAME_AFTER_AUTHENTICATION
from chainrelay.wire import cbor
from chainrelay.wire.codec import encode
from chainrelay.wire.endpoint import Address, Endpoint, Target, parse_address
from chainrelay.wire.frame import frame
from chainrelay.wire.messages import Answer, Close, Closed, Error, Opened, Status, Way
from e2e.chain import Chain
from e2e.health import assert_healthy, memory
from e2e.stranger import Insider, Line, alice, an_open, control, framed, neighbour
from lab import rulesets

pytestmark = pytest.mark.root

LIMITS = "[limits]\nhandshakes_per_second = 100000\n"
WIDE = """[[allow]]
user = "alice"
source = ["10.1.0.0/24", "fd00:1::/64", "172.16.0.0/24"]
source_ports = "1024-65535"
"""
"""Any destination: what is refused then is refused by the built-in rules, not by the tables."""
NATTED = "172.16.0.5"


@pytest.fixture(scope="module")
def wide() -> Iterator[Chain]:
    """Two relays whose tables allow every destination."""
    with Chain(2, allow={"fw1": WIDE, "fw2": WIDE}, extra={"fw1": LIMITS, "fw2": LIMITS}) as chain:
        yield chain


@pytest.fixture(autouse=True)
def survives(wide: Chain) -> Iterator[None]:
    """After every test."""
    yield
    assert_healthy(wide)


# octets --------------------------------------------------------------------------


def bombs(room: int) -> dict[str, bytes]:
    """Bodies of CBOR within `room` octets that would cost a careless reader memory, time or its stack."""
    return {
        "nested arrays": b"\x81" * (room - 1) + b"\x00",
        "nested maps": b"\xa1\x00" * (room // 2 - 1) + b"\x00",
        "nested tags": b"\xc1" * (room - 1) + b"\x00",
        "array of 2^64-1": b"\x9b" + b"\xff" * 8,
        "array of 2^32-1": b"\x9a" + b"\xff" * 4,
        "map of 2^63": b"\xbb\x80" + bytes(7),
        "octets of 2^63": b"\x5b\x7f" + b"\xff" * 7,
        "text of 2^32-1": b"\x7a" + b"\xff" * 4,
        "endless array": b"\x9f" + b"\x00" * (room - 1),
        "endless octets": b"\x5f" + b"\x40" * (room - 1),
        "many items": b"\x99" + (room - 3).to_bytes(2, "big") + b"\x00" * (room - 3),
        "many empty arrays": b"\x99" + (room - 3).to_bytes(2, "big") + b"\x80" * (room - 3),
        "many keys": b"\xb9" + (room // 2 - 2).to_bytes(2, "big") + b"\x00\x00" * (room // 2 - 2),
        "a bignum": b"\xc2\x59\x0f\x00" + b"\xff" * 0xF00,
        "reserved heads": b"\xfc" * room,
        "M1 of arrays": b"\x8e" + b"\x8e" * (room - 1),
    }


def test_bombs_before_authentication(wide: Chain) -> None:
    """Closed without an octet, and the agent has not grown by them."""
    pid = wide.relays.agents[0].pid
    assert_healthy(wide)
    before = memory(pid)
    for _ in range(5):
        for kind, body in bombs(4096).items():
            with Line(wide.row.client, control(wide.firewalls[0])) as line:
                line.send(framed(body))
                assert line.ending() == (b"", "closed"), kind
    assert memory(pid) - before < 4 << 20


def test_bombs_of_a_partner(wide: Chain) -> None:
    """In valid records, up to the largest frame: that connection is cut in silence, others of the same partner go on."""
    pid = wide.relays.agents[0].pid
    with alice(wide) as bystander:
        before = memory(pid)
        for kind, body in bombs(FRAME_AFTER_AUTHENTICATION - 16).items():
            with alice(wide) as insider:
                insider.send_record(body)
                assert insider.line.ending()[0] == b"", kind
        assert isinstance(bystander.ask(Status(secrets.token_bytes(16))), Error)
        assert memory(pid) - before < 8 << 20


@pytest.mark.parametrize("length", [0, FRAME_AFTER_AUTHENTICATION + 1, (1 << 32) - 1])
def test_frames_that_no_partner_may_send(wide: Chain, length: int) -> None:
    with alice(wide) as insider:
        insider.line.send(length.to_bytes(4, "big"))
        assert insider.line.ending() == (b"", "closed")


def malformed(chain: Chain) -> dict[str, bytes]:
    """Messages in valid records that break docs/protocol.md."""
    good = cbor.decode(encode(1, an_open(chain)))
    return {
        "unknown mandatory key": cbor.encode({**good, -1: 0}),
        "unknown type": cbor.encode({0: 99, 1: 1}),
        "reserved type": cbor.encode({0: 12, 1: 1}),
        "an answer": encode(1, Closed(secrets.token_bytes(16), ())),
        "no number": cbor.encode({key: value for key, value in good.items() if key != 1}),
        "a missing field": cbor.encode({key: value for key, value in good.items() if key != 7}),
        "a list": cbor.encode([1, 2, 3]),
        "user of another kind": cbor.encode({**good, 9: 5}),
        "user with a line break": cbor.encode({**good, 9: "alice\nadmin"}),
        "session id of 15": cbor.encode({**good, 2: bytes(15)}),
        "partner's port 0": cbor.encode({**good, 7: good[7][:-2] + bytes(2)}),
        "address of 5 octets": cbor.encode({**good, 7: b"\x0a" + good[7]}),
        "endpoint of a port alone": cbor.encode({**good, 7: b"\x9c\x40"}),
        "partner as a name": cbor.encode({**good, 7: ["client.example", 40000]}),
        "address as a name": cbor.encode({**good, 8: ["127.0.0.1", 5004]}),
        "address as a name, shortened": cbor.encode({**good, 8: ["127.1", 5004]}),
        "address as a name, in hex": cbor.encode({**good, 8: ["0x7f000001", 5004]}),
        "name's port 65536": cbor.encode({**good, 8: ["server.example", 65536]}),
        "three components": cbor.encode({**good, 6: 3}),
        "protocol 1": cbor.encode({**good, 3: 1}),
        "hops beyond the limit": cbor.encode({**good, 13: 200}),
        "a path too long": cbor.encode({**good, 12: ["fw9"] * 17}),
        "octets behind it": encode(1, an_open(chain)) + b"\0",
        "not the shortest form": b"\xb8\x02\x00\x09\x01\x01",
        "empty map": b"\xa0",
    }


def test_malformed_messages_cut_the_connection_in_silence(wide: Chain) -> None:
    for kind, body in malformed(wide).items():
        with alice(wide) as insider:
            insider.send_record(body)
            assert insider.line.ending() == (b"", "closed"), kind
    assert "Traceback" not in wide.relays.logs()


def test_unknown_optional_keys_are_ignored(wide: Chain) -> None:
    """What makes later versions possible; and the control of the test above."""
    request = an_open(wide)
    with alice(wide) as insider:
        insider._number = 1
        insider.send_record(cbor.encode({**cbor.decode(encode(1, request)), 23: "later"}))
        assert isinstance(insider._answer(5), Opened)
        assert isinstance(insider.ask(Close(request.session)), Closed)


# requests ------------------------------------------------------------------------

V4, V6 = parse_address("10.1.0.1"), parse_address("fd00:1::1")

REFUSED: dict[str, tuple[dict[str, Any], Code, str]] = {
    "unknown user": ({"user": "bob"}, Code.USER_NOT_ALLOWED, "fw1"),
    "source port": ({"port": 1000}, Code.ACCESS_DENIED, "fw1"),
    "P1 at a third party": ({"partner": Endpoint.parse("10.3.0.2:5004")}, Code.NOT_PARTNERS_ADDRESS, "fw1"),
    "P1 at a neighbour": ({"partner": Endpoint.parse("10.1.0.9:5004")}, Code.NOT_PARTNERS_ADDRESS, "fw1"),
    "another's origin": ({"origin": Endpoint.parse("10.1.0.9:40000")}, Code.NOT_PARTNERS_ADDRESS, "fw1"),
    "P1 of the other family": ({"partner": Endpoint(V6, 40000)}, Code.NOT_PARTNERS_ADDRESS, "fw1"),
    "iterative, not by the client": ({"way": Way.ITERATIVE, "path": ("fw0",)}, Code.UNEXPECTED, "fw1"),
    "sealed where the last relay can't": (
        {"sealed": True, "server": Target(parse_address("10.3.0.2"), 0)}, Code.SEAL_NOT_AVAILABLE, "fw2",
    ),
    "sealed, and not reserved first": ({"sealed": True}, Code.UNEXPECTED, "fw1"),
    "passed here before": ({"path": ("fw1",)}, Code.LOOP, "fw1"),
    "next relay passed before": ({"path": ("fw2",)}, Code.LOOP, "fw1"),
    "no hops left": ({"hops_left": 0}, Code.TOO_MANY_HOPS, "fw1"),
    "path as long as it gets": ({"path": tuple(f"r{number}" for number in range(16))}, Code.TOO_MANY_HOPS, "fw1"),
    "IPv4 toward IPv6": ({"server": Target(parse_address("fd00:3::2"), 5004)}, Code.MIXED_FAMILIES, "fw1"),
    "a name that does not resolve": ({"server": Target("nowhere.invalid", 5004)}, Code.NAME_NOT_RESOLVED, "fw2"),
    "a name of loopback": ({"server": Target("localhost", 5004)}, Code.LOCAL_TRAFFIC, "fw2"),
    "no route": ({"server": Target(parse_address("192.0.2.9"), 5004)}, Code.NO_ROUTE, "fw2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_requests(wide: Chain, kind: str) -> None:
    changes, code, hop = REFUSED[kind]
    answer = asked(wide, **changes)
    assert isinstance(answer, Error)
    assert (answer.code, answer.hop) == (code, hop), answer.text
    assert len(answer.text) > 20


FORBIDDEN = {
    "127.0.0.1": Code.LOCAL_TRAFFIC,
    "127.255.255.254": Code.FORBIDDEN_TARGET,
    "0.0.0.0": Code.FORBIDDEN_TARGET,
    "0.1.2.3": Code.FORBIDDEN_TARGET,
    "169.254.169.254": Code.FORBIDDEN_TARGET,
    "224.0.0.1": Code.FORBIDDEN_TARGET,
    "239.255.255.250": Code.FORBIDDEN_TARGET,
    "255.255.255.255": Code.FORBIDDEN_TARGET,
    "10.3.0.255": Code.FORBIDDEN_TARGET,  # the broadcast address of the server's network
    "10.3.0.1": Code.LOCAL_TRAFFIC,  # the last relay, toward the server
    "10.2.0.2": Code.LOCAL_TRAFFIC,  # the last relay, toward the first
    "::1": Code.LOCAL_TRAFFIC,
    "::": Code.FORBIDDEN_TARGET,
    "fe80::1": Code.FORBIDDEN_TARGET,
    "ff02::1": Code.FORBIDDEN_TARGET,
    "ff05::1:3": Code.FORBIDDEN_TARGET,
    "fd00:3::1": Code.LOCAL_TRAFFIC,
}


@pytest.mark.parametrize("target", FORBIDDEN)
def test_forbidden_targets(wide: Chain, target: str) -> None:
    """At the last relay, where the address is known, whatever the tables say."""
    address = parse_address(target)
    answer = asked(wide, address.version, server=Target(address, 5004))
    assert isinstance(answer, Error)
    assert (answer.code, answer.hop) == (FORBIDDEN[target], "fw2"), answer.text


@pytest.mark.parametrize("target", ["127.0.0.1", "169.254.169.254", "10.3.0.1", "10.2.0.2", "255.255.255.255"])
def test_forbidden_targets_in_ipv4_mapped_form(wide: Chain, target: str) -> None:
    """As 16 octets on the wire: judged as the IPv4 address that it stands for, over a link of either family."""
    mapped = IPv6Address(f"::ffff:{target}").packed + (5004).to_bytes(2, "big")
    for family, expected in ((4, (FORBIDDEN[target], "fw2")), (6, (Code.MIXED_FAMILIES, "fw1"))):
        with alice(wide, family) as insider:
            insider._number = 1
            insider.send_record(cbor.encode({**cbor.decode(encode(1, an_open(wide, family))), 8: mapped}))
            answer = insider._answer(5)
        assert isinstance(answer, Error)
        assert (answer.code, answer.hop) == expected, answer.text


def test_what_a_relay_says_of_its_clients_is_held_to_the_same(wide: Chain) -> None:
    """Relay 1 as an insider at relay 2: unknown user, source, a third party's P3, the path through itself."""
    first = wide.firewalls[0]
    own = Endpoint(first.right.address(4), 45000)
    good = replace(an_open(wide), partner=own, path=("fw1",))
    cases = {
        Code.ACCESS_DENIED: replace(good, user="bob"),
        Code.NOT_PARTNERS_ADDRESS: replace(good, partner=Endpoint.parse("10.2.0.77:45000")),
        Code.LOOP: replace(good, path=("fw1", "fw2", "fw1")),
    }
    with neighbour(wide, 1) as relay:
        for code, request in cases.items():
            answer = relay.ask(request)
            assert isinstance(answer, Error)
            assert (answer.code, answer.hop) == (code, "fw2")
        strange = relay.ask(replace(good, origin=Endpoint.parse("203.0.113.5:40000")))
        assert isinstance(strange, Error)
        assert (strange.code, strange.hop) == (Code.ACCESS_DENIED, "fw2")
        assert isinstance(relay.ask(good), Opened)
        assert isinstance(relay.ask(Close(good.session)), Closed)


def test_a_client_behind_a_nat_is_told_so(wide: Chain) -> None:
    """It names the address that it has; relay 1 sees another. The text says what it is and what to do."""
    client, end = wide.row.client, wide.row.client_end
    client.run(["ip", "address", "add", f"{NATTED}/32", "dev", "lo"])
    rules = f"ip saddr {NATTED} snat to {end.address(4)}"
    rulesets.load(client, f"table ip nat {{\nchain out {{\ntype nat hook postrouting priority srcnat\n{rules}\n}}\n}}\n")
    try:
        inside: Address = parse_address(NATTED)
        with alice(wide, source=inside) as insider:
            answer = insider.ask(an_open(wide, partner=Endpoint(inside, 40000)))
    finally:
        client.run(["nft", "delete", "table", "ip", "nat"])
        client.run(["ip", "address", "del", f"{NATTED}/32", "dev", "lo"])
    assert isinstance(answer, Error)
    assert (answer.code, answer.hop) == (Code.NOT_PARTNERS_ADDRESS, "fw1")
    for word in ("NAT", NATTED, str(end.address(4)), "peers.toml"):
        assert word in answer.text


def asked(chain: Chain, family: int = 4, **changes: Any) -> Answer:
    """What alice hears from relay 1."""
    insider: Insider
    with alice(chain, family) as insider:
        return insider.ask(an_open(chain, family, **changes))


def test_a_frame_in_single_octets_is_a_frame(wide: Chain) -> None:
    """Slow is not wrong: the control of the truncations."""
    with alice(wide) as insider:
        octets = frame(secrets.token_bytes(40))
        for octet in octets[:-1]:
            insider.line.send(bytes([octet]))
        assert insider.survives(0.1)
