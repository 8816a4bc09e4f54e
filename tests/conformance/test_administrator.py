"""Beside live sessions everything of the administrator's goes on working, on ports of the pool too; and ICMP and fragments.

The relay's own ruleset is lab/rulesets.py: forward policy drop with state rules, a port-forward, a masquerade that is bound
to ports of the pool.
"""

from __future__ import annotations

import socket
import threading

import pytest

from chainrelay.datapath.mapping import Install, Remove
from chainrelay.datapath.ruleset import Firewall, Ruleset, administrators_rule
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from conformance.test_sessions import LONG, carried, installed, silent, translated
from conformance.world import ARRIVAL, KernelWorld, Side
from lab import rulesets, wait
from lab.datagrams import Port

pytestmark = pytest.mark.root


def test_the_one_rule_is_what_the_administrator_has() -> None:
    rule = administrators_rule(Ruleset(Firewall.GUEST))
    assert f"{rulesets.MARK:#x}" in rule
    assert rule.endswith(" accept")


def test_his_port_forward_works_before_beside_and_after_sessions(kernel: KernelWorld) -> None:
    outer, inner = rulesets.FORWARDED_UDP
    own = Endpoint(kernel.relay.right.address(kernel.family), outer)
    inside = kernel.port(Side.CLIENT, Endpoint(kernel.address(Side.CLIENT, 1), inner))
    outside = kernel.port(Side.SERVER, Endpoint(kernel.address(Side.SERVER, 2), 4444))

    def works() -> bool:
        outside.send(own, b"question")
        question = inside.receive(ARRIVAL)
        if question is None:
            return False
        inside.send(question[1], b"answer")
        answer = outside.receive(ARRIVAL)
        return answer is not None and answer[1] == own

    assert works()
    mapping = installed(kernel, kernel.mapping())
    assert carried(kernel, mapping)
    assert works()
    kernel.backend.apply([Remove(mapping)])
    assert works()


def test_his_masquerade_may_borrow_a_port_of_the_pool(kernel: KernelWorld) -> None:
    mapping = installed(kernel, kernel.mapping())
    service = kernel.port(Side.SERVER, Endpoint(kernel.address(Side.SERVER, 2), rulesets.BORROWING_PORT))
    borrowed = set()
    for number in range(5):
        client = kernel.port(Side.CLIENT, Endpoint(kernel.address(Side.CLIENT, 1), 6100 + number))
        client.send(service.endpoint, b"question")
        question = service.receive(ARRIVAL)
        assert question is not None
        assert question[1].address == kernel.relay.right.address(kernel.family)
        assert question[1].port in range(rulesets.BORROWED[0], rulesets.BORROWED[1] + 1)
        borrowed.add(question[1])
        service.send(question[1], b"answer")
        answer = client.receive(ARRIVAL)
        assert answer is not None
        assert answer[1] == service.endpoint
    stranger = kernel.port(Side.SERVER, Endpoint(kernel.address(Side.SERVER, 3), rulesets.BORROWING_PORT))
    for each in borrowed:
        stranger.send(each, b"from elsewhere")
    assert client.receive(0.3) is None
    assert carried(kernel, mapping)


def test_he_reloads_his_ruleset_under_a_session(kernel: KernelWorld) -> None:
    mapping, later = installed(kernel, kernel.mapping()), installed(kernel, kernel.mapping())
    assert carried(kernel, mapping)
    kernel.reload_administrator()
    assert carried(kernel, mapping)
    assert carried(kernel, later)  # its first packet comes after his chains were made anew


@pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
def test_an_icmp_error_finds_its_way_back_through_the_relay(kernel: KernelWorld, side: Side) -> None:
    """The far partner's socket is closed: its host's port unreachable must reach the sender, as from the relay's endpoint."""
    mapping = kernel.mapping()
    assert kernel.backend.apply([Install(mapping, LONG)])
    ((to_server, to_client),) = mapping.flows()
    flow = to_server if side is Side.CLIENT else to_client
    with kernel.hosts[side].enter():
        sender = socket.socket(socket.AF_INET if kernel.family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with sender:
        sender.bind((str(flow.source.address), flow.source.port))
        sender.connect((str(flow.destination.address), flow.destination.port))
        sender.setblocking(False)

        def is_refused() -> bool:
            """Hosts limit their errors to one a second and peer: one datagram may stay without."""
            try:
                sender.send(b"nobody there")
                sender.recv(100)
            except BlockingIOError:
                return False
            except ConnectionRefusedError:
                return True
            raise AssertionError("somebody answered")

        wait.until(is_refused, "the error", ARRIVAL)


def test_a_stranger_gets_no_answer_from_a_pool_port(kernel: KernelWorld) -> None:
    own = Endpoint(kernel.address(Side.CLIENT, 2), 28888)
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with kernel.hosts[Side.CLIENT].enter():
            sender = socket.socket(socket.AF_INET if kernel.family == 4 else socket.AF_INET6, kind)
        with sender:
            sender.settimeout(0.4)
            with pytest.raises(TimeoutError):
                sender.connect((str(own.address), own.port))
                sender.send(b"anybody?")
                sender.recv(100)


@pytest.mark.parametrize("size", [1473, 4000, 20000, 60000])
def test_fragments_are_put_together_and_translated(kernel: KernelWorld, size: int) -> None:
    mapping = installed(kernel, kernel.mapping())
    client, server = kernel.port(Side.CLIENT, mapping.client_partner), kernel.port(Side.SERVER, mapping.server_partner)
    payload = bytes(number % 251 for number in range(size))
    client.send(mapping.client_side, payload)
    assert server.receive(ARRIVAL) == (payload, mapping.server_side)
    server.send(mapping.server_side, payload)
    assert client.receive(ARRIVAL) == (payload, mapping.client_side)
    kernel.backend.apply([Remove(mapping)])
    client.send(mapping.client_side, payload)
    assert server.receive(0.3) is None


def test_both_ends_may_send_their_first_datagram_at_once(kernel: KernelWorld) -> None:
    """In a race one side's first datagram may be lost to conntrack; both directions work from the next one on."""
    for _ in range(30):
        mapping = installed(kernel, kernel.mapping())
        ((to_server, to_client),) = mapping.flows()
        client, server = kernel.port(Side.CLIENT, to_server.source), kernel.port(Side.SERVER, to_client.source)
        start = threading.Barrier(2)

        def first(port: Port, to: Endpoint, start: threading.Barrier = start) -> None:
            start.wait()
            port.send(to, b"first")

        threads = [
            threading.Thread(target=first, args=(client, to_server.destination)),
            threading.Thread(target=first, args=(server, to_client.destination)),
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert translated(kernel, Side.CLIENT, to_server)
        assert translated(kernel, Side.SERVER, to_client)


def test_early_datagrams_from_both_sides_leave_no_entry(kernel: KernelWorld) -> None:
    mapping = kernel.mapping(Protocol.UDP)
    kernel.listen(mapping)
    for _ in range(3):
        assert silent(kernel, mapping)
    assert kernel.known(mapping) == 0
    installed(kernel, mapping)
    assert carried(kernel, mapping, Side.SERVER)
