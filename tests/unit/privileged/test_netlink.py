"""Netlink messages: what is packed is what the kernel's headers say, what is parsed survives any bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.datapath.nft import Change, Verb
from chainrelay.privileged import netlink

KEY4 = bytes.fromhex("0a000001 11000000 1388 0000 0a000002 4e20 0000")  # 10.0.0.1 . udp . 5000 . 10.0.0.2 . 20000
KEY6 = bytes(15) + b"\1" + bytes([6, 0, 0, 0, 0, 50, 0, 0]) + bytes(15) + b"\2" + bytes([0, 60, 0, 0])


def attribute(kind: int, value: bytes) -> bytes:
    """Written anew here, so that the packer is not tested by itself."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 7, 0) + body


def element(key: bytes, packets: int, octets: int, expires: int = 0) -> bytes:
    counter = attribute(1, octets.to_bytes(8, "big")) + attribute(2, packets.to_bytes(8, "big"))
    expression = attribute(1, b"counter\0") + attribute(0x8002, counter)
    inner = attribute(0x8001, attribute(1, key)) + attribute(5, expires.to_bytes(8, "big")) + attribute(0x8007, expression)
    return attribute(0x8001, inner)


def news(kind: int, table: bytes, name: bytes, *elements: bytes, family: int = 2) -> bytes:
    parts = attribute(1, table + b"\0") + attribute(2, name + b"\0") + attribute(0x8003, b"".join(elements))
    return message(0x0A00 | kind, bytes([family, 0, 0, 0]) + parts)


def test_elements_of_a_deletion_with_their_counters() -> None:
    (only,) = netlink.messages(news(14, b"chainrelay", b"live", element(KEY4, 3, 99, 1500), element(KEY4, 0, 0)))
    assert only.kind == netlink.DELETE_ELEMENT
    parsed = netlink.parse_news(only)
    assert (parsed.family, parsed.table, parsed.set) == (4, "chainrelay", "live")
    assert parsed.elements() == [netlink.Element(KEY4, b"", 1500, 3, 99), netlink.Element(KEY4)]


def test_a_counter_in_a_list_of_expressions_and_data_of_a_map() -> None:
    counter = attribute(1, (5).to_bytes(8, "big")) + attribute(2, (1).to_bytes(8, "big"))
    listed = attribute(0x800B, attribute(0x8001, attribute(1, b"counter\0") + attribute(0x8002, counter)))
    data = attribute(0x8002, attribute(1, b"\x01\x02\x03\x04\0\5\0\0"))
    inner = attribute(0x8001, attribute(0x8001, attribute(1, KEY6)) + listed + data)
    (only,) = netlink.messages(news(12, b"t", b"m", inner, family=10))
    parsed = netlink.parse_news(only)
    assert parsed.family == 6
    assert parsed.elements() == [netlink.Element(KEY6, b"\x01\x02\x03\x04\0\5\0\0", 0, 1, 5)]


def test_other_expressions_count_nothing() -> None:
    quota = attribute(1, b"quota\0") + attribute(0x8002, attribute(1, bytes(8)) + attribute(2, b"\xff" * 8))
    inner = attribute(0x8001, attribute(0x8001, attribute(1, KEY4)) + attribute(0x8007, quota))
    (only,) = netlink.messages(news(14, b"t", b"s", inner))
    assert netlink.parse_news(only).elements() == [netlink.Element(KEY4)]


def test_several_messages_in_one_datagram_padding_included() -> None:
    two = [each.body for each in netlink.messages(message(1, b"abc") + b"\0" + message(2, b"defg"))]
    assert two == [b"abc", b"defg"]


@pytest.mark.parametrize("key", [KEY4, KEY6], ids=["v4", "v6"])
def test_a_deletion_names_the_tuple_and_reads_back(key: bytes) -> None:
    (only,) = netlink.messages(netlink.delete_entry(key, 9))
    assert (only.kind, only.flags, only.sequence) == (0x0102, netlink.REQUEST, 9)
    assert only.body[0] == (2 if len(key) == 20 else 10)
    assert netlink.parse_entry(only) == key


def test_an_entry_of_another_protocol_is_passed_over() -> None:
    addresses = attribute(0x8001, attribute(1, bytes(4)) + attribute(2, bytes(4)))
    icmp = attribute(0x8001, addresses + attribute(0x8002, attribute(1, b"\1")))
    (only,) = netlink.messages(message(0x0100, bytes(4) + icmp))
    assert netlink.parse_entry(only) is None


def test_an_entry_without_ports_is_malformed() -> None:
    addresses = attribute(0x8001, attribute(1, bytes(4)) + attribute(2, bytes(4)))
    udp = attribute(0x8001, addresses + attribute(0x8002, attribute(1, b"\x11")))
    (only,) = netlink.messages(message(0x0100, bytes(4) + udp))
    with pytest.raises(ValueError, match="attribute"):
        netlink.parse_entry(only)


@pytest.mark.parametrize("length", [0, 15, 18, 4000])
def test_a_length_that_does_not_fit_is_malformed(length: int) -> None:
    with pytest.raises(ValueError, match="netlink message"):
        list(netlink.messages(struct.pack("=IHHII", length, 1, 0, 0, 0) + b"x"))


@given(st.binary(max_size=200), st.sampled_from([0x0A0C, 0x0A0E, 0x0100]))
def test_any_bytes_give_a_value_or_a_value_error(body: bytes, kind: int) -> None:
    only = netlink.Message(kind, 0, 0, body)
    for parse in (lambda: netlink.parse_news(only).elements(), lambda: netlink.parse_entry(only)):
        try:
            parse()
        except ValueError as fault:
            assert str(fault)


def test_a_transaction_is_what_the_kernels_headers_say() -> None:
    data = bytes([10, 2, 0, 2, 0x9C, 0x41, 0, 0])
    changes = [
        Change(Verb.DELETE, 6, "live", [(KEY6, b"", 0)]),
        Change(Verb.ADD, 4, "live", [(KEY4, b"", 2500)] * 2),
        Change(Verb.ADD, 4, "to_source", [(KEY4, data, 0)]),
    ]
    key4, key6 = attribute(0x8001, attribute(1, KEY4)), attribute(0x8001, attribute(1, KEY6))
    leased = attribute(0x8001, key4 + attribute(4, (2500).to_bytes(8, "big")))
    mapped = attribute(0x8001, key4 + attribute(0x8002, attribute(1, data)))
    assert netlink.transaction(changes, 7) == b"".join(
        (
            message(16, b"\0\0\0\x0a", 1),
            message(0x0A0E, news(14, b"chainrelay", b"live", attribute(0x8001, key6), family=10)[16:], 1),
            message(0x0A0C, news(12, b"chainrelay", b"live", leased, leased)[16:], 0x401),
            message(0x0A0C, news(12, b"chainrelay", b"to_source", mapped)[16:], 0x405),
            message(17, b"\0\0\0\x0a", 1),
        )
    )


@pytest.mark.parametrize(("count", "cut"), [(882, 1), (883, 2), (4000, 5)])
def test_a_message_holds_no_more_elements_than_an_attribute_can(count: int, cut: int) -> None:
    packed = netlink.transaction([Change(Verb.ADD, 6, "live", [(KEY6, b"", 9)] * count)], 1)
    begin, *changes, end = netlink.messages(packed)
    assert (begin.kind, end.kind, len(changes)) == (16, 17, cut)
    assert [bool(change.flags & 4) for change in changes] == [False] * (cut - 1) + [True]
    assert sum(len(netlink.parse_news(change).elements()) for change in changes) == count
