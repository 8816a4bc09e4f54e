"""Frames: whatever the cuts, the bodies come out; nothing oversized is ever held."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.errors import ProtocolError
from chainrelay.wire.frame import FrameReader, frame


def held(reader: FrameReader) -> int:
    return len(reader._held)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(0, 2600), max_size=12))
def test_bodies_survive_any_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, bodies))
    reader = FrameReader(300)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert [body for a, b in pairwise(edges) for body in reader.feed(stream[a:b])] == bodies
    assert held(reader) == 0


@given(st.binary(max_size=200))
def test_random_octets_raise_nothing_but_protocol_error(data: bytes) -> None:
    reader = FrameReader(64)
    try:
        for body in reader.feed(data):
            assert 1 <= len(body) <= 64
    except ProtocolError:
        pass
    assert held(reader) <= 64 + 4


@pytest.mark.parametrize("length", [0, 4097, 2**32 - 1])
def test_refused_as_soon_as_the_length_is_there(length: int) -> None:
    reader = FrameReader(4096)
    header = length.to_bytes(4, "big")
    assert reader.feed(header[:3]) == []
    with pytest.raises(ProtocolError, match=str(length)):
        reader.feed(header[3:])
    assert held(reader) == 0


def test_the_limit_itself_passes_and_can_be_raised() -> None:
    reader = FrameReader(4)
    assert reader.feed(frame(b"four")) == [b"four"]
    reader.limit = 5
    assert reader.feed(frame(b"fives")) == [b"fives"]


@pytest.mark.parametrize("body", [b"", bytes(65537)])
def test_our_own_frames_keep_the_limits(body: bytes) -> None:
    with pytest.raises(ValueError, match=str(len(body))):
        frame(body)
