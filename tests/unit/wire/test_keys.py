"""Pair keys: what is derived, how often, and what a text of them shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.wire.keys import DIRECT, Context, PairKey, PairSecrets, lp


def test_derived_once_per_direction() -> None:
    key = PairKey("k1", bytes(range(32)))
    there, back = key.secrets(b"alice", b"fw1"), key.secrets(b"fw1", b"alice")
    assert key.secrets(b"alice", b"fw1") is there
    assert there != back
    assert there == PairSecrets.derive(key.secret, b"alice", b"fw1")


def test_what_is_derived_dies_with_the_key() -> None:
    one, two = PairKey("k1", bytes(32)), PairKey("k1", bytes(32))
    assert one == two
    assert one.secrets(b"a", b"b") is not two.secrets(b"a", b"b")


def test_texts_show_no_octet_of_a_key() -> None:
    key = PairKey("k1", b"S" * 32)
    secrets = key.secrets(b"alice", b"fw1")
    for text in (repr(key), str(key), repr(secrets), f"{secrets}"):
        assert "SSS" not in text
        assert repr(secrets.hello) not in text
        assert secrets.hello.hex() not in text


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_have_32_octets(length: int) -> None:
    with pytest.raises(ValueError, match=f"key k1: 32 octets wanted, not {length}"):
        PairKey("k1", bytes(length))


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_different_lists_have_different_octets(one: list[bytes], two: list[bytes]) -> None:
    assert (lp(*one) == lp(*two)) == (one == two)


def test_no_context_is_all_zero() -> None:
    assert Context(0, 0, bytes(16), "") == DIRECT
