"""Datagrams through one and two relays over the fast path, native and generic, both families; nothing over the rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chainrelay.datapath.mapping import Counters, Done, Remove, Renew
from chainrelay.datapath.xdp_layout import Verdict
from lab import wait
from lab.datagrams import Port, Stream
from lab.fastpath import FastRow

pytestmark = pytest.mark.root

COUNT = 200
JUMBO = 9000


@pytest.fixture(scope="module", params=[(1, "native"), (2, "native"), (2, "generic")], ids=lambda p: f"{p[0]}-{p[1]}")
def row(request: pytest.FixtureRequest) -> Iterator[FastRow]:
    hops, mode = request.param
    with FastRow(hops, mode) as made:
        assert all(each["mode"] == mode for fast in made.firewalls for each in fast.report["interfaces"].values())
        yield made


@pytest.mark.parametrize("family", [4, 6])
def test_every_datagram_takes_the_fast_path_at_every_relay(row: FastRow, family: int) -> None:
    mappings = row.session(family, 5000 + family)
    first, last = mappings[0], mappings[-1]
    row.install(mappings)
    wait.until(lambda: all(f.ready(m) for f, m in zip(row.firewalls, mappings, strict=True)), "the neighbours")
    with (
        Port(row.row.client, first.client_partner.address, first.client_partner.port) as client,
        Port(row.row.server, last.server_partner.address, last.server_partner.port) as server,
    ):
        there, back = Stream(), Stream(900)
        there.send(client, first.client_side, COUNT)
        got = there.tally(server)
        assert (got.lost, got.duplicates, got.foreign, got.sources) == (0, 0, 0, {last.server_side})
        back.send(server, last.server_side, COUNT)
        got = back.tally(client)
        assert (got.lost, got.duplicates, got.foreign, got.sources) == (0, 0, 0, {first.client_side})
    row.fast_only(mappings, COUNT)
    for fast, mapping in zip(row.firewalls, mappings, strict=True):
        header = 28 if family == 4 else 48
        counted = Counters(COUNT, COUNT * (100 + header), COUNT, COUNT * (900 + header))
        assert fast.backend.apply([Renew(mapping, 60)]) == [Done(counted)]
        assert fast.backend.apply([Remove(mapping)]) == [Done(Counters())]
        assert fast.fast.flows() == []


@pytest.mark.parametrize("family", [4, 6])
def test_jumbo_frames_take_the_generic_path_whatever_their_size(family: int) -> None:
    """No driver here gives a native program a frame of several pages, so `auto` makes all interfaces generic."""
    with FastRow(2, "auto", families=(family,), mtu=JUMBO) as row:
        assert {each["mode"] for fast in row.firewalls for each in fast.report["interfaces"].values()} == {"generic"}
        mappings = row.session(family, 5200 + family)
        first, last = mappings[0], mappings[-1]
        row.install(mappings)
        wait.until(lambda: all(f.ready(m) for f, m in zip(row.firewalls, mappings, strict=True)), "the neighbours")
        largest = JUMBO - (28 if family == 4 else 48)
        sizes = (16, 1472, 1473, 4096, largest - 1, largest)
        with (
            Port(row.row.client, first.client_partner.address, first.client_partner.port) as client,
            Port(row.row.server, last.server_partner.address, last.server_partner.port) as server,
        ):
            for size in sizes:
                there, back = Stream(size), Stream(size)
                there.send(client, first.client_side, 20)
                back.send(server, last.server_side, 20)
                for got in (there.tally(server), back.tally(client)):
                    assert (got.lost, got.duplicates, got.foreign) == (0, 0, 0), size
        row.fast_only(mappings, 20 * len(sizes))


def test_a_lease_that_ends_stops_the_flow_without_anybody(row: FastRow) -> None:
    mappings = row.session(4, 5100)
    first, last = mappings[0], mappings[-1]
    row.install(mappings, lease=1.0)
    with (
        Port(row.row.client, first.client_partner.address, first.client_partner.port) as client,
        Port(row.row.server, last.server_partner.address, last.server_partner.port) as server,
    ):
        before = row.firewalls[0].verdict(Verdict.LEASE_ENDED)

        def stopped() -> bool:
            """The program sends up what comes in the last two ticks of the rules' lease, and they still forward it."""
            server.drain()
            client.send(first.client_side, b"still there?")
            return row.firewalls[0].verdict(Verdict.LEASE_ENDED) > before and server.receive(0.1) is None

        wait.until(stopped, "the lease to end")
        client.send(first.client_side, b"late")
        assert server.receive(0.3) is None
    row.remove(mappings)
