"""CBOR: one encoding per value, and no octets that hurt the decoder."""

from __future__ import annotations

import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.errors import ProtocolError
from chainrelay.limits import CBOR_DEPTH, CBOR_ITEMS
from chainrelay.wire import cbor

leaves = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=80)


def maps(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    ordered = st.dictionaries(st.integers(-24, 23), values, max_size=5)
    return ordered.map(lambda found: dict(sorted(found.items(), key=lambda item: cbor2.dumps(item[0]))))


def nested(depth: int) -> st.SearchStrategy[object]:
    return leaves if depth == 0 else leaves | st.lists(nested(depth - 1), max_size=4) | maps(nested(depth - 1))


@given(nested(3))
def test_round_trip_and_canonical(value: object) -> None:
    body = cbor.encode(value)
    assert cbor.decode(body) == value
    assert body == cbor2.dumps(value, canonical=True)


@given(st.lists(nested(2), max_size=5))
def test_sequences(values: list[object]) -> None:
    octets = b"".join(map(cbor.encode, values))
    assert list(cbor.decode_sequence(octets)) == values
    with pytest.raises(ProtocolError):
        list(cbor.decode_sequence(octets + b"\x42\x00"))


def test_what_can_not_be_encoded_leaves_nothing_for_the_next() -> None:
    for _ in range(3):
        with pytest.raises(cbor2.CBOREncodeError):
            cbor.encode([1, 2, object()])
        assert cbor.encode([1, 2]) == b"\x82\x01\x02"


def test_threads_encode_at_the_same_time() -> None:
    """The loop encodes messages while the datapath's thread encodes records."""
    values: list[object] = [{0: number, 1: bytes([number]) * 500} for number in range(8)]
    wanted = [cbor2.dumps(value, canonical=True) for value in values]

    def many(number: int) -> bool:
        return all(cbor.encode(values[number]) == wanted[number] for _ in range(3000))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(values)) as threads:
            assert all(threads.map(many, range(len(values))))
    finally:
        sys.setswitchinterval(before)


@given(st.binary(max_size=120))
def test_what_passes_has_one_encoding(body: bytes) -> None:
    try:
        value = cbor.decode(body)
    except ProtocolError:
        return
    assert cbor.encode(value) == body


@given(nested(2), st.data())
def test_mutations_are_refused_or_canonical(value: object, data: st.DataObject) -> None:
    body = bytearray(cbor.encode(value))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        assert cbor.encode(cbor.decode(bytes(body))) == bytes(body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "too early"),
        ("1817", "shortest"),
        ("190018", "shortest"),
        ("1a00000100", "shortest"),
        ("1b00000000ffffffff", "shortest"),
        ("18", "shortest"),
        ("1c", "indefinite"),
        ("5f4100ff", "indefinite"),
        ("9f00ff", "indefinite"),
        ("bf0000ff", "indefinite"),
        ("c000", "tag"),
        ("c249010000000000000000", "tag"),
        ("f93c00", "float"),
        ("fa3f800000", "float"),
        ("f7", "simple"),
        ("f0", "simple"),
        ("f820", "simple"),
        ("ff", "indefinite"),
        ("0000", "follow"),
        ("a2000000f4", "ascending"),
        ("a20100 0000".replace(" ", ""), "ascending"),
        ("a220000000", "ascending"),
        ("a14100f4", "key"),
        ("a1f4f4", "key"),
        ("a18000", "key"),
        ("61ff", "not CBOR"),
        ("62c328", "not CBOR"),
        ("4100ff", "follow"),
        ("42ff", "too early"),
        ("8100 00".replace(" ", ""), "follow"),
        ("8200", "too early"),
        ("9bffffffffffffffff", "items"),
        ("5bffffffffffffffff00", "too early"),
        ("bbffffffffffffffff0000", "items"),
    ],
)
def test_refused(body: str, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        cbor.decode(bytes.fromhex(body))


def test_depth_and_items_at_their_limits() -> None:
    assert cbor.decode(b"\x81" * CBOR_DEPTH + b"\x00")
    with pytest.raises(ProtocolError, match="deeper"):
        cbor.decode(b"\x81" * (CBOR_DEPTH + 1) + b"\x00")
    full = cbor.encode([0] * (CBOR_ITEMS - 1))
    assert len(cbor.decode(full)) == CBOR_ITEMS - 1
    with pytest.raises(ProtocolError, match="items"):
        cbor.decode(cbor.encode([0] * CBOR_ITEMS))


@pytest.mark.parametrize(
    "bomb",
    [b"\x81" * 65536, b"\x9a\xff\xff\xff\xff" * 13000, b"\xa1\x00" * 32768, b"\x80" * 65536, b"\x9a\x00\x00\xff\xff" + b"\x80" * 65531],
)
def test_bombs_cost_neither_time_nor_memory(bomb: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ProtocolError):
        cbor.decode(bomb)
    spent, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < 0.2
    assert peak < 100_000
