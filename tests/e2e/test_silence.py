"""A chain that does not answer: what the kernels do, and what a user of the command hears meanwhile.

Both daemons of every relay are killed, so that nobody but the kernels is left: they forward until the leases end and no longer.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from chainrelay.limits import LEASE_GRACE
from e2e.chain import SERVICE, Chain
from e2e.test_programs import COMMAND, hear, talking
from lab import wait
from lab.daemons import ConfinedAgent
from lab.relays import environment
from lab.remains import remains

pytestmark = pytest.mark.root

LEASE = 4


@pytest.fixture
def short() -> Iterator[Chain]:
    """Two relays of two processes each, whose leases are short."""
    with Chain(2, (4,), lease=LEASE, confined=True) as chain:
        yield chain


def kill_all(chain: Chain) -> float:
    """Every agent and every helper; when the last one died."""
    for agent in chain.relays.agents:
        assert isinstance(agent, ConfinedAgent)
        agent.kill()
        agent.helper.kill()
    return time.monotonic()


def start_all(chain: Chain) -> None:
    for agent in chain.relays.agents:
        agent.start()


def live(chain: Chain) -> list[str]:
    """What the gates let pass. Elements of the NAT maps, which have no time, stay for the next agent to tidy up; nothing comes to them."""
    return [line for firewall in chain.firewalls for line in remains(firewall.host).elements if " live: " in line]


def held(chain: Chain, *more: str) -> list[str]:
    peer = f"{chain.row.server_end.address(4)}:{SERVICE}"
    return [*COMMAND, "open", "--peer", peer, "--config", str(chain.relays.client_directory), *more]


def test_the_kernels_end_with_the_leases_what_nobody_renews(short: Chain) -> None:
    with short.server(4) as server, short.open(server) as call:
        call.proves_flow()
        killed = kill_all(short)
        call.proves_flow()
        wait.until(lambda: not call.to_client(1).seen and not call.to_server(1).seen, "the kernels to stop it", LEASE + 10)
        assert time.monotonic() - killed > LEASE / 2, "before any lease ended"
        wait.until(lambda: not live(short), "no lease to be left")
        start_all(short)
        wait.until(lambda: call.to_server(1).seen, "the session to be opened again", 20)
        call.close()
        assert short.leftovers() == {}


def test_a_user_hears_of_trouble_of_the_leases_end_and_of_its_end(short: Chain) -> None:
    with talking(short.row.client, held(short, "--json")) as process:
        opened = hear(process)
        kill_all(short)
        first, last = hear(process), hear(process)
        assert [each["event"] for each in (first, last)] == ["trouble", "trouble"]
        assert 0 < first["left"] <= LEASE + LEASE_GRACE
        assert last["left"] == 0
        assert first["code"] in {"next-hop-unreachable", "next-hop-authentication"}, "the latter: killed in the middle of it"
        assert last["code"] == "next-hop-unreachable"
        assert "fw1 at 10.1.0.2:9798" in last["text"], "where"
        start_all(short)
        events = [hear(process)]
        while events[-1]["event"] != "back":
            events.append(hear(process))
        assert {each["session"] for each in (first, last, *events)} == {opened["session"]}
        process.send_signal(signal.SIGINT)
        closed = hear(process)
        assert (closed["event"], closed["lingers"]) == ("closed", 0)
        assert [each["hop"] for each in closed["counters"]] == ["fw1", "fw2"]


def test_a_close_that_nobody_hears_is_told(short: Chain) -> None:
    command = held(short)
    process = short.row.client.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    assert process.stdout.readline().startswith("session ")
    kill_all(short)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "not every relay has heard it: what may still stand ends by itself within" in told
    wait.until(lambda: not live(short), "no lease to be left", LEASE + 5)
