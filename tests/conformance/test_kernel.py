"""What only a real kernel can show: resets, renewal under traffic, rules loaded again, other people's tables."""

from __future__ import annotations

import threading

import pytest

from chainrelay.datapath.mapping import Counters, Done, Install, Remove, Renew
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from conformance.test_sessions import LONG, NOTHING, SHORT, carried, installed, sides, silent
from conformance.world import KernelWorld, Side
from lab import wait
from lab.datagrams import Stream

pytestmark = pytest.mark.root

rules_only = pytest.mark.parametrize(
    "kernel", [pytest.param(name, marks=pytest.mark.root) for name in ("nft", "legacy")], indirect=True
)
"""What is about the rules' own reconfiguration and counters; the fast path's are in tests/xdp and tests/unit/ebpf."""


class Traffic:
    """Numbered datagrams of a session, each way, from threads of their own."""

    def __init__(self, world: KernelWorld, count: int, rate: float = 4000.0) -> None:
        self.mapping = installed(world, world.mapping())
        self._client = world.port(Side.CLIENT, self.mapping.client_partner)
        self._server = world.port(Side.SERVER, self.mapping.server_partner)
        self._there, self._back = Stream(), Stream()
        self._threads = [
            threading.Thread(target=self._there.send, args=(self._client, self.mapping.client_side, count, rate)),
            threading.Thread(target=self._back.send, args=(self._server, self.mapping.server_side, count, rate)),
        ]
        for each in self._threads:
            each.start()

    @property
    def running(self) -> bool:
        """Whether something is still to be sent."""
        return any(each.is_alive() for each in self._threads)

    def lost(self) -> tuple[int, int]:
        """Datagrams that never came, to the server and to the client."""
        for each in self._threads:
            each.join()
        return self._there.tally(self._server).lost, self._back.tally(self._client).lost


@rules_only
def test_renewal_in_a_loop_loses_no_datagram_and_no_counts_but_those_in_flight(kernel: KernelWorld) -> None:
    """A datagram that the other processor is just counting when the renewal commits may be missed; nothing else may."""
    count, renewals, total = 8000, 0, Counters()
    traffic = Traffic(kernel, count)
    while traffic.running:
        (outcome,) = kernel.backend.apply([Renew(traffic.mapping, LONG)])
        assert isinstance(outcome, Done)
        total += outcome.counters
        renewals += 1
    assert traffic.lost() == (0, 0)
    (outcome,) = kernel.backend.apply([Remove(traffic.mapping)])
    assert isinstance(outcome, Done)
    total += outcome.counters
    assert renewals > 100
    for counted in (total.to_server_packets, total.to_client_packets):
        assert 0 <= count - counted <= 1 + renewals // 100


@rules_only
def test_rules_loaded_again_with_another_pool_lose_nothing(kernel: KernelWorld) -> None:
    pools = (((30000, 30999),), ((20000, 29999),), ((20000, 20001), (40000, 40010)))
    traffic, rounds = Traffic(kernel, 4000), 0
    with kernel.relay.host.enter():
        while traffic.running:
            kernel.reconfigure(Ruleset(Firewall.GUEST, pools[rounds % len(pools)]))
            rounds += 1
        kernel.reconfigure(Ruleset(Firewall.GUEST))
    assert traffic.lost() == (0, 0)
    assert rounds > 10
    reserved = kernel.relay.host.run(["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]).stdout.strip()
    assert reserved == "20000-29999"


@rules_only
def test_a_session_on_a_port_of_an_earlier_pool_begins_and_ends_as_any_other(kernel: KernelWorld) -> None:
    mapping = installed(kernel, kernel.mapping())
    with kernel.relay.host.enter():
        kernel.reconfigure(Ruleset(Firewall.GUEST, ((31000, 31999),)))
        try:
            assert carried(kernel, mapping)
            kernel.backend.apply([Renew(mapping, SHORT)])
            kernel.let_pass(SHORT + 0.3)
            assert silent(kernel, mapping)
        finally:
            kernel.reconfigure(Ruleset(Firewall.GUEST))


@sides
@pytest.mark.parametrize("end", ["lease", "linger"])
def test_a_tcp_session_is_reset_when_its_lease_ends(kernel: KernelWorld, first: Side, end: str) -> None:
    mapping = kernel.mapping(Protocol.TCP)
    kernel.listen(mapping)
    assert kernel.backend.apply([Install(mapping, LONG)]) == [NOTHING]
    ((to_server, to_client),) = mapping.flows()
    flow = to_server if first is Side.CLIENT else to_client
    near, far = kernel.connect(first, flow.source, flow.destination, flow.new_destination)
    with near, far:
        near.sendall(b"before")
        assert far.recv(100) == b"before"
        if end == "lease":
            kernel.backend.apply([Renew(mapping, 1.0)])
            kernel.let_pass(1.2)
        else:
            kernel.backend.apply([Remove(mapping, linger=True)])
        for connection in (near, far):
            connection.settimeout(3.0)
            connection.sendall(b"after")
            with pytest.raises(ConnectionResetError):
                connection.recv(100)
    assert kernel.known(mapping) == 1
    kernel.backend.apply([Remove(mapping)])
    assert kernel.known(mapping) == 0


def test_flush_own_leaves_other_tables_as_they_were(kernel: KernelWorld) -> None:
    host = kernel.relay.host
    host.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=8080,20005-20010,29990-30005"])
    kernel.setup()
    before = kernel.administrators()
    assert carried(kernel, installed(kernel, kernel.mapping()))
    assert host.run(["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]).stdout.strip() == "8080,20000-30005"
    kernel.flush()
    assert kernel.administrators() == before
    assert kernel.ours() == []
    assert host.run(["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]).stdout.strip() == "8080,30000-30005"
    kernel.flush()
    host.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports="])
    kernel.setup()


@rules_only
def test_a_flushed_ruleset_is_set_up_again_by_the_next_operation(kernel: KernelWorld) -> None:
    lost, kept = installed(kernel, kernel.mapping()), installed(kernel, kernel.mapping())
    assert carried(kernel, kept)
    kernel.lose_rules()
    outcomes = kernel.backend.apply([Remove(lost), Renew(kept, LONG)])
    assert [type(each) for each in outcomes] == [Done, Done]
    assert carried(kernel, kept)
    assert silent(kernel, lost)


@rules_only
def test_an_own_firewall_forwards_sessions_and_nothing_else(kernel: KernelWorld) -> None:
    host = kernel.relay.host
    kernel.dismiss_administrator()
    client = kernel.port(Side.CLIENT, Endpoint(kernel.address(Side.CLIENT, 1), 7000))
    server = kernel.port(Side.SERVER, Endpoint(kernel.address(Side.SERVER, 2), 7000))
    try:
        mapping = installed(kernel, kernel.mapping())
        client.send(server.endpoint, b"past every rule")
        assert server.receive(10.0) is not None  # so a packet that is routed does arrive, without "own"
        with host.enter():
            kernel.reconfigure(Ruleset(Firewall.OWN))
        assert carried(kernel, mapping)
        client.send(server.endpoint, b"through the firewall")
        assert server.receive(0.3) is None
        with host.enter():
            kernel.reconfigure(Ruleset(Firewall.GUEST))
        client.send(server.endpoint, b"past every rule again")
        assert server.receive(10.0) is not None
    finally:
        kernel.reload_administrator()


def test_a_batch_of_sessions_ends_by_its_lease_and_is_listed_until_then(kernel: KernelWorld) -> None:
    mappings = [kernel.mapping() for _ in range(200)]
    kernel.backend.apply([Install(each, 1.0) for each in mappings])
    sources = {each.client_partner for each in mappings}
    assert sources <= {flow.source for flow in kernel.backend.flows()}
    wait.until(lambda: not sources & {flow.source for flow in kernel.backend.flows()}, "the leases to end", 3.0)
