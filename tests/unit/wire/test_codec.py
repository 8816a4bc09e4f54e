"""Messages: round trips, every field strict, and only ProtocolError whatever the octets."""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.errors import Code, ProtocolError
from chainrelay.limits import ERROR_TEXT
from chainrelay.wire import cbor, codec
from chainrelay.wire.endpoint import Endpoint, Target, canonical
from chainrelay.wire.messages import (
    Assigned,
    Bind,
    Close,
    Closed,
    ControlMessage,
    Error,
    Extend,
    Extended,
    HopCounters,
    Message,
    Offer,
    Open,
    Opened,
    Protocol,
    Rekey,
    Rekeyed,
    StatusReport,
    Way,
)
from vectors.make_v1 import MESSAGES, REFUSED, SESSION, V4

sessions = st.binary(min_size=16, max_size=16)
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,20}", fullmatch=True)
names = st.from_regex(r"([a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\.){0,3}[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ports = st.integers(1, 65534)
addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6).map(canonical)
endpoints = st.builds(Endpoint, addresses, ports)
counts = st.integers(0, 2**64 - 1)
counters = st.lists(st.builds(HopCounters, ids, counts, counts, counts, counts), max_size=16).map(tuple)
numbers = st.integers(0, 2**32 - 1)
leases = st.integers(0, 604800)
paths = st.lists(ids, max_size=16).map(tuple)
key_ids = st.binary(min_size=4, max_size=4).map(lambda octets: bytes((0xD0 | octets[0] & 15, *octets[1:3], octets[3] & 0xFE)))
messages = st.one_of(
    st.builds(
        Open,
        session=sessions,
        protocol=st.sampled_from(Protocol),
        way=st.sampled_from(Way),
        sealed=st.booleans(),
        components=st.sampled_from([1, 2]),
        partner=endpoints,
        server=st.builds(Target, addresses | names, st.integers(0, 65534)),
        user=ids,
        origin=endpoints,
        lease=leases,
        path=paths,
        hops_left=st.integers(0, 16),
    ),
    st.builds(Opened, sessions, endpoints, endpoints, st.integers(1, 604800), st.integers(1, 65535), st.booleans(), paths),
    st.builds(Bind, sessions, st.builds(Target, addresses | names, ports)),
    st.builds(Extend, sessions, st.integers(1, 16), ids | st.just(""), ids, numbers, endpoints, st.binary(min_size=1, max_size=300)),
    st.builds(Extended, sessions, endpoints | st.none(), st.binary(min_size=1, max_size=300)),
    st.builds(Assigned, sessions, endpoints, endpoints, endpoints, ids | st.just(""), st.integers(1, 604800), st.integers(1, 65535)),
    st.builds(Rekey, sessions, key_ids),
    st.builds(Rekeyed, sessions, key_ids, endpoints, endpoints, endpoints),
    st.builds(Closed, sessions, counters),
    st.builds(StatusReport, sessions, leases, counters),
    st.builds(
        Error,
        st.sampled_from(Code),
        ids | st.just(""),
        st.text(st.characters(codec="utf-8"), max_size=ERROR_TEXT).filter(str.isprintable),
    ),
    st.builds(Offer, st.sampled_from(Protocol), st.sampled_from([1, 2]), endpoints),
)


@given(numbers, messages)
def test_round_trip(number: int, message: Message | ControlMessage) -> None:
    body = codec.encode(number, message)
    assert cbor.end_of_item(body) == len(body)
    assert codec.decode(body) == (number, message)


def test_every_message_has_a_format_and_a_vector() -> None:
    known = {*get_args(Message), *get_args(ControlMessage)}
    assert {row.message for row in codec.FORMATS} == known == {type(message) for message in MESSAGES}
    assert len({row.number for row in codec.FORMATS}) == len(codec.FORMATS)


@given(st.binary(max_size=200))
def test_random_octets(body: bytes) -> None:
    with suppress(ProtocolError):
        codec.decode(body)


@given(messages, st.data())
def test_any_octet_changed(message: Message, data: st.DataObject) -> None:
    body = bytearray(codec.encode(1, message))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ProtocolError):
        codec.decode(bytes(body))




def _sorted(content: dict[int, Any]) -> dict[int, Any]:
    return dict(sorted(content.items()))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, 23), inner, max_size=3).map(_sorted),
    max_leaves=6,
)


@given(messages, st.data())
def test_any_field_of_any_type(message: Message, data: st.DataObject) -> None:
    content: dict[int, Any] = cbor.decode(codec.encode(1, message))
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(values)
    body = cbor.encode(content)
    try:
        number, decoded = codec.decode(body)
    except ProtocolError:
        return
    again = codec.encode(number, decoded)
    assert codec.decode(again) == (number, decoded)


@pytest.mark.parametrize(("content", "why"), REFUSED)
def test_refusals_name_message_and_field(content: dict[int, Any], why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        codec.decode(cbor.encode(content))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_missing_field_is_named(message: Message | ControlMessage) -> None:
    content = cbor.decode(codec.encode(1, message))
    for key, field in enumerate(dataclasses.fields(message), 2):
        with pytest.raises(ProtocolError, match=f"{field.name}: is missing"):
            codec.decode(cbor.encode({k: v for k, v in content.items() if k != key}))


def test_unknown_keys() -> None:
    content = {0: 7, 1: 3, 2: SESSION, 20: ["new", {1: 2}]}
    assert codec.decode(cbor.encode(content)) == (3, Close(SESSION))
    with pytest.raises(ProtocolError) as caught:
        codec.decode(cbor.encode({**content, -1: True}))
    assert caught.value.code is Code.UNKNOWN_MANDATORY
    with pytest.raises(ProtocolError) as caught:
        codec.decode(cbor.encode({0: 99, 1: 3}))
    assert caught.value.code is Code.UNKNOWN_MANDATORY


@pytest.mark.parametrize("content", [{0: True, 1: 1}, {0: [1], 1: 1}, {0: 7, 1: True, 2: SESSION}, {}, [], 7, None, "x"])
def test_types_are_strict(content: object) -> None:
    with pytest.raises(ProtocolError):
        codec.decode(cbor.encode(content))


def test_mapped_addresses_become_ipv4_in_both_directions() -> None:
    mapped = IPv6Address("::ffff:10.0.0.5")
    plain = Offer(Protocol.UDP, 1, Endpoint(IPv4Address("10.0.0.5"), 9))
    body = cbor.encode({0: 16, 1: 1, 2: 17, 3: 1, 4: mapped.packed + b"\0\x09"})
    assert codec.decode(body) == (1, plain)
    assert codec.encode(1, Offer(Protocol.UDP, 1, Endpoint(mapped, 9))) == codec.encode(1, plain)
    bind = cbor.encode({0: 3, 1: 1, 2: SESSION, 3: mapped.packed + b"\0\x09"})
    assert codec.decode(bind) == (1, Bind(SESSION, Target(plain.server.address, 9)))


def test_a_newer_partners_code_is_a_refusal_all_the_same() -> None:
    assert codec.decode(cbor.encode({0: 11, 1: 1, 2: 999, 3: "fw1", 4: "new"}))[1] == Error(Code.INTERNAL, "fw1", "new")


def test_an_errors_text_always_travels() -> None:
    body = codec.encode(1, Error(Code.INTERNAL, "", "one\ntwo\x1b[0m" + "x" * 2000))
    _, message = codec.decode(body)
    assert isinstance(message, Error)
    assert message.text.startswith("one two [0mxxx")
    assert len(message.text) == ERROR_TEXT


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Close(b"short"), "CLOSE session"),
        (Offer(Protocol.UDP, 3, V4), "OFFER components"),
        (Offer(Protocol.UDP, 1, Endpoint(V4.address, 0)), "OFFER server: port 0"),
        (Offer(Protocol.UDP, 2, Endpoint(V4.address, 65535)), "next port"),
        (Bind(SESSION, Target("Not A Name", 5)), "BIND server"),
        (Error(Code.INTERNAL, "no id", ""), "ERROR hop"),
    ],
)
def test_our_own_bad_values_do_not_travel(message: Message | ControlMessage, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        codec.encode(1, message)


@pytest.mark.parametrize("number", [-1, 2**32])
def test_request_numbers_out_of_range(number: int) -> None:
    with pytest.raises(ProtocolError, match="request number"):
        codec.encode(number, Close(SESSION))


def test_fast_enough_for_the_set_up_rate() -> None:
    """Goal: 30 µs each way. Three times that here, so that a busy machine does not make the test lie."""
    message, count = MESSAGES[0], 2000
    best = {"encode": 1.0, "decode": 1.0}
    body = codec.encode(1, message)
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            codec.encode(1, message)
        encoded = time.process_time()
        for _ in range(count):
            codec.decode(body)
        ended = time.process_time()
        best = {"encode": min(best["encode"], (encoded - began) / count), "decode": min(best["decode"], (ended - encoded) / count)}
    print({name: f"{seconds * 1e6:.1f} µs" for name, seconds in best.items()})
    assert max(best.values()) < 90e-6
