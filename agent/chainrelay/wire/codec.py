"""Messages to octets and back (docs/protocol.md, "Messages"). The only place that knows type numbers and keys.

A message is a map: 0 = type, 1 = request number, from 2 its fields in the order of messages.py. Unknown keys from 0 up
are ignored, unknown keys below 0 refused. Every ProtocolError names message and field. What one field may hold:
fields.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from chainrelay.errors import Code, ProtocolError
from chainrelay.wire import cbor
from chainrelay.wire import fields as kind
from chainrelay.wire.messages import (
    Assigned,
    Bind,
    Bound,
    Close,
    Closed,
    ControlMessage,
    Done,
    Error,
    Extend,
    Extended,
    Message,
    Offer,
    Open,
    Opened,
    Peer,
    Rekey,
    Rekeyed,
    Renew,
    Renewed,
    Status,
    StatusReport,
)

if TYPE_CHECKING:
    from chainrelay.wire.fields import Kind

TYPE: Final = 0
NUMBER: Final = 1
FIRST_FIELD: Final = 2
LARGEST_NUMBER: Final = 2**32 - 1

# Type number, message, the kinds of its fields in their order.
TABLE: Final[tuple[tuple[int, type[Message | ControlMessage], tuple[Kind, ...]], ...]] = (
    (
        1,
        Open,
        (
            kind.SESSION,
            kind.PROTOCOL,
            kind.WAY,
            kind.BOOLEAN,
            kind.COMPONENTS,
            kind.ENDPOINT,
            kind.TARGET_OR_RESERVE,
            kind.ID,
            kind.ENDPOINT,
            kind.LEASE,
            kind.PATH,
            kind.HOPS,
        ),
    ),
    (2, Opened, (kind.SESSION, kind.ENDPOINT, kind.ENDPOINT, kind.LEASE_GRANTED, kind.MTU, kind.BOOLEAN, kind.PATH)),
    (3, Bind, (kind.SESSION, kind.TARGET)),
    (4, Bound, (kind.SESSION, kind.MTU)),
    (5, Renew, (kind.SESSION, kind.LEASE)),
    (6, Renewed, (kind.SESSION, kind.LEASE_GRANTED)),
    (7, Close, (kind.SESSION,)),
    (8, Closed, (kind.SESSION, kind.COUNTERS)),
    (9, Status, (kind.SESSION,)),
    (10, StatusReport, (kind.SESSION, kind.LEASE, kind.COUNTERS)),
    (11, Error, (kind.CODE, kind.HOP, kind.TEXT)),
    (12, Extend, (kind.SESSION, kind.PLACE, kind.HOP, kind.ID, kind.NUMBER, kind.ENDPOINT, kind.OCTETS)),
    (13, Rekey, (kind.SESSION, kind.KEY_ID)),
    (14, Extended, (kind.SESSION, kind.ENDPOINT_OR_NONE, kind.OCTETS)),
    (15, Assigned, (kind.SESSION, kind.ENDPOINT, kind.ENDPOINT, kind.ENDPOINT, kind.HOP, kind.LEASE_GRANTED, kind.MTU)),
    (16, Offer, (kind.PROTOCOL, kind.COMPONENTS, kind.ENDPOINT)),
    (17, Peer, (kind.SESSION, kind.ENDPOINT)),
    (18, Done, ()),
    (19, Rekeyed, (kind.SESSION, kind.KEY_ID, kind.ENDPOINT, kind.ENDPOINT, kind.ENDPOINT)),
)


@dataclass(frozen=True, slots=True)
class Format:
    """One row of TABLE with its keys and names."""

    number: int
    name: str
    message: type[Message | ControlMessage]
    fields: tuple[tuple[int, str, Kind], ...]


def _formats() -> tuple[Format, ...]:
    formats = []
    for number, message, kinds in TABLE:
        named = zip((field.name for field in dataclasses.fields(message)), kinds, strict=True)
        rows = tuple((key, name, of) for key, (name, of) in enumerate(named, FIRST_FIELD))
        formats.append(Format(number, message.__name__.upper(), message, rows))
    return tuple(formats)


FORMATS: Final = _formats()
_BY_NUMBER: Final = {row.number: row for row in FORMATS}
_BY_MESSAGE: Final = {row.message: row for row in FORMATS}


def encode(number: int, message: Message | ControlMessage) -> bytes:
    """The body of `message`. `number` 0–2³²−1. Raises ProtocolError naming the field if a value must not travel."""
    row = _BY_MESSAGE[type(message)]
    if not 0 <= number <= LARGEST_NUMBER:
        raise ProtocolError(f"{row.name}: request number {number} is not 0-{LARGEST_NUMBER}")
    body: dict[int, object] = {TYPE: row.number, NUMBER: number}
    name = ""
    try:
        for key, name, of in row.fields:
            body[key] = of.pack(getattr(message, name))
    except ValueError as error:
        raise ProtocolError(f"{row.name} {name}: {error}") from error
    _check_pair(message)
    return cbor.encode(body)


def decode(body: bytes) -> tuple[int, Message | ControlMessage]:
    """Request number and message. Raises ProtocolError and nothing else, whatever the octets."""
    return _message(cbor.decode(body))


def decode_all(octets: bytes) -> list[tuple[int, Message | ControlMessage]]:
    """The same of every message in a sequence of at least one."""
    messages = [_message(content) for content in cbor.decode_sequence(octets)]
    if not messages:
        raise ProtocolError("no message")
    return messages


def _message(content: object) -> tuple[int, Message | ControlMessage]:
    if type(content) is not dict:
        raise ProtocolError("a message is a CBOR map")
    if content and (last := next(reversed(content))) < 0:  # keys are ascending: those below 0 come last
        raise ProtocolError(f"mandatory key {last} is not known", Code.UNKNOWN_MANDATORY)
    number = content.get(NUMBER)
    if type(number) is not int or not 0 <= number <= LARGEST_NUMBER:
        raise ProtocolError(f"request number is not 0-{LARGEST_NUMBER}")
    wanted = content.get(TYPE)
    row = _BY_NUMBER.get(wanted) if type(wanted) is int else None
    if row is None:
        raise ProtocolError(f"message type {wanted!r:.40} is not known", Code.UNKNOWN_MANDATORY)
    values: list[Any] = []
    try:
        for key, _, of in row.fields:
            values.append(of.unpack(content[key]))
    except (KeyError, ValueError) as error:
        culprit = row.fields[len(values)][1]
        why = "is missing" if isinstance(error, KeyError) else error
        raise ProtocolError(f"{row.name} {culprit}: {why}") from error
    message = row.message(*values)
    _check_pair(message)
    return number, message


def _check_pair(message: Message | ControlMessage) -> None:
    """Two components are two ports: none of the endpoints named with them may be the last port there is."""
    match message:
        case Open(components=2, partner=partner, server=server, origin=origin):
            ports = [partner.port, server.port, origin.port]
        case Offer(components=2, server=server):
            ports = [server.port]
        case _:
            return
    if 65535 in ports:
        raise ProtocolError(f"{type(message).__name__.upper()} components: port 65535 has no next port")
