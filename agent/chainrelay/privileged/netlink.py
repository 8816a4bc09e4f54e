"""Netfilter's netlink messages, packed and parsed. Pure: bytes and values, no socket.

What libnftables does not give: elements with their counters as the kernel announces them when they are deleted, and
conntrack entries by tuple. And what it gives at ten times the price: transactions of elements. Layouts: linux/netlink.h,
nfnetlink.h, nf_tables.h, nfnetlink_conntrack.h. Netlink headers are in the machine's order, netfilter's values in
network order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from chainrelay.datapath.nft import KEY_SIZES, Change, Item, Verb
from chainrelay.datapath.ruleset import TABLE
from chainrelay.wire.messages import Protocol

HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
GENERIC: Final = struct.Struct("!BBH")  # family, version, resource id
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF  # without the flags "nested" and "network order"
_NESTED: Final = 0x8000

# nlmsg types and flags
ERROR, DONE, OVERRUN = 2, 3, 4
REQUEST, ACK, DUMP_INTERRUPTED, DUMP, CREATE = 0x1, 0x4, 0x10, 0x300, 0x400
_BATCH_BEGIN, _BATCH_END = 16, 17

# nf_tables: subsystem 10
_NFTABLES: Final = 10 << 8
_SUBSYSTEM: Final = GENERIC.pack(0, 0, 10)  # what a batch is for
GET_RULE = _NFTABLES | 7
_RULE_TABLE, _RULE_CHAIN = 1, 2
NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = _NFTABLES | 12, _NFTABLES | 13, _NFTABLES | 14
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEMENT = 1
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_TIMEOUT, _ELEMENT_EXPIRATION, _ELEMENT_EXPRESSION, _ELEMENT_EXPRESSIONS = 1, 2, 4, 5, 7, 11
_DATA_VALUE = 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2

# conntrack: subsystem 1
_CONNTRACK: Final = 1 << 8
NEW_ENTRY, GET_ENTRY, DELETE_ENTRY = _CONNTRACK | 0, _CONNTRACK | 1, _CONNTRACK | 2
_ENTRY_ORIGINAL, _ENTRY_MARK, _ENTRY_MARK_MASK = 1, 8, 21
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_IP_SOURCE, _IP_DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}
_PROTOCOL_NUMBER, _PROTOCOL_SOURCE_PORT, _PROTOCOL_DESTINATION_PORT = 1, 2, 3

ADDRESS_FAMILY: Final = {4: 2, 6: 10}
"""AF_INET and AF_INET6, which nf_tables writes for its own families as well."""


class Message(NamedTuple):
    """One netlink message without its header. Thousands come at once, hence the cheapest kind of value."""

    kind: int
    flags: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set or map."""

    key: bytes
    data: bytes = b""
    expires: int = 0
    """Milliseconds; 0 where the set has no timeouts."""
    packets: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class ElementNews:
    """What one message says about elements of one set; `elements` reads them only for who wants to know."""

    family: int
    table: str
    set: str
    raw: bytes

    def elements(self) -> list[Element]:
        """Raises ValueError for a malformed list."""
        return [_element(each) for kind, each in attributes(self.raw) if kind == _LIST_ELEMENT]


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one received datagram. Raises ValueError when a length does not fit."""
    offset = 0
    while len(datagram) - offset >= HEADER.size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        if not HEADER.size <= length <= len(datagram) - offset:
            raise ValueError(f"netlink message of {length} bytes, {len(datagram) - offset} left")
        yield Message(kind, flags, sequence, datagram[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3


def attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Type (flags stripped) and value of each attribute. Raises ValueError when a length does not fit."""
    offset = 0
    while len(octets) - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(octets, offset)
        if not _ATTRIBUTE.size <= length <= len(octets) - offset:
            raise ValueError(f"netlink attribute of {length} bytes, {len(octets) - offset} left")
        yield kind & _TYPE_MASK, octets[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def error_number(message: Message) -> int:
    """The errno of an ERROR message, 0 for an acknowledgement."""
    return -int(struct.unpack_from("=i", message.body)[0])


def parse_news(message: Message) -> ElementNews:
    """A NEW_ELEMENT or DELETE_ELEMENT message. Raises ValueError for what is none."""
    if len(message.body) < GENERIC.size:
        raise ValueError(f"nf_tables message of {len(message.body)} bytes")
    parts = dict(attributes(message.body[GENERIC.size :]))
    table, name = parts.get(_LIST_TABLE, b"").rstrip(b"\0").decode(), parts.get(_LIST_SET, b"").rstrip(b"\0").decode()
    return ElementNews(6 if message.body[0] == ADDRESS_FAMILY[6] else 4, table, name, parts.get(_LIST_ELEMENTS, b""))


def _element(octets: bytes) -> Element:
    key = data = b""
    expires = packets = total = 0
    for kind, value in attributes(octets):
        if kind == _ELEMENT_KEY:
            key = _value(value)
        elif kind == _ELEMENT_DATA:
            data = _value(value)
        elif kind == _ELEMENT_EXPIRATION:
            expires = int.from_bytes(value)
        elif kind == _ELEMENT_EXPRESSION:
            packets, total = _counter(value)
        elif kind == _ELEMENT_EXPRESSIONS:
            for _, expression in attributes(value):
                packets, total = _counter(expression)
    return Element(key, data, expires, packets, total)


def _value(octets: bytes) -> bytes:
    return next((value for kind, value in attributes(octets) if kind == _DATA_VALUE), b"")


def _counter(octets: bytes) -> tuple[int, int]:
    found = dict(attributes(octets))
    if found.get(_EXPRESSION_NAME, b"").rstrip(b"\0") != b"counter":
        return 0, 0
    numbers = dict(attributes(found.get(_EXPRESSION_DATA, b"")))
    return int.from_bytes(numbers.get(_COUNTER_PACKETS, b"")), int.from_bytes(numbers.get(_COUNTER_BYTES, b""))


_KEY: Final = {size: struct.Struct(f"=HHHHHH{size}s") for size in KEY_SIZES}
"""An element up to the end of its key: the heads of element, key and value; by the size of the key."""
_LEASE: Final = struct.Struct(">Q")
_ELEMENTS_LONGEST: Final = 60_000  # octets of elements in one message: an attribute's length has 16 bits


def transaction(changes: Sequence[Change], sequence: int) -> bytes:
    """All changes or none. The last message asks for an acknowledgement, so that silence is not taken for success."""
    parts = [(change, run) for change in changes for run in _runs([_packed(each) for each in change.elements])]
    begin, end = (HEADER.pack(HEADER.size + GENERIC.size, kind, REQUEST, sequence, 0) + _SUBSYSTEM for kind in (_BATCH_BEGIN, _BATCH_END))
    requests = [_change(change, run, ACK if index == len(parts) else 0, sequence) for index, (change, run) in enumerate(parts, 1)]
    return b"".join((begin, *requests, end))


def _change(change: Change, elements: bytes, flags: int, sequence: int) -> bytes:
    kind, flags = (NEW_ELEMENT, flags | CREATE) if change.verb is Verb.ADD else (DELETE_ELEMENT, flags)
    where = attribute(_LIST_TABLE, TABLE.encode() + b"\0") + attribute(_LIST_SET, change.place.encode() + b"\0")
    return _message(kind, REQUEST | flags, sequence, change.family, where + nest(_LIST_ELEMENTS, elements))


def _packed(item: Item) -> bytes:
    """One element. The nests' heads are written at once: this runs six times for every session."""
    key, data, lease = item
    rest = b""
    if data:
        rest = nest(_ELEMENT_DATA, attribute(_DATA_VALUE, data))
    elif lease:
        rest = attribute(_ELEMENT_TIMEOUT, _LEASE.pack(lease))
    size = len(key)
    heads = 12 + size + len(rest), _LIST_ELEMENT | _NESTED, 8 + size, _ELEMENT_KEY | _NESTED, 4 + size, _DATA_VALUE
    return _KEY[size].pack(*heads, key) + rest


def _runs(elements: Sequence[bytes]) -> Iterator[bytes]:
    """Elements joined, as many as one message may hold."""
    per_message = _ELEMENTS_LONGEST // max(map(len, elements))
    for start in range(0, len(elements), per_message):
        yield b"".join(elements[start : start + per_message])


def get_elements(family: int, table: str, name: str, sequence: int, key: bytes | None = None) -> bytes:
    """Ask for one element, or (without a key) for all of them."""
    body = attribute(_LIST_TABLE, table.encode() + b"\0") + attribute(_LIST_SET, name.encode() + b"\0")
    if key is not None:
        element = nest(_LIST_ELEMENT, nest(_ELEMENT_KEY, attribute(_DATA_VALUE, key)))
        body += nest(_LIST_ELEMENTS, element)
    return _message(GET_ELEMENT, REQUEST if key is not None else REQUEST | DUMP, sequence, family, body)


def get_rules(family: int, table: str, chain: str, sequence: int) -> bytes:
    """Ask for all rules of a chain; none are answered where it is not there."""
    body = attribute(_RULE_TABLE, table.encode() + b"\0") + attribute(_RULE_CHAIN, chain.encode() + b"\0")
    return _message(GET_RULE, REQUEST | DUMP, sequence, family, body)


def delete_entry(key: bytes, sequence: int) -> bytes:
    """Delete the conntrack entry that has this tuple (a key of `live`) in either direction. Only an error is answered."""
    family = KEY_SIZES[len(key)]
    return _message(DELETE_ENTRY, REQUEST, sequence, family, _entry_tuple(family, key))


def list_entries(mark: int, mask: int, sequence: int) -> bytes:
    """Ask for all conntrack entries, of any family, whose mark has `mark` under `mask`."""
    body = attribute(_ENTRY_MARK, mark.to_bytes(4)) + attribute(_ENTRY_MARK_MASK, mask.to_bytes(4))
    return HEADER.pack(HEADER.size + GENERIC.size + len(body), GET_ENTRY, REQUEST | DUMP, sequence, 0) + bytes(4) + body


def parse_entry(message: Message) -> bytes | None:
    """The original tuple of a NEW_ENTRY message as a key of `live`; None for a protocol that is not relayed. Raises ValueError."""
    return next((_entry_key(value) for kind, value in attributes(message.body[GENERIC.size :]) if kind == _ENTRY_ORIGINAL), None)


def _entry_key(octets: bytes) -> bytes | None:
    parts = dict(attributes(octets))
    addresses, numbers = dict(attributes(parts.get(_TUPLE_IP, b""))), dict(attributes(parts.get(_TUPLE_PROTOCOL, b"")))
    protocol = numbers.get(_PROTOCOL_NUMBER, b"\0")
    if protocol[0] not in tuple(Protocol):
        return None
    family = 4 if _IP_SOURCE[4] in addresses else 6
    try:
        source, destination = addresses[_IP_SOURCE[family]], addresses[_IP_DESTINATION[family]]
        ports = numbers[_PROTOCOL_SOURCE_PORT], numbers[_PROTOCOL_DESTINATION_PORT]
    except KeyError as missing:
        raise ValueError(f"conntrack tuple without attribute {missing}") from missing
    return source + protocol + bytes(3) + ports[0] + bytes(2) + destination + ports[1] + bytes(2)


def _entry_tuple(family: int, key: bytes) -> bytes:
    size = 4 if family == 4 else 16
    addresses = attribute(_IP_SOURCE[family], key[:size]) + attribute(_IP_DESTINATION[family], key[size + 8 : -4])
    protocol = (
        attribute(_PROTOCOL_NUMBER, key[size : size + 1])
        + attribute(_PROTOCOL_SOURCE_PORT, key[size + 4 : size + 6])
        + attribute(_PROTOCOL_DESTINATION_PORT, key[-4:-2])
    )
    return nest(_ENTRY_ORIGINAL, nest(_TUPLE_IP, addresses) + nest(_TUPLE_PROTOCOL, protocol))


def _message(kind: int, flags: int, sequence: int, family: int, body: bytes) -> bytes:
    header = HEADER.pack(HEADER.size + GENERIC.size + len(body), kind, flags, sequence, 0)
    return header + GENERIC.pack(ADDRESS_FAMILY[family], 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nest(kind: int, value: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, value)
