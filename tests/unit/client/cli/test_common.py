"""What verbs share: how people write endpoints and prefixes."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from chainrelay.client.cli import common
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Way


def test_p1_is_a_port_or_an_endpoint() -> None:
    assert common.local("6000") == 6000
    assert common.local("[::1]:6000") == Endpoint.parse("[::1]:6000")
    assert common.listen("127.0.0.1:0").port == 0


def test_ways_have_names() -> None:
    assert [common.way(text) for text in ("recursive", "iterative")] == [Way.RECURSIVE, Way.ITERATIVE]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (common.local, "0"),
        (common.local, "65536"),
        (common.local, "host:1"),
        (common.endpoint, "127.0.0.1:0"),
        (common.listen, "127.0.0.1:65536"),
        (common.listen, "::1:80"),
        (common.network, "10.0.0.1/8"),
        (common.address, "fe80::1%eth0"),
        (common.way, "itinerant"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(kind: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)
