"""What verbs share: how people write endpoints and prefixes, and how counters are shown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import pytest

from chainrelay.client import SealCounters
from chainrelay.client.cli import common
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import HopCounters, Way


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


def test_counters_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    counters = (HopCounters("fw1", 1, 100, 2, 200), HopCounters("fw2", 1, 100, 0, 0))
    common.Report(as_json=False).closed(counters)
    text = capsys.readouterr().out.splitlines()
    assert text[0] == "fw1: to the server 1 packets, 100 bytes; to the client 2 packets, 200 bytes"
    assert len(text) == 2
    common.Report(as_json=True).closed(counters)
    hops = json.loads(capsys.readouterr().out)["counters"]
    assert hops[0] == {"hop": "fw1", "to_server": {"packets": 1, "bytes": 100}, "to_client": {"packets": 2, "bytes": 200}}


def test_what_became_of_sealed_datagrams(capsys: pytest.CaptureFixture[str]) -> None:
    seal = SealCounters(sealed=5, opened=4, forged=3, replayed=2, unknown=1)
    common.Report(as_json=False).closed((), seal)
    assert capsys.readouterr().out == "here: 5 datagrams sealed, 4 opened; dropped: 3 forged, 2 replayed, 1 under no key\n"
    common.Report(as_json=True).closed((), seal)
    assert json.loads(capsys.readouterr().out)["seal"] == {"sealed": 5, "opened": 4, "forged": 3, "replayed": 2, "unknown": 1}
