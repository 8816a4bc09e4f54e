"""Operations as changes to the elements of our sets and maps: one transaction. Pure; who runs it: nft_backend.py with
privileged/elements.py.

One builder (`Elements.of`) makes the keys that add and the keys that delete, packed as the kernel holds them: to have
libnftables parse them from text costs ten times as much as the kernel's own work. A `Change` prints as the nft command
that it stands for. Elements of a kind share one change; that is allowed because no two operations of a batch share a
key (`Elements.keys`).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, assert_never

from chainrelay.datapath.mapping import Install, Mapping, Plain, Remove, Renew
from chainrelay.datapath.ruleset import IP, LIVE, TABLE, TO_DESTINATION, TO_SOURCE
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

_KEY_LAYOUT: Final = {4: struct.Struct(">4sB3xH2x4sH2x"), 6: struct.Struct(">16sB3xH2x16sH2x")}
"""A concatenated key in the kernel: each part padded to 4 bytes, network order."""
_DATA_LAYOUT: Final = {4: struct.Struct(">4sH2x"), 6: struct.Struct(">16sH2x")}
"""What a map's key leads to: address and port."""
KEY_SIZES: Final = {layout.size: family for family, layout in _KEY_LAYOUT.items()}


@dataclass(frozen=True, slots=True)
class Tuple:
    """A packet's five fields, as `live` holds them."""

    protocol: Protocol
    source: Endpoint
    destination: Endpoint

    def text(self) -> str:
        """The nft expression of this key."""
        source, destination = self.source, self.destination
        return f"{source.address} . {int(self.protocol)} . {source.port} . {destination.address} . {destination.port}"

    def packed(self) -> bytes:
        """The key as the kernel holds it."""
        source, destination = self.source, self.destination
        return _KEY_LAYOUT[source.family].pack(
            source.address.packed, self.protocol, source.port, destination.address.packed, destination.port
        )

    @staticmethod
    def unpack(key: bytes) -> Tuple:
        """The inverse of `packed`. Raises ValueError for what is no such key."""
        family = KEY_SIZES.get(len(key))
        if family is None:
            raise ValueError(f"a key of {len(key)} bytes")
        address = IPv4Address if family == 4 else IPv6Address
        source, protocol, source_port, destination, destination_port = _KEY_LAYOUT[family].unpack(key)
        return Tuple(
            Protocol(protocol), Endpoint(address(source), source_port), Endpoint(address(destination), destination_port)
        )


@dataclass(frozen=True, slots=True)
class Elements:
    """A mapping as packed elements: keys of `live` and `to_destination`, keys of `to_source`, the data of both maps.

    Per component what the client sends, then what the server sends.
    """

    family: int
    arriving: tuple[bytes, ...]
    destinations: tuple[bytes, ...]
    translated: tuple[bytes, ...]
    sources: tuple[bytes, ...]

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Every key; a mapping that shares one with another can't stand beside it."""
        return self.arriving + self.translated

    @staticmethod
    def of(mapping: Mapping) -> Elements:
        """The one builder."""
        family, protocol = mapping.family, mapping.protocol
        key, data = _KEY_LAYOUT[family].pack, _DATA_LAYOUT[family].pack
        client, entry = mapping.client_partner.address.packed, mapping.client_side.address.packed
        leave, server = mapping.server_side.address.packed, mapping.server_partner.address.packed
        arriving: list[bytes] = []
        destinations: list[bytes] = []
        translated: list[bytes] = []
        sources: list[bytes] = []
        for offset in range(mapping.components):
            client_port, entry_port = mapping.client_partner.port + offset, mapping.client_side.port + offset
            leave_port, server_port = mapping.server_side.port + offset, mapping.server_partner.port + offset
            arriving += (
                key(client, protocol, client_port, entry, entry_port),
                key(server, protocol, server_port, leave, leave_port),
            )
            destinations += (data(server, server_port), data(client, client_port))
            translated += (
                key(client, protocol, client_port, server, server_port),
                key(server, protocol, server_port, client, client_port),
            )
            sources += (data(leave, leave_port), data(entry, entry_port))
        return Elements(family, tuple(arriving), tuple(destinations), tuple(translated), tuple(sources))


def live_keys(mapping: Mapping) -> tuple[bytes, ...]:
    """The packed keys of a mapping in `live`: per component what the client sends, then what the server sends."""
    return Elements.of(mapping).arriving


class Verb(Enum):
    """What happens to elements. ADD leaves one that is there with the same data as it is."""

    ADD = "add"
    DELETE = "delete"


Item = tuple[bytes, bytes, int]
"""An element: packed key, packed data (empty outside maps and where the key says enough), lease in milliseconds (0 = none)."""


@dataclass(frozen=True, slots=True)
class Change:
    """Elements of one set or map that come or go. `str` gives the nft command."""

    verb: Verb
    family: int
    place: str
    elements: list[Item]

    def __str__(self) -> str:
        elements = ", ".join(map(_text, self.elements))
        return f"{self.verb.value} element {IP[self.family]} {TABLE} {self.place} {{ {elements} }}"


Step = tuple[Plain, Elements]


def transaction(steps: Sequence[Step], *, certain: bool) -> list[Change]:
    """All steps as one transaction. No two may share a key.

    `certain`: whatever is renewed or removed is taken to be there; where it is not, the kernel refuses the whole
    transaction with "No such file or directory". Otherwise each element is added before it is deleted, which works on
    one that is missing or has just expired, and a renewal puts back the map elements too; at about twice the price.
    """
    before, delete, after = _Changes(Verb.ADD), _Changes(Verb.DELETE), _Changes(Verb.ADD)
    for operation, elements in steps:
        match operation:
            case Install(lease=lease):
                after.live(elements, lease)
                after.maps(elements)
            case Renew(lease=lease):
                if not certain:
                    before.live(elements, lease)
                    before.maps(elements)
                delete.keys(elements.family, LIVE, elements.arriving)
                after.live(elements, lease)
            case Remove():
                if not certain:
                    before.live(elements, 1.0)
                    before.maps(elements)
                delete.keys(elements.family, LIVE, elements.arriving)
                delete.keys(elements.family, TO_DESTINATION, elements.arriving)
                delete.keys(elements.family, TO_SOURCE, elements.translated)
            case _:
                assert_never(operation)
    return [*before.changes(), *delete.changes(), *after.changes()]


def forget_maps(family: int, destinations: Iterable[tuple[bytes, bytes]]) -> list[Change]:
    """Delete elements of `to_destination`, given as keys and data, and those of `to_source` that belong to them."""
    delete = _Changes(Verb.DELETE)
    for key, data in destinations:
        arriving = Tuple.unpack(key)
        translated = Tuple(arriving.protocol, arriving.source, _unpack_endpoint(data))
        delete.keys(family, TO_DESTINATION, [key])
        delete.keys(family, TO_SOURCE, [translated.packed()])
    return delete.changes()


class _Changes:
    """Elements gathered into one change per family and set."""

    def __init__(self, verb: Verb) -> None:
        self._verb = verb
        self._elements: defaultdict[tuple[int, str], list[Item]] = defaultdict(list)

    def live(self, elements: Elements, lease: float) -> None:
        milliseconds = max(1, int(lease * 1000))
        self._elements[elements.family, LIVE].extend([(key, b"", milliseconds) for key in elements.arriving])

    def maps(self, elements: Elements) -> None:
        to_destination, to_source = self._elements[elements.family, TO_DESTINATION], self._elements[elements.family, TO_SOURCE]
        to_destination.extend([(key, data, 0) for key, data in zip(elements.arriving, elements.destinations, strict=True)])
        to_source.extend([(key, data, 0) for key, data in zip(elements.translated, elements.sources, strict=True)])

    def keys(self, family: int, place: str, keys: Iterable[bytes]) -> None:
        self._elements[family, place].extend([(key, b"", 0) for key in keys])

    def changes(self) -> list[Change]:
        return [Change(self._verb, family, place, elements) for (family, place), elements in self._elements.items()]


def _text(item: Item) -> str:
    key, data, milliseconds = item
    text = Tuple.unpack(key).text()
    if data:
        to = _unpack_endpoint(data)
        text += f" : {to.address} . {to.port}"
    return f"{text} timeout {milliseconds}ms" if milliseconds else text


def _unpack_endpoint(data: bytes) -> Endpoint:
    address, port = data[:-4], int.from_bytes(data[-4:-2])
    return Endpoint(IPv4Address(address) if len(address) == 4 else IPv6Address(address), port)
