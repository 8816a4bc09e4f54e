"""A sealed session between real hosts: a client that seals by `cryptography`, a relay that only rewrites, the last relay, a server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Mapping, Operation, Rekey, Remove, Renew
from chainrelay.datapath.xdp import XdpBackend
from chainrelay.datapath.xdp_layout import Verdict
from chainrelay.limits import SEAL_OVERLAP
from chainrelay.privileged.xdp_kernel import XdpKernel
from chainrelay.wire.sealed import SealKeys
from lab import wait
from lab.datagrams import Port
from lab.fastpath import Fast, FastRow
from unit.ebpf.sealed_world import Peer

pytestmark = pytest.mark.root

NOTHING = Done(Counters())
IP_MTU_DISCOVER, PMTUDISC_DONT, PMTUDISC_DO, IP_MTU = 10, 0, 2, 14
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24


def keys(epoch: int) -> SealKeys:
    return SealKeys(bytes((0xD0 + epoch, 9, 9, 2 * epoch)), bytes([epoch]) * 32, b"i" * 12, bytes([epoch + 128]) * 32, b"r" * 12)


@pytest.fixture(scope="module", params=["native", "generic"])
def row(request: pytest.FixtureRequest) -> Iterator[FastRow]:
    with FastRow(2, request.param) as made:
        yield made


class Sealed:
    """A sealed session through the row, with sockets at both ends."""

    def __init__(self, row: FastRow, family: int, port: int) -> None:
        self.row = row
        first, last = row.session(family, port)
        self.first, self.mapping = first, replace(last, sealed=True)
        self.last: Fast = row.firewalls[-1]
        self.fast = self.last.fast
        self.peer = Peer(keys(0))
        assert self.fast.apply([Install(self.mapping, 60, keys(0))]) == [NOTHING]
        assert row.firewalls[0].backend.apply([Install(first, 60)]) == [NOTHING]
        wait.until(lambda: row.firewalls[0].ready(first) and self.last.ready(last), "the neighbours")
        self.client = Port(row.row.client, first.client_partner.address, first.client_partner.port)
        self.server = Port(row.row.server, last.server_partner.address, last.server_partner.port)

    def to_server(self, text: bytes, timeout: float = 3.0) -> bool:
        """Sealed here, clear there, from the exit."""
        self.client.send(self.first.client_side, self.peer.seal(text))
        return self.server.receive(timeout) == (text, self.mapping.server_side)

    def to_client(self, text: bytes) -> bool:
        """Clear there, sealed here, from the entry."""
        self.server.send(self.mapping.server_side, text)
        got = self.client.receive(10.0)
        return got is not None and self.peer.open(got[0]) == text and got[1] == self.first.client_side

    def verdict(self, verdict: Verdict) -> int:
        """So far, at the last relay."""
        return self.last.verdict(verdict)

    def close(self) -> None:
        """Sockets and session."""
        self.client.close()
        self.server.close()
        assert isinstance(self.fast.apply([Remove(self.mapping)])[0], Done)
        self.row.firewalls[0].backend.apply([Remove(self.first)])
        assert self.fast.sealed_keys() == []


@pytest.fixture(params=[4, 6])
def session(row: FastRow, request: pytest.FixtureRequest) -> Iterator[Sealed]:
    made = Sealed(row, request.param, 5600 + request.param)
    yield made
    made.close()


def test_datagrams_of_every_kind_of_size_go_both_ways(session: Sealed) -> None:
    room = 1500 - 28 - (28 if session.mapping.family == 4 else 48)
    sizes = [*range(40), 63, 64, 65, 172, 511, 512, 513, 1200, 1400, room - 1, room]
    for size in sizes:
        text = bytes((size + number) % 256 for number in range(size))
        assert session.to_server(text), size
        assert session.to_client(text), size
    header = 28 if session.mapping.family == 4 else 48
    there, back = sum(sizes) + len(sizes) * (header + 28), sum(sizes) + len(sizes) * header
    assert session.fast.apply([Renew(session.mapping, 60)]) == [Done(Counters(len(sizes), there, len(sizes), back))]
    counts = session.fast.sealed_keys()[0].counts
    assert (counts.opened, counts.sealed, counts.forged, counts.replayed) == (len(sizes), len(sizes), 0, 0)
    assert session.row.firewalls[0].rules.counters([session.first]) == [Counters()], "the rules carried some at the first relay"


def test_replayed_and_forged_datagrams_never_arrive(session: Sealed) -> None:
    payload = session.peer.seal(b"once")
    session.client.send(session.first.client_side, payload)
    assert session.server.receive(10.0) is not None
    replayed, forged = session.verdict(Verdict.REPLAYED), session.verdict(Verdict.FORGED)
    for _ in range(5):
        session.client.send(session.first.client_side, payload)
        good = session.peer.seal(b"text")
        session.client.send(session.first.client_side, good[:-1] + bytes([good[-1] ^ 1]))
        session.client.send(session.first.client_side, b"plain text, in the hope that somebody passes it on")
    wait.until(lambda: session.verdict(Verdict.REPLAYED) == replayed + 5, "the replays")
    wait.until(lambda: session.verdict(Verdict.FORGED) == forged + 5, "the forgeries")
    assert session.server.receive(0.3) is None
    assert session.to_server(b"and the next good one does")


def test_a_key_change_under_traffic_loses_nothing(session: Sealed) -> None:
    """Both directions at once; the client takes each new key into use a moment after the relay has it."""
    stop, sent = threading.Event(), 0
    peers = [session.peer]
    texts: list[bytes] = []

    def change() -> None:
        for epoch in (1, 2, 3):
            time.sleep(0.3)
            made = Peer(keys(epoch))
            peers.append(made)  # opens by both from before REKEY
            assert session.fast.apply([Rekey(session.mapping, keys(epoch))] * 2) == [NOTHING] * 2
            time.sleep(0.1)
            session.peer = made
        time.sleep(0.3)
        stop.set()

    changer = threading.Thread(target=change)
    changer.start()
    there: set[bytes] = set()

    def arrived(timeout: float = 0.0) -> bool:
        """Take what has come; a socket holds a few hundred frames of XDP at most."""
        before = len(there) + len(texts)
        while len(there) < sent and (got := session.server.receive(timeout)) is not None:
            there.add(got[0])
        while len(texts) < sent and (back := session.client.receive(timeout)) is not None:
            by = next(peer for peer in peers if peer.key_id == back[0][:4])
            texts.append(by.open(back[0]))
        return len(there) + len(texts) > before

    while not stop.is_set():
        for _ in range(20):
            number = sent.to_bytes(8)
            session.client.send(session.first.client_side, session.peer.seal(number))
            session.server.send(session.mapping.server_side, number)
            sent += 1
        arrived()
        time.sleep(0.002)
    changer.join()
    while arrived(1.0):
        pass
    numbers = {number.to_bytes(8) for number in range(sent)}
    assert there == numbers
    assert set(texts) == numbers
    assert len(texts) == sent
    assert sent > 500
    assert all(peer.seen for peer in peers), "each key sealed some"
    assert {held.key_id for held in session.fast.sealed_keys()} == {keys(2).key_id, keys(3).key_id}
    assert session.to_server(b"go on")


def test_the_last_key_opens_until_its_time_is_over(session: Sealed) -> None:
    old = session.peer
    session.fast.apply([Rekey(session.mapping, keys(1))])
    session.peer = Peer(keys(1))
    assert session.to_client(b"by the new one")
    session.client.send(session.first.client_side, old.seal(b"under way"))
    got = session.server.receive(10.0)
    assert got is not None
    assert got[0] == b"under way"
    ends = next(held.ends_ns for held in session.fast.sealed_keys() if held.key_id == keys(0).key_id)
    assert SEAL_OVERLAP - 8 < (ends - time.monotonic_ns()) / 1e9 < SEAL_OVERLAP
    session.fast.apply([Rekey(session.mapping, keys(2))])
    session.peer = Peer(keys(2))
    unknown = session.verdict(Verdict.UNKNOWN_KEY)
    session.client.send(session.first.client_side, old.seal(b"the one before the last"))
    wait.until(lambda: session.verdict(Verdict.UNKNOWN_KEY) > unknown, "the datagram under a key that is gone")
    assert session.to_server(b"by the newest")


def test_another_process_goes_on_with_the_same_counters(session: Sealed) -> None:
    assert session.to_client(b"first")
    with session.last.host.enter():
        other = XdpBackend(XdpKernel(session.last.folder))
    other.setup()
    assert other.seals()
    again: list[Operation] = [Renew(session.mapping, 60), Rekey(session.mapping, keys(0)), Install(session.mapping, 60, keys(0))]
    assert other.apply(again)[1:] == [NOTHING] * 2
    assert session.to_client(b"second"), "the peer refuses a counter that comes twice"
    assert max(session.peer.seen) == 1
    assert other.apply([Rekey(session.mapping, keys(1))]) == [NOTHING]
    session.peer = Peer(keys(1))
    assert session.to_client(b"third")
    assert session.to_server(b"fourth")
    other.close()


def test_a_program_that_is_loaded_anew_knows_the_keys(session: Sealed) -> None:
    assert session.to_client(b"before")
    mode = next(iter(session.last.report["interfaces"].values()))["mode"]
    report = session.last.pins.load(session.last.host, session.last.interfaces, "--mode", mode)
    assert report["new_maps"] == []
    assert report["no_sealing"] == ""
    assert session.to_client(b"after")
    assert session.to_server(b"after")


def test_fragments_of_a_sealed_datagram_end_at_the_rules(session: Sealed) -> None:
    if session.mapping.family == 6:
        level, option = socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER
    else:
        level, option = socket.IPPROTO_IP, IP_MTU_DISCOVER
    session.client.socket.setsockopt(level, option, PMTUDISC_DONT)
    session.server.socket.setsockopt(level, option, PMTUDISC_DONT)
    session.client.send(session.first.client_side, session.peer.seal(bytes(2000)))
    session.server.send(session.mapping.server_side, bytes(2000))
    assert session.server.receive(0.4) is None
    assert session.client.receive(0.4) is None
    assert session.to_server(b"whole again")


def test_the_server_learns_what_fits(session: Sealed) -> None:
    family = session.mapping.family
    level, discover, mtu = (
        (socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_MTU) if family == 4 else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_MTU)
    )
    server = session.server.socket
    server.setsockopt(level, discover, PMTUDISC_DO)
    server.connect((str(session.mapping.server_side.address), session.mapping.server_side.port))
    server.send(bytes(1500 - (28 if family == 4 else 48)))

    def learnt() -> bool:
        with suppress(OSError):
            server.recv(1)
        return server.getsockopt(level, mtu) == 1500 - 28

    wait.until(learnt, "packet-too-big from the last relay")
    text = bytes(1500 - 28 - (28 if family == 4 else 48))
    server.send(text)
    got = session.client.receive(10.0)
    assert got is not None
    assert session.peer.open(got[0]) == text
    with pytest.raises(OSError, match="Message too long"):
        server.send(text + b"x")


def test_port_unreachable_reaches_the_client_without_the_text(session: Sealed) -> None:
    session.server.close()
    client = session.client.socket
    client.connect((str(session.first.client_side.address), session.first.client_side.port))
    before = session.verdict(Verdict.SEALED_ICMP)

    def refused() -> bool:
        try:
            client.send(session.peer.seal(b"nobody there"))
            time.sleep(0.02)
            client.send(session.peer.seal(b"nobody there"))
        except ConnectionRefusedError:
            return True
        return False

    wait.until(refused, "port unreachable")
    assert session.verdict(Verdict.SEALED_ICMP) > before
    session.server = Port(session.row.row.server, session.mapping.server_partner.address, session.mapping.server_partner.port)


def test_an_interface_without_the_program_is_refused() -> None:
    with FastRow(1, families=(4,)) as row:
        fast = row.firewalls[0]
        mapping = replace(row.session(4, 5700)[-1], sealed=True)
        wait.until(lambda: fast.ready(mapping), "the neighbours")
        right = fast.interfaces[1]
        fast.host.run(["ip", "link", "set", right, "xdpdrv", "off"])
        refused = f"interface {right}, which has no fast path"
        wait.until(lambda: not fast.way(mapping.server_partner.address).fast, "the way to follow")
        outcome = fast.fast.apply([Install(mapping, 60, keys(0))])[0]
        assert isinstance(outcome, Failed)
        assert refused in outcome.why
        assert fast.fast.sealed_keys() == []
        fast.pins.load(fast.host, fast.interfaces, "--mode", "native")
        wait.until(lambda: fast.ready(mapping), "the way to follow", 10)
        assert isinstance(fast.fast.apply([Install(mapping, 60, keys(0))])[0], Done)


def test_a_removed_session_is_silent_in_both_directions(row: FastRow) -> None:
    with closing(Sealed(row, 4, 5710)) as session:
        assert session.to_server(b"there")
        assert isinstance(session.fast.apply([Remove(session.mapping)])[0], Done)
        assert not session.to_server(b"gone", timeout=0.3)
        session.server.send(session.mapping.server_side, b"gone")
        assert session.client.receive(0.3) is None


def _lives(mapping: Mapping, fast: XdpBackend) -> bool:
    return any(flow.source == mapping.client_partner for flow in fast.flows())


def test_a_lease_that_ends_stops_it_without_anybody(row: FastRow) -> None:
    with closing(Sealed(row, 4, 5720)) as session:
        session.fast.apply([Renew(session.mapping, 0.5)])
        wait.until(lambda: not _lives(session.mapping, session.fast), "the lease to end")
        time.sleep(0.05)  # the program's clock may be a tick behind
        ended = session.verdict(Verdict.SEALED_LEASE_ENDED)
        assert not session.to_server(b"late", timeout=0.3)
        session.server.send(session.mapping.server_side, b"late")
        assert session.client.receive(0.3) is None
        assert session.verdict(Verdict.SEALED_LEASE_ENDED) == ended + 2
