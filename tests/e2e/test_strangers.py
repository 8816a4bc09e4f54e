"""Datagrams that belong to no session, before, during and after one: not one of them is delivered, in silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from chainrelay.wire.endpoint import Address, Endpoint, parse_address
from e2e.chain import Call, Chain
from lab import rulesets
from lab.datagrams import Port
from lab.host import Namespace
from lab.kernel import endpoints
from lab.link import End
from lab.remains import remains

pytestmark = pytest.mark.root

FOREIGN = b"from a stranger"
LOCAL_PORT = 41000


@pytest.mark.parametrize("family", [4, 6])
def test_no_stranger_gets_into_an_open_session(two: Chain, family: int) -> None:
    """From the right host with a wrong port and with a wrong address, at both ends and between the relays."""
    with two.server(family) as server, two.open(server) as call:
        call.proves_flow()
        points = endpoints(two.firewalls, call.session.local, call.session.entry)
        before = passed_the_gate(two)
        with strangers(two, family) as (at_client, at_server, between_left, between_right):
            for sender in at_client:
                for target in (points[1], points[1].next(1), Endpoint(points[1].address, points[2].port)):
                    sender.send(target, FOREIGN)
            for sender in at_server:
                for target in (points[-2], points[-2].next(1), Endpoint(points[-2].address, points[1].port)):
                    sender.send(target, FOREIGN)
            between_left.send(points[3], FOREIGN)
            between_right.send(points[2], FOREIGN)
            assert_silence(call, [*at_client, *at_server, between_left, between_right])
        assert passed_the_gate(two) == before
        call.proves_flow()


@pytest.mark.parametrize("family", [4, 6])
def test_before_a_session_even_its_later_ends_are_strangers(two: Chain, family: int) -> None:
    """P1 and P6 try every port of the pool that the session may get; nothing passes, and nothing is remembered against them."""
    first, last = two.firewalls
    before = passed_the_gate(two)
    with two.server(family) as server:
        with Port(two.row.client, two.row.client_end.address(family), LOCAL_PORT) as near:
            for port in range(rulesets.POOL[0], rulesets.POOL[0] + 300):
                near.send(Endpoint(first.bound(family), port), FOREIGN)
                server.ports[0].send(Endpoint(last.right.address(family), port), FOREIGN)
            assert server.ports[0].receive(0.3) is None
            assert near.receive(0.1) is None
        assert passed_the_gate(two) == before
        for firewall in two.firewalls:
            listed = firewall.host.run(["conntrack", "-L", "-p", "udp", "-f", f"ipv{family}"]).stdout
            assert f"sport={LOCAL_PORT} " not in listed
            assert f"sport={server.endpoint.port} " not in listed
        with two.open(server, local=LOCAL_PORT) as call:
            assert rulesets.POOL[0] <= call.session.entry.port < rulesets.POOL[0] + 300, "a port that was tried"
            call.proves_flow()


@pytest.mark.parametrize("family", [4, 6])
def test_early_packets_leave_no_trace_and_do_no_harm(two: Chain, family: int) -> None:
    """P5 is known (reserve) and the server sends at once: dropped without a conntrack entry, which would black-hole the session."""
    first, last = two.firewalls
    with two.server(family) as server:
        session = two.client_loop.call(lambda: two.client.reserve(str(server.address)))
        near, far = Port.adopt(session.socket), server.ports[0]
        try:
            for _ in range(5):
                far.send(session.exit, b"early")
                near_early = Endpoint(first.bound(family), 20001)
                with Port(two.row.client, session.local.address) as stray:
                    stray.send(near_early, b"early")
            for firewall in (first, last):
                listed = firewall.host.run(["conntrack", "-L", "-p", "udp", "-f", f"ipv{family}"]).stdout
                assert f"dport={session.exit.port} " not in listed
                assert remains(firewall.host).conntrack == ()
            two.client_loop.call(lambda: session.bind(str(server.endpoint)))
            far.send(session.exit, b"in time")
            received = near.receive()
            assert received == (b"in time", session.entry)
        finally:
            two.close_session(session)


@pytest.mark.parametrize("family", [4, 6])
def test_a_closed_session_is_closed_to_everybody(two: Chain, family: int) -> None:
    """Also to those who were right until then."""
    with two.server(family) as server:
        call = two.open(server)
        call.proves_flow()
        points = endpoints(two.firewalls, call.session.local, call.session.entry)
        call.close()
        before = passed_the_gate(two)
        with Port(two.row.client, points[0].address, points[0].port) as near:
            near.send(points[1], FOREIGN)
            call.far.send(points[-2], FOREIGN)
            assert call.far.receive(0.3) is None
            assert near.receive(0.1) is None
    assert passed_the_gate(two) == before
    assert two.leftovers() == {}


def passed_the_gate(chain: Chain) -> list[int]:
    """Per relay: packets for pool ports that no session had, and that the gate let through."""
    return [rulesets.strays(each.host, chain.row.rules) for each in chain.firewalls]


@contextmanager
def strangers(chain: Chain, family: int) -> Iterator[tuple[list[Port], list[Port], Port, Port]]:
    """Senders at the client and at the server, each with a wrong port and with a wrong address, and one on either side between."""
    first, last = chain.firewalls
    with ExitStack() as stack:

        def port(host: Namespace, address: Address) -> Port:
            return stack.enter_context(Port(host, address))

        def pair(end: End) -> list[Port]:
            wrong = another(end, family)
            stack.callback(end.host.run, ["ip", "address", "del", wrong, "dev", end.name])
            return [port(end.host, end.address(family)), port(end.host, parse_address(wrong.partition("/")[0]))]

        at_client, at_server = pair(chain.row.client_end), pair(chain.row.server_end)
        yield at_client, at_server, port(first.host, first.right.address(family)), port(last.host, last.left.address(family))


def another(end: End, family: int) -> str:
    """One more address for the host, in the same network."""
    network = next(each.network for each in end.interfaces if each.version == family)
    address = f"{network.network_address + 66}/{network.prefixlen}"
    end.host.run(["ip", "address", "add", address, "dev", end.name, *(["nodad"] if family == 6 else [])])
    return address


def assert_silence(call: Call, senders: list[Port]) -> None:
    """Nothing at either end, and no answer to anybody."""
    assert call.near.receive(0.3) is None
    assert call.far.receive(0.1) is None
    for sender in senders:
        assert sender.receive(0) is None
