"""Sealed sessions through real agents, whose last one opens and seals in XDP: what is where in clear, and who says no.

The program's own behaviour (forgeries, replays, limits, every octet) is looked at in tests/unit/ebpf and tests/xdp; here the session
is the library's, and the wires between relays have somebody on them (lab/tap.py).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from itertools import product
from typing import Any

import pytest

from chainrelay.client import Client, Session
from chainrelay.client.data_keys import SealCounters
from chainrelay.client.leg import RelayedLeg
from chainrelay.errors import Code, Refusal
from chainrelay.limits import END_TO_END_PER_SECOND
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol, Way
from demo.checks import common_run
from e2e.chain import Call, Chain, Server
from lab import wait
from lab.capture import Capture
from lab.datagrams import Port, Stream
from lab.relays import environment

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

LONG = pytest.mark.long
WAYS = pytest.mark.parametrize("way", list(Way), ids=lambda way: way.name.lower())
SPEECH = b"in clear this must be seen at the server's side alone, "
DEMANDS = '[[allow]]\nuser = "alice"\nprotocol = ["tcp"]\n[[allow]]\nuser = "alice"\nprotocol = ["udp"]\nseal = "required"\n'


@contextmanager
def sealed(hops: int, families: tuple[int, ...] = (4,), way: str = "recursive", **wishes: Any) -> Iterator[Chain]:
    """A chain whose client seals, with taps on the wires between relays."""
    with Chain(hops, families, way=way, seal=True, tapped=True, **{"xdp": "native", **wishes}) as chain:
        yield chain


@pytest.fixture(scope="module")
def two() -> Iterator[Chain]:
    """Two relays, native, both families."""
    with sealed(2, (4, 6)) as chain:
        yield chain


@contextmanager
def client_of(chain: Chain, **wishes: Any) -> Iterator[None]:
    """Within, the chain's client is another one (`way`, `seal`)."""

    async def make() -> Client:
        return Client(chain.relays.client_directory, **wishes)

    usual, chain.client = chain.client, chain.client_loop.call(make)
    try:
        yield
    finally:
        other, chain.client = chain.client, usual
        chain.client_loop.call(other.close)


@WAYS
def test_two_relays_both_ends_first_and_nothing_in_clear_between_them(two: Chain, way: Way) -> None:
    with client_of(two, way=way):
        proves_secrecy_of_all(two)


@pytest.mark.parametrize(
    ("hops", "families", "way", "xdp"),
    [
        (1, (4,), Way.RECURSIVE, "native"),
        *(pytest.param(hops, (4, 6), way, "native", marks=LONG) for hops, way in product((1, 3), Way)),
        *(pytest.param(2, (4, 6), way, "generic", marks=LONG) for way in Way),
    ],
)
def test_every_row_both_ends_first_and_nothing_in_clear_between(hops: int, families: tuple[int, ...], way: Way, xdp: str) -> None:
    with sealed(hops, families, way.name.lower(), xdp=xdp) as chain:
        proves_secrecy_of_all(chain)


def proves_secrecy_of_all(chain: Chain) -> None:
    """Each family, each end first; what was opened and sealed is what was sent, and nothing is left."""
    combinations = list(product(chain.row.families, (True, False)))
    with chain.sealed_only(25 * len(combinations), 25 * len(combinations)):
        for family, server_first in combinations:
            proves_secrecy(chain, family, server_first=server_first)
    assert chain.leftovers() == {}
    assert [agent.fast_path()["entries"] for agent in chain.relays.agents] == [0] * chain.row.hops


def proves_secrecy(chain: Chain, family: int, *, server_first: bool) -> None:
    """A session of 25 datagrams each way, all captured on every wire: clear behind the last relay, and nowhere before."""
    with chain.server(family) as server, ExitStack() as stack:
        places = {"client": chain.row.client_end, **chain.taps.ends}
        wires = {name: stack.enter_context(Capture(end)) for name, end in places.items()}
        behind = stack.enter_context(Capture(chain.row.server_end))
        with chain.open(server) as call:
            assert call.session.sealed
            assert call.session.relays == tuple(each.name for each in chain.firewalls)
            call.proves_flow(server_first=server_first)
            texts = [speak(call, server, server_first=server_first) for _ in range(5)]
            counted = call.close()
        clear = [each.payload for each in behind.stop()]
        assert all(text in clear for pair in texts for text in pair), "the server's side is in clear"
        assert common_run(clear, [SPEECH]) is not None, "and the search would find it"
        for name, capture in wires.items():
            payloads = [each.payload for each in capture.stop()]
            assert len(payloads) == 50, name
            assert common_run(clear, payloads) is None, f"clear text at {name}"
        assert [(each.hop, each.to_server_packets, each.to_client_packets) for each in counted] == [
            (firewall.name, 25, 25) for firewall in chain.firewalls
        ]


def speak(call: Call, server: Server, *, server_first: bool) -> tuple[bytes, bytes]:
    """A sentence each way; whose came first is the caller's."""
    to_client, to_server = (SPEECH + word + bytes(str(time.monotonic_ns()), "ascii") for word in (b"from the server ", b"from the client "))
    for toward_client in (server_first, not server_first):
        if toward_client:
            server.ports[0].send(call.visitor.peer, to_client)
            assert call.near.receive() == (to_client, call.session.entry)
        else:
            call.near.send(call.session.entry, to_server)
            assert server.ports[0].receive() == (to_server, call.session.exit)
    return to_client, to_server


@WAYS
def test_rtp_and_rtcp(two: Chain, way: Way) -> None:
    with client_of(two, way=way), two.server(4, components=2) as server, two.open(server) as call, two.sealed_only(40, 40):
        call.proves_flow(component=0)
        call.proves_flow(component=1, server_first=False)


@WAYS
def test_a_reserved_session(two: Chain, way: Way) -> None:
    with client_of(two, way=way), two.server(4) as server:
        session = two.client_loop.call(lambda: two.client.reserve(str(server.address)))
        server.ports[0].send(session.exit, b"too early")
        two.client_loop.call(lambda: session.bind(str(server.endpoint)))
        server.ports[0].send(session.exit, b"in time")
        assert two.client_loop.call(session.receive) == b"in time"
        two.close_session(session)
        assert two.leftovers() == {}


@WAYS
def test_keys_change_under_traffic(two: Chain, way: Way) -> None:
    """Both directions all the time, while somebody else changes the keys; nothing is lost, and nothing goes by the rules."""
    with client_of(two, way=way), two.server(4) as server, two.open(server) as call, ThreadPoolExecutor(1) as pool:
        first, rounds = newest_key(call.session), 0
        changing = pool.submit(rekey, two, call.session, 10)
        while not changing.done():
            call.proves_flow()
            rounds += 1
        changing.result()
        assert newest_key(call.session)[0] - first[0] == 10, "ten epochs later"
        assert rounds > 3
        each_way = 20 * rounds
        assert call.session.seal_counters == SealCounters(sealed=each_way, opened=each_way)
        counted = call.close()
        assert [(each.to_server_packets, each.to_client_packets) for each in counted] == [(each_way, each_way)] * 2


@pytest.mark.parametrize(("family", "largest"), [(4, 1472 - 28), (6, 1452 - 28)])
def test_the_largest_payload_passes_and_the_next_one_is_an_error(two: Chain, family: int, largest: int) -> None:
    with two.server(family) as server, two.open(server) as call:
        assert call.session.mtu == largest
        call.near.send(call.session.entry, bytes(largest))
        assert server.ports[0].receive() == (bytes(largest), call.session.exit)
        server.ports[0].send(call.visitor.peer, bytes(largest))
        assert call.near.receive() == (bytes(largest), call.session.entry)
        with pytest.raises(ValueError, match=f"carries {largest} at most"):
            call.near.send(call.session.entry, bytes(largest + 1))


def test_forward_seals_for_a_program_that_can_not(two: Chain) -> None:
    options = ["--seal", "--json", "--config", str(two.relays.client_directory)]
    with two.server(4) as server:
        command = [sys.executable, "-m", "chainrelay.client.cli", "forward", "0", str(server.control), *options]
        forward = two.row.client.popen(command, stdout=subprocess.PIPE, env=environment())
        assert forward.stdout is not None
        listening, opened = (json.loads(forward.stdout.readline()) for _ in range(2))
        assert (opened["sealed"], opened["last"]) == (True, "fw2")
        with Port(two.row.client, ip_address("127.0.0.1")) as program, two.sealed_only(20, 20):
            asked, answered = Stream(), Stream()
            asked.send(program, Endpoint.parse(listening["listen"]), 20)
            assert asked.tally(server.ports[0]).lost == 0
            answered.send(server.ports[0], Endpoint.parse(opened["exit"]), 20)
            assert answered.tally(program).lost == 0
        forward.send_signal(signal.SIGINT)
        closed = json.loads(forward.stdout.readline())
        assert forward.wait(10) == 0
    assert closed["seal"] == {"sealed": 20, "opened": 20, "forged": 0, "replayed": 0, "unknown": 0}


def test_either_way_side_by_side_and_plain_beside_sealed(two: Chain) -> None:
    with (
        two.server(4) as server,
        two.open(server) as recursive,
        client_of(two, way=Way.ITERATIVE),
        two.open(server) as iterative,
        two.open(server, seal=False) as plain,
    ):
        assert not plain.session.sealed
        for call in (recursive, plain, iterative):
            call.proves_flow()


def test_what_can_not_be_sealed_at_all(two: Chain) -> None:
    with two.server(4, protocol=Protocol.TCP) as server:
        with pytest.raises(Refusal, match="TCP session can't be sealed"):
            two.open(server)
        with pytest.raises(Refusal, match="TCP session can't be sealed"):
            two.open_to(server.endpoint, protocol=Protocol.TCP)
        with pytest.raises(Refusal, match="another program's"):
            two.open_to(server.endpoint, sockets=False)
        assert two.leftovers() == {}


@pytest.mark.parametrize("way", ["recursive", pytest.param("iterative", marks=LONG)])
def test_a_restarted_agent_needs_no_key(way: str) -> None:
    """The kernel has the keys: datagrams go on, the agent adopts the session from its journal, RENEW finds everything in place."""
    with sealed(2, (4,), way, lease=6, confined=True) as chain, chain.server(4) as server, chain.open(server) as call:
        before = newest_key(call.session)
        agent = chain.relays.agents[-1]
        agent.kill()
        call.proves_flow()
        agent.start()
        time.sleep(6)  # several renewals, and more than the lease
        call.proves_flow()
        assert newest_key(call.session) == before
        assert call.session.seal_counters.unknown == 0


@pytest.mark.parametrize("way", ["iterative", pytest.param("recursive", marks=LONG)])
def test_a_relay_that_lost_everything_gets_the_session_again_with_new_keys(way: str) -> None:
    """Rules, maps and keys are gone, and there is no journal: opened under the same id, at another exit perhaps."""
    with sealed(2, (4,), way, lease=6) as chain, chain.server(4) as server, chain.open(server) as call:
        before = newest_key(call.session)
        agent = chain.relays.agents[-1]
        agent.stop()
        agent.teardown()
        agent.start()

        def flows() -> bool:
            server.ports[0].send(call.session.exit, SPEECH)
            return (call.near.receive(0.2) or (b"", None))[0] == SPEECH

        wait.until(flows, "the session to be back", 30)
        assert newest_key(call.session) != before
        while call.visitor.peer != call.session.exit:  # the server hears of the exit when it is another one
            call.visitor = server.visitors.get(timeout=20)
        call.near.drain()
        call.proves_flow()


def newest_key(session: Session) -> bytes:
    """The id of the key that seals."""
    assert session.keys is not None and session.keys._sealer is not None
    return session.keys._sealer.key_id


# who says no ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["recursive", "iterative"])
def test_no_fast_path_at_the_last_relay(way: str) -> None:
    with sealed(2, (4,), way, xdp="off") as chain, chain.server(4) as server:
        with pytest.raises(Refusal) as refused:
            chain.open(server)
        assert (refused.value.code, refused.value.hop) == (Code.SEAL_NOT_AVAILABLE, "fw2")
        assert chain.leftovers() == {}


@pytest.mark.parametrize("way", ["recursive", pytest.param("iterative", marks=LONG)])
def test_a_policy_that_demands_a_seal(way: str) -> None:
    with sealed(2, (4,), way, allow={"fw2": DEMANDS}) as chain, chain.server(4) as server:
        with client_of(chain, seal=False), pytest.raises(Refusal) as refused:
            chain.open(server)
        assert (refused.value.code, refused.value.hop) == (Code.SEAL_REQUIRED, "fw2")
        with chain.open(server) as call:
            call.proves_flow()
        assert chain.leftovers() == {}


@pytest.mark.parametrize("way", ["recursive", "iterative"])
@pytest.mark.parametrize("seal", [False, pytest.param(True, marks=LONG)], ids=["plain", "sealed"])
def test_a_chain_that_does_not_end_where_the_client_says(way: str, seal: bool) -> None:
    """Without a seal it counts as well, and takes no fast path."""
    with sealed(2, (4,), way, last="fw1", xdp="native" if seal else "off") as chain, chain.server(4) as server:
        with client_of(chain, seal=seal), pytest.raises(Refusal, match="demands that fw1") as refused:
            chain.open_to(server.endpoint)
        assert refused.value.code is Code.ANSWER_DENIED
        assert chain.leftovers() == {}


def rekey(chain: Chain, session: Session, times: int) -> None:
    """Other keys, one after the other."""
    leg = session._leg
    assert isinstance(leg, RelayedLeg)
    assert leg._rekeying is not None
    for _ in range(times):
        chain.client_loop.call(leg._rekeying.rekey)
        time.sleep(1 / END_TO_END_PER_SECOND)  # the relay takes no more handshakes of one session
