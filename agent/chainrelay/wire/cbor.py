"""Deterministic CBOR (RFC 8949 §4.2) in both directions, bounded inward.

cbor2 decodes recursively and reserves room for whatever length an array claims. So `end_of_item` walks the octets first, in a
loop and without building anything: shallow, few items, lengths within the body, shortest heads, ascending integer keys,
and only integers, strings, arrays, maps, booleans and null. What passes has exactly one encoding, so nothing need be
encoded again.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import cbor2

from chainrelay.errors import ProtocolError
from chainrelay.limits import CBOR_DEPTH, CBOR_ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

_SMALLEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}  # what a longer head must at least hold (§4.2.1)
_LAST_INTEGER, _LAST_STRING, _LAST_ARRAY, _LAST_MAP = 0x3B, 0x7F, 0x9F, 0xBF  # heads by major type (§3.1), in their order
_FALSE, _NULL = 0xF4, 0xF6  # with true between them: the simple values in use
_ARRAY_HAS_NO_KEYS, _BEFORE_ALL_KEYS = -2, -1


def encode(value: object) -> bytes:
    """`value` as deterministic CBOR. Maps must have integer keys from -24 to 23, ascending (0 … 23, then -1 … -24).

    cbor2 writes a map in the order it has and everything else in its shortest form: that saves sorting every message. Making
    an encoder costs as much as encoding a message, so they are kept; one that has failed is not.
    """
    buffer, encoder = _spare.pop() if _spare else _encoder()
    encoder.encode(value)
    encoded = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    _spare.append((buffer, encoder))
    return encoded


def _encoder() -> tuple[BytesIO, cbor2.CBOREncoder]:
    buffer = BytesIO()
    return buffer, cbor2.CBOREncoder(buffer)


_spare: list[tuple[BytesIO, cbor2.CBOREncoder]] = []  # as many as threads encode at once; pop and append are atomic


def decode(body: bytes) -> Any:  # noqa: ANN401 - whoever calls checks every type
    """The value of `body`. Raises ProtocolError for whatever `end_of_item` refuses and for text that is not UTF-8."""
    if end_of_item(body) != len(body):
        raise ProtocolError("octets follow the CBOR item")
    return _load(body)


def decode_sequence(octets: bytes) -> Iterator[Any]:
    """The values of a CBOR sequence (RFC 8742), none for no octets. Raises ProtocolError as `decode` does."""
    position = 0
    while position < len(octets):
        start, position = position, end_of_item(octets, position)
        yield _load(octets[start:position])


def _load(body: bytes) -> Any:  # noqa: ANN401
    try:
        return cbor2.loads(body)
    except (cbor2.CBORDecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not CBOR: {error}") from error


def end_of_item(octets: bytes, position: int = 0) -> int:
    """Where the item at `position` ends. Raises ProtocolError unless it is deterministic and within the limits of limits.py.

    Every octet of every message comes by here, so the loop takes what is frequent first and looks nothing up twice.
    """
    items = left = 1  # `left`: items still to come in the innermost array or map, a map's keys counted as well
    key = _ARRAY_HAS_NO_KEYS  # the head of the map's previous key, and its argument
    key_argument = 0
    outer: list[tuple[int, int, int]] = []
    try:
        while True:
            head = octets[position]
            position += 1
            argument = head & 31
            if argument > 23:
                argument, position = _long_argument(octets, position, argument)
            if key != _ARRAY_HAS_NO_KEYS and not left & 1:
                if head > _LAST_INTEGER:
                    raise ProtocolError("CBOR map key is not an integer")
                if head <= key and (head < key or argument <= key_argument):
                    raise ProtocolError("CBOR map keys are not ascending")
                key, key_argument = head, argument
            elif head > _LAST_INTEGER:
                if head <= _LAST_STRING:
                    position += argument
                elif head <= _LAST_MAP:
                    if argument:
                        outer.append((left, key, key_argument))
                        is_array = head <= _LAST_ARRAY
                        # one more than its items: the array or map itself, taken off below
                        left, key = (argument + 1, _ARRAY_HAS_NO_KEYS) if is_array else (2 * argument + 1, _BEFORE_ALL_KEYS)
                        items += left - 1
                        if items > CBOR_ITEMS:
                            raise ProtocolError(f"more than {CBOR_ITEMS} CBOR items")
                        if len(outer) > CBOR_DEPTH:
                            raise ProtocolError(f"CBOR deeper than {CBOR_DEPTH}")
                elif not _FALSE <= head <= _NULL:
                    raise ProtocolError("CBOR tag, float or simple value")
            left -= 1
            while not left:
                if not outer:
                    if position > len(octets):
                        raise ProtocolError("CBOR ends too early")
                    return position
                left, key, key_argument = outer.pop()
                left -= 1
    except IndexError:
        raise ProtocolError("CBOR ends too early") from None


def _long_argument(octets: bytes, position: int, information: int) -> tuple[int, int]:
    """The argument in the octets behind a head, and where they end (§3)."""
    if information > 27:
        raise ProtocolError("CBOR of indefinite length")
    end = position + (1 << (information - 24))
    argument = int.from_bytes(octets[position:end], "big")
    if argument < _SMALLEST[information]:
        raise ProtocolError("CBOR head is cut off or not the shortest")
    return argument, end
