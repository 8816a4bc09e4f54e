"""The next hops follow the network: a changed MAC, a changed route, a link that goes; under traffic and after a long silence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chainrelay.datapath.mapping import Renew
from chainrelay.datapath.xdp_layout import Verdict
from lab import wait
from lab.datagrams import Port
from lab.fastpath import FastRow

pytestmark = pytest.mark.root

SOON = 20.0  # seconds; the kernel looks after its managed neighbours every five, and the timers of each are shortened below


@pytest.fixture(scope="module")
def row() -> Iterator[FastRow]:
    """Before any neighbour is known: one that is would be believed for the time that was usual then (RFC 4861 §6.3.2: up to 45 s)."""
    with FastRow(1) as made:
        firewall = made.firewalls[0]
        for version, link in ((version, link) for version in ("ipv4", "ipv6") for link in firewall.interfaces):
            base = f"net__{version}__neigh__{link}__"
            times = {"base_reachable_time_ms": 300, "delay_first_probe_time": 1, "retrans_time_ms": 100, "interval_probe_time_ms": 300}
            firewall.host.sysctl(**{f"{base}{name}": time for name, time in times.items()})
        yield made


def test_neighbours_are_let_go_with_the_fast_path() -> None:
    with FastRow(1) as row:
        fast = row.firewalls[0]
        flow = Flow(row, 4, 5390)
        partner = str(flow.mapping.server_partner.address)
        assert f"{partner} dev {fast.interfaces[1]} lladdr" in fast.host.run(["ip", "neigh"]).stdout
        assert "managed" in fast.host.run(["ip", "neigh"]).stdout
        flow.close()
        fast.pins.load(fast.host, [], "--detach")
        assert "managed" not in fast.host.run(["ip", "neigh"]).stdout


class Flow:
    """A session from the client to the server with an asker for its way."""

    def __init__(self, row: FastRow, family: int, port: int) -> None:
        self.row, self.fast = row, row.firewalls[0]
        self.mapping = row.session(family, port)[0]
        row.install([self.mapping])
        self.client = Port(row.row.client, self.mapping.client_partner.address, self.mapping.client_partner.port)
        self.server = Port(row.row.server, self.mapping.server_partner.address, self.mapping.server_partner.port)
        wait.until(lambda: self.fast.ready(self.mapping), "the neighbours")

    @property
    def mac(self) -> str:
        """The server's MAC as the fast path uses it."""
        return self.fast.way(self.mapping.server_partner.address).neighbour.hex(":")

    def goes_fast(self) -> bool:
        """One datagram, sent and received by the fast path."""
        before = self.fast.verdict(Verdict.FORWARDED)
        self.server.drain()
        self.client.send(self.mapping.client_side, b"x")
        return self.server.receive(0.2) is not None and self.fast.verdict(Verdict.FORWARDED) > before

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self.row.remove([self.mapping])


@pytest.fixture(params=[4, 6])
def flow(row: FastRow, request: pytest.FixtureRequest) -> Iterator[Flow]:
    made = Flow(row, request.param, 5400 + request.param)
    yield made
    made.close()


def change_mac(flow: Flow, mac: str) -> None:
    end = flow.row.row.server_end
    end.host.run(["ip", "link", "set", end.name, "address", mac])


def test_an_announced_mac_is_followed_under_traffic(flow: Flow) -> None:
    """As a standby machine does when it takes over: gratuitous ARP, unsolicited neighbour advertisement."""
    end = flow.row.row.server_end
    flow.row.row.server.sysctl(**{f"net__ipv4__conf__{end.name}__arp_notify": 1, f"net__ipv6__conf__{end.name}__ndisc_notify": 1})
    assert flow.goes_fast()
    mac = f"02:00:00:00:{flow.mapping.family:02x}:11"
    change_mac(flow, mac)
    end.host.run(["ip", "link", "set", end.name, "down"])
    end.host.run(["ip", "link", "set", end.name, "up"])
    _restore(flow)
    wait.until(lambda: flow.goes_fast() and flow.mac == mac, "datagrams to go to the new MAC", SOON)


def test_a_silent_change_of_mac_is_found_after_a_long_silence(flow: Flow) -> None:
    """Nothing is sent and nobody announces anything; the kernel probes its managed neighbour and finds out.

    Ten minutes are 20 times the usual reachable time; here that time is shortened (`row`) instead of waited for.
    """
    end = flow.row.row.server_end
    flow.row.row.server.sysctl(**{f"net__ipv4__conf__{end.name}__arp_notify": 0, f"net__ipv6__conf__{end.name}__ndisc_notify": 0})
    before = flow.mac
    mac = f"02:00:00:00:{flow.mapping.family:02x}:22"
    change_mac(flow, mac)
    assert before != mac
    wait.until(lambda: flow.mac == mac, "the kernel to probe and the way to follow", SOON)
    wait.until(flow.goes_fast, "a datagram over the fast path", SOON)


def test_our_own_mac_may_change_and_renewal_heals(flow: Flow) -> None:
    """Until the renewal the datagrams go the slow way: they are for a station that the entry does not know."""
    link = flow.fast.firewall.left
    before = flow.fast.verdict(Verdict.OTHER_STATION)
    link.host.run(["ip", "link", "set", link.name, "address", f"02:00:00:00:{flow.mapping.family:02x}:33"])
    flow.row.row.client.run(["ip", "neigh", "flush", "dev", flow.row.row.client_end.name])

    def arrives() -> bool:
        flow.client.send(flow.mapping.client_side, b"x")
        return flow.server.receive(0.2) is not None

    wait.until(arrives, "the rules to carry it", SOON)
    assert flow.fast.verdict(Verdict.OTHER_STATION) > before
    flow.fast.backend.apply([Renew(flow.mapping, 60)])
    wait.until(flow.goes_fast, "the fast path to carry it again", SOON)


def test_a_link_that_goes_down_is_no_way(flow: Flow) -> None:
    end = flow.fast.firewall.right
    end.host.run(["ip", "link", "set", end.name, "down"])
    wait.until(lambda: not flow.fast.ready(flow.mapping), "the way to go", SOON)
    flow.client.send(flow.mapping.client_side, b"into the void")
    end.host.run(["ip", "link", "set", end.name, "up"])
    _restore(flow)
    wait.until(flow.goes_fast, "the way to come back", SOON)


def _restore(flow: Flow) -> None:
    """Taking a link down takes IPv6 addresses and routes with it: put them back."""
    row = flow.row.row
    for end in (row.server_end, flow.fast.firewall.right):
        for interface in end.interfaces:
            nodad = ["nodad"] if interface.version == 6 else []
            end.host.run(["ip", "address", "replace", str(interface), "dev", end.name, *nodad])
    for family in row.families:
        via = flow.fast.firewall.right.address(family)
        row.server.run(["ip", f"-{family}", "route", "replace", "default", "via", str(via)])
