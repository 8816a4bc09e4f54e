"""The row is what the end-to-end tests take it for: closed by default, with an administrator whose own NAT works."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from chainrelay.wire.endpoint import Endpoint, parse_address
from lab import rulesets, wait
from lab.capture import Capture
from lab.datagrams import Port, Stream
from lab.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

NEAR = {4: Endpoint.parse("10.1.0.1:20005"), 6: Endpoint.parse("[fd00:1::1]:20005")}
FAR = {family: parse_address(text) for family, text in ((4, "10.1.0.2"), (6, "fd00:1::2"))}  # without a relay



@pytest.mark.parametrize("family", [4, 6])
def test_without_a_relay_the_ends_share_a_link(family: int) -> None:
    with (
        Row(0, (family,)) as row,
        ends(row, family, service=5000) as (near, far),
        Capture(row.server_end, direction="in") as capture,
    ):
        stream = Stream()
        stream.send(near, far.endpoint, 20)
        assert stream.tally(far).lost == 0
        wait.until(lambda: len(capture.datagrams()) >= 20, "the capture to hold all")
        seen = capture.stop()
    assert {(each.source, each.destination) for each in seen} == {(NEAR[family], Endpoint(FAR[family], 5000))}
    assert len({each.payload for each in seen}) == 20


@pytest.mark.parametrize("policy", ["drop", "accept"])
@pytest.mark.parametrize("family", [4, 6])
def test_no_routing_leads_through_the_row(family: int, policy: rulesets.Policy) -> None:
    with Row(2, (family,), policy=policy) as row, ends(row, family, service=5000) as (near, far):
        there, back = Stream(), Stream()
        there.send(near, far.endpoint, 5)
        back.send(far, near.endpoint, 5)
        assert there.tally(far, timeout=0.2).lost == 5
        assert back.tally(near, timeout=0.2).lost == 5


@pytest.mark.parametrize("family", [4, 6])
def test_the_administrators_own_nat_works(family: int) -> None:
    """From the client, masqueraded by fw1 to a port of the pool, into fw2's port-forward, and back."""
    with Row(2, (family,)) as row, ends(row, family, service=rulesets.FORWARDED_UDP[1]) as (near, service):
        first, last = row.firewalls
        borrowed = Endpoint(first.right.address(family), NEAR[family].port)
        there, back = Stream(), Stream()
        there.send(near, Endpoint(last.bound(family), rulesets.FORWARDED_UDP[0]), 5)
        tally = there.tally(service)
        assert (tally.lost, tally.sources) == (0, {borrowed})
        back.send(service, borrowed, 5)
        assert back.tally(near).lost == 0


@pytest.mark.parametrize("family", [4, 6])
def test_what_no_gate_stops_is_counted(family: int) -> None:
    with Row(1, (family,)) as row, ends(row, family, service=5000) as (near, _far):
        firewall = row.firewalls[0]
        for port in (20000, 29999, 30000):
            near.send(Endpoint(firewall.bound(family), port), b"stray")
        wait.until(lambda: rulesets.strays(firewall.host) == 2, "both to be counted")


@pytest.mark.parametrize("family", [4, 6])
def test_a_filter_lends_its_address_both_ways(family: int) -> None:
    with Row(2, (family,), filtered=(2,)) as row:
        first, last = row.firewalls
        assert last.announced(family) != last.bound(family)
        for firewall in row.firewalls:
            firewall.host.run(["nft", "insert", "rule", "inet", "admin", "input", "accept"])
        p3, p4 = Port(first.host, first.right.address(family), 20010), Port(last.host, last.bound(family), 20020)
        with p3, p4:
            outward, inward = Stream(), Stream()
            outward.send(p4, p3.endpoint, 3)
            tally = outward.tally(p3)
            assert (tally.lost, tally.sources) == (0, {Endpoint(last.announced(family), 20020)})
            inward.send(p3, Endpoint(last.announced(family), 20020), 3)
            assert inward.tally(p4).lost == 0


@contextmanager
def ends(row: Row, family: int, service: int) -> Iterator[tuple[Port, Port]]:
    """A socket of the client on a port of the relays' pool, and one of the server on `service`."""
    with (
        Port(row.client, row.client_end.address(family), NEAR[family].port) as near,
        Port(row.server, row.server_end.address(family), service) as far,
    ):
        yield near, far
