"""The kinds of fields: how one value of a message travels, and what it may be. codec.py says which message has which.

A `Kind` checks and converts in both directions, so a bad value is found at the side that made it. It raises ValueError;
the field's name is codec.py's to add.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final

from chainrelay.errors import Code
from chainrelay.limits import ABSOLUTE_LIMIT, ERROR_TEXT, MAX_HOPS, SESSION_ID_LENGTH
from chainrelay.wire.endpoint import Address, Endpoint, Target, canonical
from chainrelay.wire.messages import HopCounters, Protocol, Way
from chainrelay.wire.names import is_id, is_name
from chainrelay.wire.sealed import is_key_id

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Kind:
    """How one field travels. Both functions raise ValueError, with what is wrong, for a value out of type or range."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _integer(lowest: int, highest: int) -> Kind:
    def checked(value: object) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise ValueError(f"{value!r:.40} is not an integer {lowest}-{highest}")
        return value

    return Kind(checked, checked)


def _enumeration(members: type[Protocol | Way]) -> Kind:
    known = {int(member): member for member in members}

    def unpack(value: object) -> Protocol | Way:
        member = known.get(value) if type(value) is int else None
        if member is None:
            raise ValueError(f"{value!r:.40} is none of {', '.join(map(str, known))}")
        return member

    return Kind(int, unpack)


def _boolean(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r:.40} is not true or false")
    return value


def _session(value: object) -> bytes:
    if type(value) is not bytes or len(value) != SESSION_ID_LENGTH:
        raise ValueError(f"{value!r:.40} is not {SESSION_ID_LENGTH} octets")
    return value


def _key_id(value: object) -> bytes:
    if type(value) is not bytes or not is_key_id(value):
        raise ValueError(f"{value!r:.40} is not the id of a data key")
    return value


def _id(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r:.80} is not an id")
    return _known_id(value)


@lru_cache(1024)  # messages name the same few users and relays; what fails is not kept
def _known_id(text: str) -> str:
    if not is_id(text):
        raise ValueError(f"{text!r:.80} is not an id")
    return text


def _id_or_empty(value: object) -> str:
    return "" if value == "" else _id(value)


def _pack_endpoint(value: Endpoint, lowest: int = 1) -> bytes:
    if not lowest <= value.port <= 65535:
        raise ValueError(f"port {value.port} is not {lowest}-65535")
    return canonical(value.address).packed + value.port.to_bytes(2, "big")


def _unpack_endpoint(value: object, lowest: int = 1) -> Endpoint:
    if type(value) is not bytes:
        raise ValueError(f"{value!r:.40} is not an endpoint")
    port = int.from_bytes(value[-2:], "big")
    if port < lowest:
        raise ValueError("port 0")
    if len(value) not in (6, 18):
        raise ValueError(f"an endpoint has 6 or 18 octets, not {len(value)}")
    return Endpoint(_address(value[:-2]), port)


@lru_cache(4096)  # ports differ, hosts recur; and sessions that share the object take less memory
def _address(octets: bytes) -> Address:
    return IPv4Address(octets) if len(octets) == 4 else canonical(IPv6Address(octets))


def _pack_endpoint_or_none(value: Endpoint | None) -> bytes | None:
    return None if value is None else _pack_endpoint(value)


def _unpack_endpoint_or_none(value: object) -> Endpoint | None:
    return None if value is None else _unpack_endpoint(value)


def _octets(value: object) -> bytes:
    if type(value) is not bytes or not value:
        raise ValueError(f"{value!r:.40} is not octets")
    return value


def _target(lowest: int) -> Kind:
    def pack(value: Target) -> object:
        if not isinstance(value.host, str):
            return _pack_endpoint(Endpoint(value.host, value.port), lowest)
        return [*_name_and_port(value.host, value.port)]

    def unpack(value: object) -> Target:
        if type(value) is bytes:
            endpoint = _unpack_endpoint(value, lowest)
            return Target(endpoint.address, endpoint.port)
        if type(value) is not list or len(value) != 2:
            raise ValueError(f"{value!r:.40} is not an endpoint or a name with a port")
        return Target(*_name_and_port(*value))

    def _name_and_port(name: object, port: object) -> tuple[str, int]:
        if type(name) is not str or not is_name(name):
            raise ValueError(f"{name!r:.80} is not a host name")
        if type(port) is not int or not lowest <= port <= 65535:
            raise ValueError(f"port {port!r:.40} is not {lowest}-65535")
        return name, port

    return Kind(pack, unpack)


def _path(value: object) -> tuple[str, ...]:
    if type(value) not in (list, tuple) or len(value) > MAX_HOPS:  # type: ignore[arg-type]
        raise ValueError(f"{value!r:.40} is not a list of at most {MAX_HOPS} ids")
    return tuple(_id(item) for item in value)  # type: ignore[attr-defined]


def _pack_counters(value: tuple[HopCounters, ...]) -> list[list[object]]:
    return [
        [hop.hop, hop.to_server_packets, hop.to_server_bytes, hop.to_client_packets, hop.to_client_bytes]
        for hop in value
    ]


def _unpack_counters(value: object) -> tuple[HopCounters, ...]:
    if type(value) is not list or len(value) > MAX_HOPS:
        raise ValueError(f"{value!r:.40} is not a list of at most {MAX_HOPS} hops")
    return tuple(map(_hop_counters, value))


def _hop_counters(value: object) -> HopCounters:
    if type(value) is not list or len(value) != 5:
        raise ValueError(f"{value!r:.40} is not an id and four counters")
    hop, *counts = value
    for count in counts:
        if type(count) is not int or not 0 <= count < 2**64:
            raise ValueError(f"{count!r:.40} is not a counter")
    return HopCounters(_id(hop), *counts)


def _unpack_code(value: object) -> Code:
    if type(value) is not int or not 1 <= value <= 65535:
        raise ValueError(f"{value!r:.40} is not a code")
    try:
        return Code(value)
    except ValueError:  # a newer partner's: it is a refusal all the same
        return Code.INTERNAL


def _pack_text(value: str) -> str:
    """Texts come from exceptions of every origin: what a log line can't hold is replaced, not refused."""
    return "".join(character if character.isprintable() else " " for character in value[:ERROR_TEXT])


def _unpack_text(value: object) -> str:
    if type(value) is not str or len(value) > ERROR_TEXT or not value.isprintable():
        raise ValueError(f"not a printable text of at most {ERROR_TEXT} characters")
    return value


SESSION: Final = Kind(_session, _session)
KEY_ID: Final = Kind(_key_id, _key_id)
ENDPOINT: Final = Kind(_pack_endpoint, _unpack_endpoint)
ENDPOINT_OR_NONE: Final = Kind(_pack_endpoint_or_none, _unpack_endpoint_or_none)
OCTETS: Final = Kind(_octets, _octets)
TARGET: Final = _target(lowest=1)
TARGET_OR_RESERVE: Final = _target(lowest=0)
ID: Final = Kind(_id, _id)
PATH: Final = Kind(lambda value: list(_path(value)), _path)
BOOLEAN: Final = Kind(_boolean, _boolean)
PROTOCOL: Final = _enumeration(Protocol)
WAY: Final = _enumeration(Way)
COMPONENTS: Final = _integer(1, 2)
LEASE: Final = _integer(0, ABSOLUTE_LIMIT)
LEASE_GRANTED: Final = _integer(1, ABSOLUTE_LIMIT)
HOPS: Final = _integer(0, MAX_HOPS)
NUMBER: Final = _integer(0, 2**32 - 1)
PLACE: Final = _integer(1, MAX_HOPS)
MTU: Final = _integer(1, 65535)
COUNTERS: Final = Kind(_pack_counters, _unpack_counters)
CODE: Final = Kind(int, _unpack_code)
HOP: Final = Kind(_id_or_empty, _id_or_empty)
TEXT: Final = Kind(_pack_text, _unpack_text)
