"""What travels between agent and datapath helper (docs/design.md §14): questions and answers as octets and back. Pure.

One packet is one deterministic CBOR array that begins with the verb. The verbs are those of backend.py and no more; their
arguments are values of mapping.py. Who decodes believes nothing: a ProtocolError for whatever is not exactly such a value.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from chainrelay.datapath.mapping import (
    Counters,
    Done,
    Failed,
    Install,
    LiveFlow,
    Mapping,
    Operation,
    Outcome,
    Rekey,
    Remove,
    Renew,
)
from chainrelay.errors import DatapathError, ProtocolError
from chainrelay.limits import ABSOLUTE_LIMIT, BATCH, ERROR_TEXT, SESSION_ID_LENGTH
from chainrelay.wire import cbor
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import IV_LENGTH, KEY_ID_LENGTH, SealKeys, is_key_id

VERSION: Final = 2
PACKET: Final = 64 * 1024  # octets: BATCH mappings of IPv6 with their keys are 52 KiB; the kernel's default socket buffer holds three
_LONGEST_LEASE: Final = 1000 * 10 * ABSOLUTE_LIMIT  # milliseconds
_LARGEST_COUNT: Final = 2**64 - 1
_KEYS: Final = struct.Struct(f"{KEY_ID_LENGTH}s32s{IV_LENGTH}s32s{IV_LENGTH}s")
"""A set of data keys, in the order of SealKeys."""


class Verb(IntEnum):
    """The first item of every packet."""

    HELLO = 0
    SETUP = 1
    APPLY = 2
    COUNTERS = 3
    FLOWS = 4
    FLUSH_OWN = 5
    INTACT = 6
    REFUSED = 7
    """Only as an answer: the verb failed."""
    SEALS = 8


@dataclass(frozen=True, slots=True)
class Question:
    """What the agent asks. `operations` with APPLY, `mappings` with COUNTERS, `version` with HELLO."""

    verb: Verb
    operations: tuple[Operation, ...] = ()
    mappings: tuple[Mapping, ...] = ()
    version: int = VERSION


# questions -----------------------------------------------------------------------


def hello() -> bytes:
    """The first packet of each side."""
    return cbor.encode([int(Verb.HELLO), VERSION])


def plain(verb: Verb) -> bytes:
    """A question without arguments, or the answer that it was done."""
    return cbor.encode([int(verb)])


def apply(operations: Sequence[Operation]) -> bytes:
    """APPLY of at most BATCH operations."""
    return cbor.encode([int(Verb.APPLY), [_pack_operation(each) for each in operations]])


def counters(mappings: Sequence[Mapping]) -> bytes:
    """COUNTERS of at most BATCH mappings."""
    return cbor.encode([int(Verb.COUNTERS), [_pack_mapping(each) for each in mappings]])


def read_question(packet: bytes) -> Question:
    """A question. Raises ProtocolError."""
    match _decode(packet):
        case [Verb.HELLO, int(version)]:
            return Question(Verb.HELLO, version=version)
        case [(Verb.SETUP | Verb.FLOWS | Verb.FLUSH_OWN | Verb.INTACT | Verb.SEALS) as verb]:
            return Question(Verb(verb))
        case [Verb.APPLY, list(packed)]:
            return Question(Verb.APPLY, operations=tuple(map(_operation, _at_most(packed))))
        case [Verb.COUNTERS, list(packed)]:
            return Question(Verb.COUNTERS, mappings=tuple(map(_mapping, _at_most(packed))))
        case _:
            raise ProtocolError("no verb with its arguments")


# answers ---------------------------------------------------------------------------


def outcomes(found: Sequence[Outcome]) -> bytes:
    """The answer to APPLY, an outcome per operation in their order."""
    packed = [
        [each.why[:ERROR_TEXT], each.full, each.keyless] if isinstance(each, Failed) else _pack_counters(each.counters)
        for each in found
    ]
    return cbor.encode([int(Verb.APPLY), packed])


def counted(found: Sequence[Counters]) -> bytes:
    """The answer to COUNTERS."""
    return cbor.encode([int(Verb.COUNTERS), [_pack_counters(each) for each in found]])


def flows(found: Sequence[LiveFlow]) -> list[bytes]:
    """The answer to FLOWS, in as many packets as it takes."""
    pages = [found[at : at + BATCH] for at in range(0, len(found), BATCH)] or [()]
    return [
        cbor.encode([int(Verb.FLOWS), page is not pages[-1], [_pack_flow(each) for each in page]]) for page in pages
    ]


def whether(verb: Verb, yes: bool) -> bytes:
    """The answer to INTACT or SEALS."""
    return cbor.encode([int(verb), yes])


def refused(why: DatapathError) -> bytes:
    """The verb failed."""
    return cbor.encode([int(Verb.REFUSED), str(why)[:ERROR_TEXT], why.full])


def read_answer(verb: Verb, packet: bytes) -> list[Any]:
    """The items of the answer to `verb`, without the verb. Raises DatapathError for REFUSED, ProtocolError for anything else."""
    answer = _decode(packet)
    match answer:
        case [Verb.REFUSED, str(why), bool(full)]:
            raise DatapathError(why, full=full)
        case [got, *rest] if got == verb and type(got) is int:
            return rest
        case _:
            raise ProtocolError(f"no answer to {verb.name}")


def read_outcomes(packet: bytes, count: int) -> list[Outcome]:
    """The answer to APPLY of `count` operations. Raises DatapathError, ProtocolError."""
    return [_outcome(each) for each in _exactly(read_answer(Verb.APPLY, packet), count)]


def read_counted(packet: bytes, count: int) -> list[Counters]:
    """The answer to COUNTERS of `count` mappings. Raises DatapathError, ProtocolError."""
    return [_counters(each) for each in _exactly(read_answer(Verb.COUNTERS, packet), count)]


def read_flows(packet: bytes) -> tuple[list[LiveFlow], bool]:
    """One page of the answer to FLOWS, and whether more follow. Raises DatapathError, ProtocolError."""
    match read_answer(Verb.FLOWS, packet):
        case [bool(more), list(packed)]:
            return [_flow(each) for each in _at_most(packed)], more
        case _:
            raise ProtocolError("no page of flows")


def read_whether(verb: Verb, packet: bytes) -> bool:
    """The answer to INTACT or SEALS. Raises DatapathError, ProtocolError."""
    match read_answer(verb, packet):
        case [bool(yes)]:
            return yes
        case _:
            raise ProtocolError(f"no answer to {verb.name}")


# values ----------------------------------------------------------------------------


def _pack_operation(operation: Operation) -> list[object]:
    match operation:
        case Install(mapping, lease, SealKeys() as keys):
            return [4, int(lease * 1000), _KEYS.pack(*astuple(keys)), *_pack_mapping(mapping)]
        case Install(mapping, lease):
            return [1, int(lease * 1000), *_pack_mapping(mapping)]
        case Renew(mapping, lease):
            return [2, int(lease * 1000), *_pack_mapping(mapping)]
        case Remove(mapping, linger):
            return [3, linger, *_pack_mapping(mapping)]
        case Rekey(mapping, keys):
            return [5, _KEYS.pack(*astuple(keys)), *_pack_mapping(mapping)]


def _operation(packed: object) -> Operation:
    """Install and Rekey have keys if the mapping is sealed, and not otherwise."""
    match packed:
        case [1, int(lease), *mapping] if 0 <= lease <= _LONGEST_LEASE:
            return Install(_mapping(mapping, sealed=False), lease / 1000)
        case [4, int(lease), bytes(keys), *mapping] if 0 <= lease <= _LONGEST_LEASE:
            return Install(_mapping(mapping, sealed=True), lease / 1000, _keys(keys))
        case [5, bytes(keys), *mapping]:
            return Rekey(_mapping(mapping, sealed=True), _keys(keys))
        case [2, int(lease), *mapping] if 0 <= lease <= _LONGEST_LEASE:
            return Renew(_mapping(mapping), lease / 1000)
        case [3, bool(linger), *mapping]:
            return Remove(_mapping(mapping), linger)
        case _:
            raise ProtocolError("no operation")


def _pack_mapping(mapping: Mapping) -> list[object]:
    one = mapping
    ends = (one.client_partner, one.client_side, one.server_side, one.server_partner)
    octets = [end.address.packed + end.port.to_bytes(2, "big") for end in ends]
    return [one.session, int(one.protocol), one.components, one.sealed, *octets]


def _mapping(packed: object, *, sealed: bool | None = None) -> Mapping:
    """`sealed`: what it has to be."""
    match packed:
        case [bytes(session), int(protocol), int(components), bool(seal), bytes(), bytes(), bytes(), bytes()] if (
            len(session) == SESSION_ID_LENGTH and protocol in (6, 17) and components in (1, 2)
        ):
            ends = [_endpoint(each, components) for each in packed[4:]]
        case _:
            raise ProtocolError("no mapping")
    if len({end.family for end in ends}) != 1:
        raise ProtocolError("a mapping of two families")
    if (seal and protocol != Protocol.UDP) or sealed not in (None, seal):
        raise ProtocolError("a mapping that is sealed and should not be, or the other way round")
    return Mapping(session, Protocol(protocol), components, *ends, sealed=seal)


def _keys(octets: bytes) -> SealKeys:
    """Without a word about what they are, should they be wrong."""
    if len(octets) != _KEYS.size or not is_key_id(octets[:KEY_ID_LENGTH]):
        raise ProtocolError("no data keys")
    return SealKeys(*_KEYS.unpack(octets))


def _endpoint(packed: object, components: int = 1) -> Endpoint:
    if type(packed) is not bytes or len(packed) not in (6, 18):
        raise ProtocolError("no endpoint")
    port = int.from_bytes(packed[-2:], "big")
    if not 1 <= port <= 65536 - components:
        raise ProtocolError(f"port {port} of {components}")
    return Endpoint(_address(packed[:-2]), port)


@lru_cache(4096)
def _address(octets: bytes) -> Address:
    address: Address = IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)
    if address.is_unspecified or address.is_multicast or (isinstance(address, IPv6Address) and address.ipv4_mapped):
        raise ProtocolError(f"{address} is nobody's address")
    return address


def _pack_counters(found: Counters) -> list[object]:
    return [found.to_server_packets, found.to_server_bytes, found.to_client_packets, found.to_client_bytes]


def _counters(packed: object) -> Counters:
    if type(packed) is not list or len(packed) != 4 or not all(type(each) is int and 0 <= each <= _LARGEST_COUNT for each in packed):
        raise ProtocolError("no counters")
    return Counters(*packed)


def _outcome(packed: object) -> Outcome:
    match packed:
        case [str(why), bool(full), bool(keyless)]:
            return Failed(why, full, keyless)
        case _:
            return Done(_counters(packed))


def _pack_flow(flow: LiveFlow) -> list[object]:
    ends = [end.address.packed + end.port.to_bytes(2, "big") for end in (flow.source, flow.destination)]
    return [int(flow.protocol), *ends, int(max(flow.expires, 0) * 1000), flow.packets, flow.octets, flow.sealed]


def _flow(packed: object) -> LiveFlow:
    match packed:
        case [int(protocol), bytes(source), bytes(destination), int(left), int(packets), int(octets), bool(sealed)] if (
            protocol in (6, 17) and left >= 0 and packets >= 0 and octets >= 0
        ):
            ends = _endpoint(source), _endpoint(destination)
            return LiveFlow(Protocol(protocol), *ends, left / 1000, packets, octets, sealed=sealed)
        case _:
            raise ProtocolError("no flow")


def _decode(packet: bytes) -> list[Any]:
    if len(packet) > PACKET:
        raise ProtocolError(f"a packet of more than {PACKET} octets")
    value = cbor.decode(packet)
    if type(value) is not list or not value or type(value[0]) is not int:
        raise ProtocolError("a packet is an array that begins with its verb")
    return value


def _at_most(packed: list[Any]) -> list[Any]:
    if len(packed) > BATCH:
        raise ProtocolError(f"more than {BATCH} at once")
    return packed


def _exactly(rest: list[Any], count: int) -> list[Any]:
    match rest:
        case [list(packed)] if len(packed) == count:
            return packed
        case _:
            raise ProtocolError(f"not {count} answers to {count} questions")
