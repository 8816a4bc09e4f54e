"""Ids and host names."""

from __future__ import annotations

import pytest

from chainrelay.wire.names import is_id, is_name

_LOOK_WRONG = ["a.", ".a", "a..b", "-a", "a-", "a_b", "A.example", "bücher.example", "a" * 64, "127.1", "10.0.0.1", "a.0x7f", "1", "::1"]


@pytest.mark.parametrize("text", ["a", "fw1", "Alice.B_c@lab-2", "0", "a" * 64])
def test_ids(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize("text", ["", "a" * 65, "-a", ".a", "@", "a b", "a\n", "a/b", "é", "a\x00", "a;b", "*", "٣"])
def test_no_ids(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize("text", ["a", "host.example", "xn--bcher-kva.example", "1.example", "a-b.c", "a" * 63, ".".join(["a" * 49] * 5)])
def test_names(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text",
    ["a\n", "a b", "a%eth0", ".".join(["a" * 50] * 5), "", ".", *_LOOK_WRONG],
)
def test_no_names(text: str) -> None:
    assert not is_name(text)
