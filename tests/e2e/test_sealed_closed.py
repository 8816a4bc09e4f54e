"""A sealed session whose last relay can't open and seal now: no ciphertext reaches the server's side, no text the client's.

Frame by frame, ICMP and fragments included, on the server's link, on the wire between the relays and on the client's link. Each test
shows as well that what must not pass had come as far as the last relay, so that the search could find it.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import pytest

from chainrelay.client.datagrams import send_one
from chainrelay.errors import Refusal
from chainrelay.limits import LEASE_GRACE
from chainrelay.wire.endpoint import Endpoint
from demo.checks import common_run
from e2e.chain import Call, Chain, Server
from lab import wait
from lab.capture import Capture
from lab.datagrams import Port
from lab.link import End

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

LONG = pytest.mark.long
FAMILIES = pytest.mark.parametrize("family", [4, pytest.param(6, marks=LONG)])
LEASE = 6
Side = Literal["server", "client"]
SETTLED = 0.4  # seconds in which a datagram that passes has passed
IP_OPTIONS, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT, IPV6_DSTOPTS = 4, 10, 23, 0, 59
TIMESTAMP_OPTION = bytes((68, 8, 5, 0, 0, 0, 0, 0))
PADDING_OPTION = bytes((0, 0, 1, 4, 0, 0, 0, 0))


@pytest.fixture(scope="module", params=["native", pytest.param("generic", marks=LONG)])
def chain(request: pytest.FixtureRequest) -> Iterator[Chain]:
    with made(xdp=request.param) as chain:
        yield chain


@contextmanager
def made(families: tuple[int, ...] = (4, 6), xdp: str = "native") -> Iterator[Chain]:
    with Chain(2, families, seal=True, tapped=True, xdp=xdp, lease=LEASE) as chain:
        yield chain


def detach(end: End) -> None:
    """Whatever program is there, in either mode."""
    for mode in ("xdpdrv", "xdpgeneric"):
        end.host.run(["ip", "link", "set", end.name, mode, "off"])


class Wires:
    """What was sent from either end, and the frames of every link."""

    def __init__(self, chain: Chain, server: Server, call: Call) -> None:
        self.chain, self.server, self.call = chain, server, call
        self.asked: list[bytes] = []
        self.sealed: list[bytes] = []
        self.answered: list[bytes] = []
        self.hop: tuple[Endpoint, Endpoint] | None = None
        """P3 and P4, as they were seen on the wire."""
        self.relay_1: Port | None = None
        """From where the client's datagrams come once relay 1 carries no more: it is the last one that is looked at."""

    def ask(self, size: int = 400) -> None:
        """Sealed by the library's key, past its limit if need be: the client's kernel sends it as its socket is set."""

        async def seal(text: bytes) -> bytes:
            assert self.call.session.keys is not None
            return self.call.session.keys.seal(text)

        text = secrets.token_bytes(size)
        datagram = self.chain.client_loop.call(lambda: seal(text))
        self.asked.append(text)
        self.sealed.append(datagram)
        if self.relay_1 is None:
            send_one(self.call.session.bound[0], datagram)
        else:
            assert self.hop is not None
            self.relay_1.send(self.hop[1], datagram)

    def answer(self, size: int = 400) -> None:
        """The server's text, in clear."""
        self.answered.append(secrets.token_bytes(size))
        self.server.ports[0].send(self.call.visitor.peer, self.answered[-1])

    def both(self, size: int = 400, times: int = 3) -> None:
        for _ in range(times):
            self.ask(size)
            self.answer(size)


def keeps_apart(wires: Wires, act: Callable[[], object], *, reaches: tuple[Side, ...] = ()) -> None:
    """`act` sends both ways; neither ciphertext nor text crosses the last relay as it is. Who is not in `reaches` gets nothing at all."""
    chain, call = wires.chain, wires.call
    call.near.drain()
    wires.server.ports[0].drain()
    wires.asked, wires.sealed, wires.answered = [], [], []
    with ExitStack() as stack:
        places = {"server": chain.row.server_end, "client": chain.row.client_end, **chain.taps.ends}
        captures = {name: stack.enter_context(Capture(end, "ip or ip6")) for name, end in places.items()}
        act()
        time.sleep(SETTLED)
        for capture in captures.values():
            for each in capture.stop():
                if each.payload in wires.sealed and capture is captures["fw1 - fw2"]:
                    wires.hop = each.source, each.destination
    frames = {name: capture.frames for name, capture in captures.items()}
    behind, before = frames.pop("server"), [frame for each in frames.values() for frame in each]
    assert common_run(wires.sealed, behind) is None, "ciphertext at the server's side"
    assert common_run(wires.answered, before) is None, "text at the client's side"
    assert common_run(wires.sealed, frames["fw1 - fw2"]) is not None, "the client's datagrams came to the last relay"
    assert common_run(wires.answered, behind) is not None, "the server's came there, too"
    assert (common_run(wires.asked, behind) is not None) is ("server" in reaches), "opened"
    assert (wires.server.ports[0].receive(0.05) is not None) is ("server" in reaches)
    assert (call.near.receive(0.05) is not None) is ("client" in reaches)


@contextmanager
def talking(chain: Chain, family: int = 4) -> Iterator[Wires]:
    """An open session that works."""
    with chain.server(family) as server, chain.open(server) as call:
        call.proves_flow(count=5)
        yield Wires(chain, server, call)


def sockets(wires: Wires) -> tuple[socket.socket, socket.socket]:
    return wires.call.session.bound[0], wires.server.ports[0].socket


def verdicts(chain: Chain) -> dict[str, int]:
    """Of the last relay."""
    counted: dict[str, int] = chain.relays.agents[-1].fast_path()["verdicts"]
    return counted


@pytest.mark.parametrize("family", [4, 6])
def test_fragments(chain: Chain, family: int) -> None:
    with talking(chain, family) as wires:
        for sock in sockets(wires):
            if family == 4:
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT)
        before = verdicts(chain)
        keeps_apart(wires, lambda: wires.both(2000))
        assert verdicts(chain)["fragment"] > before["fragment"]
        wires.call.proves_flow(count=5)


@FAMILIES
def test_options(chain: Chain, family: int) -> None:
    with talking(chain, family) as wires:
        level, option, value = socket.IPPROTO_IP, IP_OPTIONS, TIMESTAMP_OPTION
        if family == 6:
            level, option, value = socket.IPPROTO_IPV6, IPV6_DSTOPTS, PADDING_OPTION
        for sock in sockets(wires):
            sock.setsockopt(level, option, value)
        before = verdicts(chain)
        keeps_apart(wires, wires.both)
        assert verdicts(chain)["options"] >= before["options"] + 6
        for sock in sockets(wires):
            sock.setsockopt(level, option, b"")
        wires.call.proves_flow(count=5)


@FAMILIES
def test_oversize(chain: Chain, family: int) -> None:
    """The server's is answered, and the answer goes to the server alone; the client's would be too large for a narrow link when opened."""
    headers = 28 if family == 4 else 48
    link = chain.firewalls[-1].right
    with talking(chain, family) as wires:
        before = verdicts(chain)

        def from_server() -> None:
            wires.ask()
            wires.answer(1500 - headers)

        keeps_apart(wires, from_server, reaches=("server",))
        assert verdicts(chain)["sealed-answered"] == before["sealed-answered"] + 1

        def from_client() -> None:
            wires.ask(1320 - headers)
            wires.answer()

        def refused() -> bool:
            counted = verdicts(chain)["sealed-too-large"]
            wires.ask(1320 - headers)
            return verdicts(chain)["sealed-too-large"] > counted

        try:
            link.host.run(["ip", "link", "set", link.name, "mtu", "1300"])
            wait.until(refused, "a renewal to bring the new MTU", 2 * LEASE)
            keeps_apart(wires, from_client, reaches=("client",))
        finally:
            link.host.run(["ip", "link", "set", link.name, "mtu", "1500"])


@contextmanager
def deaf(end: End, to: End) -> Iterator[None]:
    """`end` answers no ARP, and `to` forgets where it is; who sends from there still knows the way."""
    mac = json.loads(to.host.run(["ip", "-j", "link", "show", to.name]).stdout)[0]["address"]
    end.host.run(["ip", "neigh", "replace", str(to.address(4)), "lladdr", mac, "dev", end.name, "nud", "permanent"])
    end.host.run(["nft", "add table arp deaf; add chain arp deaf out { type filter hook output priority 0; policy drop; }"])
    to.host.run(["ip", "link", "set", to.name, "arp", "off"])
    to.host.run(["ip", "link", "set", to.name, "arp", "on"])
    try:
        yield
    finally:
        end.host.run(["nft", "delete table arp deaf"])
        end.host.run(["ip", "neigh", "del", str(to.address(4)), "dev", end.name])


@pytest.mark.parametrize("side", ["server", pytest.param("client", marks=LONG)])
def test_a_missing_neighbour(chain: Chain, side: Side) -> None:
    first, last = chain.firewalls
    end, to = (chain.row.server_end, last.right) if side == "server" else (first.right, last.left)
    with talking(chain) as wires:
        with deaf(end, to):
            send = wires.ask if side == "server" else wires.answer

            def missing() -> bool:
                counted = verdicts(chain)["sealed-no-next-hop"]
                send()
                return verdicts(chain)["sealed-no-next-hop"] > counted

            wait.until(missing, "the neighbour to be missed", 2 * LEASE)
            keeps_apart(wires, wires.both, reaches=("client" if side == "server" else "server",))
        wait.until(lambda: not missing(), "the neighbour to be found again", 2 * LEASE)
        wires.call.near.drain()
        wires.server.ports[0].drain()
        wires.call.proves_flow(count=5)


@pytest.mark.parametrize(
    "sides", [pytest.param(("left",), marks=LONG), pytest.param(("right",), marks=LONG), ("left", "right")], ids="-".join
)
def test_a_detached_program(chain: Chain, sides: tuple[str, ...]) -> None:
    """What finds no program ends at the rules, what was opened or sealed is not sent where the answer would find none; and a new session
    is refused, not accepted and dropped."""
    agent, last = chain.relays.agents[-1], chain.firewalls[-1]
    with talking(chain) as wires:
        for side in sides:
            detach(getattr(last, side))
        time.sleep(SETTLED)  # in which the ways have followed
        keeps_apart(wires, wires.both)
    with pytest.raises(Refusal, match="which has no fast path to seal in"), talking(chain):
        pass
    agent.stop()
    agent.start()
    with talking(chain):
        pass


def test_a_dead_daemon_and_everything_of_its_gone_after_it() -> None:
    """Killed, then without its rules, then without its program; and with the program but after the lease."""
    with made((4,)) as chain, talking(chain) as wires:
        agent, last = chain.relays.agents[-1], chain.firewalls[-1]
        agent.kill()
        ends = time.monotonic() + LEASE + LEASE_GRACE
        keeps_apart(wires, wires.both, reaches=("server", "client"))
        last.host.run(["nft", "flush", "ruleset"])
        for sock in sockets(wires):
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
        keeps_apart(wires, lambda: wires.both(2000))
        time.sleep(max(0.0, ends - time.monotonic()))
        wait.until(lambda: "fw1" not in chain.leftovers(), "relay 1 to end the session as well", LEASE)
        assert wires.hop is not None
        wires.relay_1 = Port(chain.firewalls[0].host, wires.hop[0].address, wires.hop[0].port)
        keeps_apart(wires, wires.both)
        assert verdicts(chain)["sealed-lease-ended"] >= 6
        for end in (last.left, last.right):
            detach(end)
        keeps_apart(wires, wires.both)
        wires.relay_1.close()
