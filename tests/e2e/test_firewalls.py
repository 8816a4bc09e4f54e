"""Beside an administrator's own ruleset (M18, M24): his policies, his NAT, his reloads; and an address that is lent."""

from __future__ import annotations

import errno
import select
import socket
import threading
from dataclasses import replace

import pytest

from chainrelay.wire.endpoint import Endpoint
from e2e.chain import Chain
from lab import rulesets
from lab.datagrams import Port, Stream

pytestmark = pytest.mark.root


@pytest.mark.parametrize("firewall", ["guest", "own"])
@pytest.mark.parametrize("policy", ["drop", "accept"])
def test_whatever_his_policy_is(policy: rulesets.Policy, firewall: str) -> None:
    with Chain(2, (4,), policy=policy, firewall=firewall) as chain, chain.server(4) as server:
        with chain.open(server) as call:
            call.proves_flow()
            sneaking = Stream()
            sneaking.send(call.far, call.session.local, 5)
            assert sneaking.tally(call.near, timeout=0.2).seen == {}, "plain routing leads to the client"
        assert chain.leftovers() == {}


def test_the_one_rule_is_his_to_give(two: Chain) -> None:
    """As a guest chainrelay does not get past a forward policy of drop that has no rule for its mark."""
    firewall = two.firewalls[1]
    strict = replace(two.row.administrator(firewall), accepts_mark=False)
    with two.server(4) as server, two.open(server) as call:
        call.proves_flow()
        call.close()
    with two.server(4) as server:
        try:
            session = two.open_to(server.endpoint)
            rulesets.load(firewall.host, strict.ruleset())
            server.ports[0].send(session.exit, b"?")
            assert Port.adopt(session.socket).receive(0.3) is None
        finally:
            rulesets.load(firewall.host, two.row.administrator(firewall).ruleset())
        try:
            server.ports[0].send(session.exit, b"!")
            received = Port.adopt(session.socket).receive()
            assert received is not None
            assert received[0] == b"!"
        finally:
            two.close_session(session)


def test_his_reload_in_mid_session_costs_nothing(two: Chain) -> None:
    with two.server(4) as server, two.open(server) as call:
        stream = Stream()
        sender = threading.Thread(target=stream.send, args=(call.far, call.visitor.peer, 1000, 1000.0))
        sender.start()
        for _ in range(3):
            for firewall in two.firewalls:
                rulesets.load(firewall.host, two.row.administrator(firewall).ruleset())
        still_sending = sender.is_alive()
        sender.join()
        assert still_sending, "the reloads were to fall into the stream"
        tally = stream.tally(call.near)
        assert (tally.lost, tally.duplicates, tally.sources) == (0, 0, {call.session.entry})
        call.proves_flow()


@pytest.mark.parametrize("family", [4, 6])
def test_his_port_forward_and_masquerade_work_beside_sessions(two: Chain, family: int) -> None:
    """The masquerade keeps the source port, which lies in the relay's pool, and finds its answers."""
    first, last = two.firewalls
    with two.server(family) as server, two.open(server) as call:
        call.proves_flow()
        service = Port(two.row.server, server.address, rulesets.FORWARDED_UDP[1])
        with service, Port(two.row.client, two.row.client_end.address(family), 20005) as near:
            there, back = Stream(), Stream()
            there.send(near, Endpoint(last.bound(family), rulesets.FORWARDED_UDP[0]), 10)
            tally = there.tally(service)
            borrowed = Endpoint(first.right.address(family), 20005)
            assert (tally.lost, tally.sources) == (0, {borrowed})
            back.send(service, borrowed, 10)
            assert back.tally(near).lost == 0
        call.proves_flow()


@pytest.mark.parametrize("family", [4, 6])
def test_icmp_errors_beside_sessions_arrive(two: Chain, family: int) -> None:
    """Nobody listens behind the port-forward: the server's refusal comes back through both firewalls."""
    with two.server(family) as server, two.open(server) as call:
        call.proves_flow()
        refused = Endpoint(two.firewalls[1].bound(family), rulesets.FORWARDED_UDP[0])
        with two.row.client.enter():
            sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        with sock:
            assert _error_after_sending(sock, refused) == errno.ECONNREFUSED


@pytest.mark.parametrize("family", [4, 6])
def test_icmp_errors_of_a_session_arrive_translated(two: Chain, family: int) -> None:
    """The server's program has gone: the client hears of it from P2."""
    with two.server(family) as server, two.open(server) as call:
        call.proves_flow()
        call.far.close()
        assert _error_after_sending(call.session.socket, call.session.entry) == errno.ECONNREFUSED


@pytest.mark.parametrize("filtered", [(1,), (2,), pytest.param((1, 2, 3), marks=pytest.mark.long)])
@pytest.mark.parametrize("family", [4, 6])
def test_an_announced_address_that_is_not_the_bound_one(filtered: tuple[int, ...], family: int) -> None:
    with Chain(max(2, len(filtered)), (family,), filtered=filtered) as chain, chain.server(family) as server:
        for server_first in (True, False):
            with chain.open(server) as call:
                first = chain.firewalls[0]
                assert call.session.entry.address == first.announced(family)
                assert (first.announced(family) != first.bound(family)) is (1 in filtered)
                call.proves_flow(server_first=server_first)
        assert chain.leftovers() == {}


def _error_after_sending(sock: socket.socket, to: Endpoint) -> int:
    sock.setblocking(False)
    sock.connect((str(to.address), to.port))
    sock.send(b"anybody there?")
    select.select([sock], [], [], 3)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


