"""What the fast path leaves to the rules: each kind of odd datagram gets through (or is answered) and the verdict says who took it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from chainrelay.datapath.mapping import Mapping
from chainrelay.datapath.xdp_layout import Verdict
from lab import wait
from lab.datagrams import Port
from lab.fastpath import FastRow

pytestmark = pytest.mark.root

IP_MTU_DISCOVER, PMTUDISC_DONT, PMTUDISC_DO, IP_MTU = 10, 0, 2, 14
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24
IP_OPTIONS = 4
TIMESTAMP_OPTION = bytes((68, 8, 5, 0, 0, 0, 0, 0))
SMALL = 1300


@pytest.fixture(scope="module")
def row() -> Iterator[FastRow]:
    """Two relays; the link between the last one and the server is narrow."""
    with FastRow(2) as made:
        last, server = made.row.firewalls[-1].right, made.row.server_end
        last.host.run(["ip", "link", "set", last.name, "mtu", str(SMALL)])
        server.host.run(["ip", "link", "set", server.name, "mtu", str(SMALL)])
        yield made


class Session:
    """A session with sockets at both ends."""

    def __init__(self, row: FastRow, family: int, port: int) -> None:
        self.row, self.mappings = row, row.session(family, port)
        row.install(self.mappings)
        wait.until(self._ready, "the neighbours")
        self.entry, self.exit = self.mappings[0].client_side, self.mappings[-1].server_side
        self.client = _port(row, self.mappings[0], client=True)
        self.server = _port(row, self.mappings[-1], client=False)

    def _ready(self) -> bool:
        return all(f.ready(m) for f, m in zip(self.row.firewalls, self.mappings, strict=True))

    def arrives(self, payload: bytes) -> bool:
        """Client to server."""
        self.server.drain()
        self.client.send(self.entry, payload)
        return self.server.receive(10.0) == (payload, self.exit)

    def took(self, hop: int, verdict: Verdict, act: Callable[[], object]) -> int:
        """How often relay `hop` gave this verdict during `act`."""
        before = self.row.firewalls[hop].verdict(verdict)
        act()
        return self.row.firewalls[hop].verdict(verdict) - before

    def close(self) -> None:
        """Close the sockets, remove the session."""
        self.client.close()
        self.server.close()
        self.row.remove(self.mappings)


def _port(row: FastRow, mapping: Mapping, *, client: bool) -> Port:
    end = mapping.client_partner if client else mapping.server_partner
    return Port(row.row.client if client else row.row.server, end.address, end.port)


@pytest.fixture
def session(row: FastRow) -> Iterator[Session]:
    made = Session(row, 4, 5200)
    yield made
    made.close()


@pytest.fixture
def session6(row: FastRow) -> Iterator[Session]:
    made = Session(row, 6, 5206)
    yield made
    made.close()


def test_fragments_take_the_rules(session: Session) -> None:
    session.client.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
    payload = bytes(3000)
    assert session.took(0, Verdict.FRAGMENT, lambda: session.arrives(payload)) == 3
    assert session.arrives(payload)
    assert session.arrives(b"whole again")


def test_ip_options_take_the_rules(session: Session) -> None:
    session.client.socket.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, TIMESTAMP_OPTION)
    assert session.took(0, Verdict.OPTIONS, lambda: session.arrives(b"with options")) == 1
    assert session.arrives(b"with options, again")


def test_a_ttl_that_ends_is_answered_by_the_stack(session: Session) -> None:
    session.client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
    session.client.socket.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR

    def refused() -> None:
        session.client.send(session.entry, b"short-lived")
        wait.until(lambda: _error(session.client.socket) == errno.EHOSTUNREACH, "time exceeded")

    assert session.took(0, Verdict.TTL_ENDS, refused) == 1


def test_path_mtu_is_learnt_through_two_relays_with_nothing_in_conntrack(session: Session) -> None:
    client = session.client.socket
    client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    payload = bytes(1400)
    _conntrack_is_empty(session)

    def learn() -> None:
        session.client.send(session.entry, payload)
        wait.until(lambda: _mtu(client, session, socket.IPPROTO_IP, IP_MTU) == SMALL, "frag-needed to reach the client")

    assert session.took(0, Verdict.ICMP_TRANSLATED, learn) == 1
    _conntrack_is_empty(session)
    assert session.row.firewalls[1].verdict(Verdict.TOO_LARGE) > 0
    with pytest.raises(OSError, match="Message too long"):
        session.client.send(session.entry, payload)
    assert session.arrives(bytes(SMALL - 28))


def test_path_mtu_of_ipv6(session6: Session) -> None:
    client = session6.client.socket
    client.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
    _conntrack_is_empty(session6)

    def learn() -> None:
        session6.client.send(session6.entry, bytes(1400))
        wait.until(lambda: _mtu(client, session6, socket.IPPROTO_IPV6, IPV6_MTU) == SMALL, "packet-too-big to reach the client")

    assert session6.took(0, Verdict.ICMP_TRANSLATED, learn) == 1
    assert session6.arrives(bytes(SMALL - 48))


@pytest.mark.parametrize("which", ["session", "session6"])
def test_port_unreachable_comes_back_through_two_relays(which: str, request: pytest.FixtureRequest) -> None:
    session: Session = request.getfixturevalue(which)
    session.server.close()
    _conntrack_is_empty(session)
    client = session.client.socket
    client.connect((str(session.entry.address), session.entry.port))

    def refused() -> None:
        client.send(b"nobody there")
        wait.until(lambda: _error(client) == errno.ECONNREFUSED, "port unreachable")

    assert session.took(1, Verdict.ICMP_TRANSLATED, refused) == 1
    assert session.row.firewalls[0].verdict(Verdict.ICMP_TRANSLATED) > 0


def test_an_unresolved_neighbour_takes_the_rules(session: Session) -> None:
    fast = session.row.firewalls[0]
    link = fast.firewall.right
    peer = session.mappings[0].server_partner.address
    fast.host.run(["ip", "neigh", "flush", "dev", link.name])
    wait.until(lambda: not fast.way(peer).ready or session.arrives(b"x"), "the neighbour to go or to be back")
    assert session.arrives(b"resolved by the stack or by us")
    wait.until(lambda: fast.way(peer).ready, "the neighbour to be resolved again", 10.0)


def _conntrack_is_empty(session: Session) -> None:
    for fast in session.row.firewalls[:1]:
        fast.host.run(["conntrack", "-D", "-p", "udp"], check=False)
        listed = fast.host.run(["conntrack", "-L", "-p", "udp"]).stdout
        assert f"dport={session.entry.port} " not in listed


def _error(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _mtu(sock: socket.socket, session: Session, level: int, option: int) -> int:
    """The path MTU toward the entry as the client's kernel knows it now."""
    with suppress(OSError):
        sock.recv(10, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    with session.row.row.client.enter():
        probe = socket.socket(sock.family, socket.SOCK_DGRAM)
    with probe:
        probe.connect((str(session.entry.address), session.entry.port))
        return probe.getsockopt(level, option)
