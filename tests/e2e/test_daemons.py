"""Two confined daemons per relay: what is killed, stopped, restarted or flushed under traffic costs no datagram and no session.

Datagrams are counted by the server's kernel (lab/flood.py), at more than 20,000 a second, through two relays.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chainrelay.client import Session
from chainrelay.errors import ChainrelayError
from chainrelay.wire.messages import HopCounters
from e2e.chain import SERVICE, Call, Chain
from lab import rulesets, wait
from lab.arrivals import Arrivals
from lab.daemons import AGENT_UID, HELPER_UID, PYTHON, ConfinedAgent, confine
from lab.flood import Flood
from lab.pace import LEAST
from lab.remains import remains
from lab.row import Firewall

pytestmark = pytest.mark.root

RATE = 24_000.0
STOPPED = 10.0
LEASE = 30

HELPER_CAPABILITIES = 1 << 12 | 1 << 38 | 1 << 39  # CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF, as in the unit


@pytest.fixture(scope="module")
def confined() -> Iterator[Chain]:
    """Client, two relays of two processes each, server."""
    with Chain(2, (4,), lease=LEASE, confined=True, level="info") as chain:
        yield chain


@pytest.fixture(scope="module", params=["nftables", "xdp", "sealed"])
def carried(request: pytest.FixtureRequest) -> Iterator[Chain]:
    """The same; what carries UDP is the parameter."""
    xdp = "off" if request.param == "nftables" else "auto"
    with Chain(2, (4,), confined=True, level="info", xdp=xdp, seal=request.param == "sealed") as chain:
        expect_a_fast_path(chain, xdp)
        yield chain


def expect_a_fast_path(chain: Chain, xdp: str) -> None:
    """A test that means the fast path is none without it."""
    state = daemons(chain)[0].fast_path()
    assert bool(state["layout"]) is (xdp != "off"), state


def daemons(chain: Chain) -> list[ConfinedAgent]:
    return [agent for agent in chain.relays.agents if isinstance(agent, ConfinedAgent)]


def each_agent_killed(chain: Chain) -> None:
    for agent in daemons(chain):
        agent.kill()
        agent.start()


def each_helper_killed(chain: Chain) -> None:
    for agent in daemons(chain):
        agent.helper.kill()
        agent.helper.start()


def both_restarted(chain: Chain) -> None:
    for agent in daemons(chain):
        agent.stop()
        agent.helper.stop()
    for agent in daemons(chain):
        agent.start()


def all_stopped_for_a_while(chain: Chain) -> None:
    pids = [pid for agent in daemons(chain) for pid in (agent.pid, agent.helper.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(STOPPED)  # the length is what is tested
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def proves_that_it_lives(call: Call) -> None:
    """Every relay knows it, and it can be closed with everybody's counters."""
    counters = wait.until(lambda: told(call), "both relays to know the session", 20.0)
    assert [each.hop for each in counters] == ["fw1", "fw2"], call.chain.relays.logs()


def told(call: Call) -> list[HopCounters]:
    try:
        return list(call.chain.client_loop.call(call.session.counters))
    except ChainrelayError:
        return []


@pytest.mark.parametrize("ordeal", [each_agent_killed, each_helper_killed, both_restarted, all_stopped_for_a_while])
def test_no_datagram_is_lost(carried: Chain, ordeal: Callable[[Chain], None]) -> None:
    """To the server; of a sealed session to the client, so that sealing is the last relay's work and no library's."""
    chain = carried
    fast = daemons(chain)[0].fast_path()["layout"]
    with chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        entry, exit_ = call.session.entry, call.session.exit
        before = carried_so_far(chain, call) if fast else []
        if call.session.sealed:
            arrivals, sending = Arrivals(chain.row.client_end, entry, call.session.local.port, drop=True), (call.far, exit_)
        else:
            arrivals, sending = Arrivals(chain.row.server_end, exit_, SERVICE), (call.near, entry)
        with arrivals, Flood(*sending, RATE) as flood:
            ordeal(chain)
            sent = flood.stop()
            arrived, gap = arrivals.settles(sent.count), arrivals.longest_gap()
        print(f"{sent}, {sent.count - arrived} lost, longest gap {gap * 1000:.1f} ms")
        assert sent.count - arrived == 0, f"{sent.count - arrived} lost: {sent}\n{chain.relays.logs()[-4000:]}"
        assert sent.rate >= LEAST, str(sent)
        assert sent.mostly_at_work, str(sent)
        if fast:
            assert [now - then for now, then in zip(carried_so_far(chain, call), before, strict=True)] == [sent.count, sent.count]
        for port in (call.far, call.near):
            port.drain()
        proves_that_it_lives(call)
        assert (call.session.entry, call.session.exit) == (entry, exit_)
        call.proves_flow()
        call.close()
    assert chain.leftovers() == {}


def carried_so_far(chain: Chain, call: Call) -> list[int]:
    """By each relay's fast path; what the last one forwards of a sealed session it seals."""
    last = "sealed" if call.session.sealed else "forwarded"
    names = ["forwarded"] * (len(daemons(chain)) - 1) + [last]
    return [int(agent.fast_path()["verdicts"][name]) for agent, name in zip(daemons(chain), names, strict=True)]


def test_a_lease_is_renewed_across_restarts() -> None:
    with Chain(2, (4,), lease=18, confined=True) as chain, chain.server(4) as server, chain.open(server) as call:
        for _ in range(3):
            for agent in daemons(chain):
                agent.kill()
                agent.start()
            until = time.monotonic() + 4  # a round lasts for more than a third of the lease
            while time.monotonic() < until:
                call.proves_flow()
        call.close()
        assert chain.leftovers() == {}


@pytest.mark.parametrize("keyed", [True, False])
def test_iterative_sessions_are_adopted_as_well(keyed: bool) -> None:
    with Chain(2, (4,), lease=LEASE, confined=True, way="iterative", neighbour_keys=keyed) as chain, chain.server(4) as server:
        with chain.open(server) as call:
            call.proves_flow()
            entry, exit_ = call.session.entry, call.session.exit
            for agent in daemons(chain):
                agent.kill()
                agent.start()
                call.proves_flow()
            proves_that_it_lives(call)
            assert (call.session.entry, call.session.exit) == (entry, exit_)
            call.close()
        wait.until(lambda: not chain.leftovers(), "every relay to hold nothing any more")


def test_a_foreign_flush_is_noticed_and_repaired(confined: Chain) -> None:
    chain = confined
    with chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        for firewall in chain.firewalls:
            firewall.host.run(["nft", "flush", "ruleset"])
        wait.until(lambda: chain.relays.logs().count("our rules are gone") == 2, "both agents to notice")
        for firewall in chain.firewalls:
            rulesets.load(firewall.host, chain.row.administrator(firewall).ruleset())
        wait.until(lambda: not lost(call), "datagrams to flow again")
        call.proves_flow()
        call.close()
        assert chain.leftovers() == {}


def lost(call: Call) -> int:
    return call.to_server(1).lost


def test_a_flush_while_the_helper_is_dead_is_repaired(confined: Chain) -> None:
    chain = confined
    with chain.server(4) as server, chain.open(server) as call:
        for agent in daemons(chain):
            agent.helper.kill()
            agent.host.run(["nft", "flush", "ruleset"])
            agent.helper.start()
            rulesets.load(agent.host, chain.row.administrator(firewall_of(chain, agent)).ruleset())
        wait.until(lambda: not lost(call), "datagrams to flow again")
        call.proves_flow()
        call.close()
        assert chain.leftovers() == {}


def firewall_of(chain: Chain, agent: ConfinedAgent) -> Firewall:
    return next(each for each in chain.firewalls if each.host is agent.host)


def test_what_was_flushed_while_the_agent_was_dead_is_put_back(confined: Chain) -> None:
    chain = confined
    with chain.server(4) as server, chain.open(server) as call:
        for agent in daemons(chain):
            agent.kill()
            agent.host.run(["nft", "flush", "ruleset"])
            rulesets.load(agent.host, chain.row.administrator(firewall_of(chain, agent)).ruleset())
            agent.start()
            assert re.search(r"adopted kept=0 put_back=[12]", agent.log()), agent.log()
        wait.until(lambda: not lost(call), "datagrams to flow again")
        call.proves_flow()
        call.close()
        wait.until(lambda: not chain.leftovers(), "every relay to hold nothing any more")


def test_each_process_has_its_rights_and_no_more(confined: Chain) -> None:
    for agent in daemons(confined):
        assert capabilities(agent.pid) == (AGENT_UID, 0)
        assert capabilities(agent.helper.pid) == (HELPER_UID, HELPER_CAPABILITIES)


def capabilities(pid: int) -> tuple[int, int]:
    """The uid, and all capabilities of all sets together."""
    lines = dict(line.split(":", 1) for line in Path("/proc", str(pid), "status").read_text(encoding="ascii").splitlines())
    return int(lines["Uid"].split()[0]), int(lines["CapPrm"], 16) | int(lines["CapEff"], 16) | int(lines["CapAmb"], 16)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "not permitted"),
        ("import subprocess; subprocess.run(['nft', 'list', 'ruleset'], check=True)", "CalledProcessError"),
        ("open('/etc/chainrelay-was-here', 'w')", "PermissionError"),
    ],
)
def test_what_the_agents_user_can_not_do(confined: Chain, what: str, says: str) -> None:
    agent = daemons(confined)[0]
    done = agent.host.run([*confine(AGENT_UID, AGENT_UID, ""), PYTHON, "-c", what], check=False)
    assert says in done.stderr


def test_the_helper_can_not_read_the_agents_keys(confined: Chain) -> None:
    agent = daemons(confined)[0]
    key = next(agent.directory.rglob("*.key"))
    done = agent.host.run([*confine(HELPER_UID, AGENT_UID, "net_admin"), "cat", str(key)], check=False)
    assert "Permission denied" in done.stderr


def test_a_foreign_user_and_nonsense_at_the_socket(confined: Chain) -> None:
    agent = daemons(confined)[0]
    path = agent.helper.socket
    script = (
        "import socket, sys; raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); raw.settimeout(5)\n"
        f"raw.connect({str(path)!r})\n"
        "try: raw.send(bytes.fromhex(sys.argv[1])); sys.exit(len(raw.recv(100)))\n"
        "except ConnectionError: sys.exit(0)"
    )

    def tries(uid: int, packet: bytes) -> subprocess.CompletedProcess[str]:
        return agent.host.run([*confine(uid, AGENT_UID, ""), PYTHON, "-c", script, packet.hex()], check=False)

    assert tries(64003, b"\x82\x00\x01").returncode == 0, "in the group, but another user"
    assert "uid 64003 is not the agent's user" in agent.helper.log()
    assert "PermissionError" in agent.host.run(
        [*confine(64003, 64003, ""), PYTHON, "-c", script, "00"], check=False
    ).stderr
    assert tries(AGENT_UID, b"flush ruleset").returncode == 0
    assert tries(AGENT_UID, b"\x81\x05").returncode == 0
    assert "FLUSH_OWN before HELLO" in agent.helper.log()
    with confined.server(4) as server, confined.open(server) as call:
        call.proves_flow()


def test_two_agents_on_one_host(confined: Chain) -> None:
    agent = daemons(confined)[0]
    second = agent.run(check=False)
    assert second.returncode == 2
    assert "another agent (pid" in second.stderr
    assert f"{agent.pid})" in second.stderr


def test_a_teardown_leaves_nothing_to_adopt() -> None:
    """The client has ended before the agents come back: it would open its session again, and rightly so."""
    with Chain(2, (4,), lease=LEASE, confined=True) as chain, chain.server(4) as server:
        with chain.open(server):
            for agent in daemons(chain):
                agent.stop()
                agent.teardown()
                assert remains(agent.host).all == ()
        for agent in daemons(chain):
            agent.start()
        assert "adopted" not in chain.relays.logs()
        assert chain.leftovers() == {}


def random_kills(count: int, seed: int, xdp: str = "off") -> None:
    chance = random.Random(seed)
    stood = 0
    with Chain(2, (4,), lease=8, confined=True, level="info", xdp=xdp) as chain, chain.server(4) as server:
        expect_a_fast_path(chain, xdp)
        for _ in range(count):
            sessions: list[Session] = []

            async def crowd(sessions: list[Session] = sessions) -> None:
                async def one() -> None:
                    await asyncio.sleep(chance.random() * 0.2)
                    session = await chain.client.open_to(str(server.endpoint))
                    sessions.append(session)
                    if chance.random() < 0.5:
                        await asyncio.sleep(chance.random() * 0.2)
                        sessions.remove(session)
                        await session.close()

                await asyncio.gather(*(one() for _ in range(12)), return_exceptions=True)

            opening = threading.Thread(target=chain.client_loop.call, args=(crowd, 60.0))
            opening.start()
            time.sleep(chance.random() * 0.4)  # anywhere within the set-ups and teardowns
            agent = chance.choice(daemons(chain))
            if chance.random() < 0.5:
                agent.kill()
                agent.start()
            else:
                agent.helper.kill()
                agent.helper.start()
            opening.join()
            stood += len(sessions)
            for session in sessions:
                flows_to_the_server(chain, server.ports[0], session)
                chain.close_session(session)
        assert stood > count, "hardly a session stood after a kill: this run shows nothing"
        wait.until(lambda: not chain.leftovers(), "every relay to hold nothing any more", 8 + 2 + 8)
        assert [agent.fast_path()["entries"] for agent in daemons(chain)] == [0, 0], "in the BPF maps"


def flows_to_the_server(chain: Chain, far: object, session: Session) -> None:
    """A datagram arrives, from the exit that was told: the session was not cut."""
    far.drain()  # type: ignore[attr-defined]
    near = session.socket
    near.setblocking(False)
    word = os.urandom(16)
    near.sendto(word, (str(session.entry.address), session.entry.port))
    received = far.receive()  # type: ignore[attr-defined]
    assert received is not None and received == (word, session.exit), f"{session.id.hex()} was cut\n{chain.relays.logs()[-6000:]}"


@pytest.mark.parametrize("xdp", ["off", "auto"])
def test_ten_random_kills_while_sessions_come_and_go(xdp: str) -> None:
    random_kills(10, 1, xdp)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_random_kills(seed: int) -> None:
    random_kills(50, 100 + seed, "auto" if seed % 2 else "off")
