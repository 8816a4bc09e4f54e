"""How sessions end when nobody closes them, and what outlives an agent: the kernel holds rules and leases."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import get_args

import pytest

from chainrelay.limits import TCP_LINGER
from e2e.chain import Call, Chain
from lab import rulesets, wait
from lab.relays import environment
from lab.remains import remains

pytestmark = pytest.mark.root

LEASE = 4
GRACE = 2  # the kernel's lease outlasts the agent's
SLACK = 2
either = pytest.mark.parametrize("rules", get_args(rulesets.Rules))
CLIENT = (sys.executable, "-m", "chainrelay.client.cli")


@either
def test_dead_agents_and_the_kernel_ends_it_with_the_lease(rules: rulesets.Rules) -> None:
    with Chain(2, (4,), rules=rules, lease=LEASE) as chain, chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        for agent in chain.relays.agents:
            agent.kill()
        killed = time.monotonic()
        call.proves_flow()
        wait.until(lambda: not flows(call), "the kernel to stop it", LEASE + GRACE + SLACK)
        assert time.monotonic() - killed >= LEASE - LEASE / 3 - 1, "before any lease ended"
        wait.until(lambda: not live(chain), "no element to be alive", LEASE + GRACE)
        assert not flows(call)


@either
def test_an_agent_that_restarts_costs_nothing(rules: rulesets.Rules) -> None:
    with Chain(2, (4,), rules=rules) as chain, chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        for agent in chain.relays.agents:
            agent.stop()
            call.proves_flow()
            agent.start()
            call.proves_flow()


@either
@pytest.mark.parametrize("relay", [0, 1])
def test_the_rules_go_and_the_flow_stops(relay: int, rules: rulesets.Rules) -> None:
    with Chain(2, (4,), rules=rules) as chain, chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        agent = chain.relays.agents[relay]
        agent.stop()
        agent.teardown()
        assert not flows(call)
        assert remains(agent.host).all == ()


def test_a_lease_is_renewed_as_long_as_the_client_lives() -> None:
    with Chain(2, (4,), lease=LEASE) as chain, chain.server(4) as server, chain.open(server) as call:
        until = time.monotonic() + LEASE + GRACE + SLACK
        while time.monotonic() < until:
            call.proves_flow(count=50)


def test_a_client_that_vanishes_is_forgotten() -> None:
    with Chain(2, (4,), lease=LEASE) as chain, chain.server(4) as server:
        command = [*CLIENT, "open", str(server.control), "--config", str(chain.relays.client_directory), "--json"]
        process = chain.row.client.popen(command, stdout=subprocess.PIPE, env=environment())
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "open"
        assert set(chain.leftovers()) == {"fw1", "fw2"}
        process.kill()
        wait.until(lambda: not chain.leftovers(), "every relay to forget it", LEASE + GRACE + TCP_LINGER + SLACK)


def flows(call: Call) -> bool:
    """Whether one datagram each way arrives."""
    return bool(call.to_client(1).seen) and bool(call.to_server(1).seen)


def live(chain: Chain) -> list[str]:
    """Elements whose lease lasts, at all relays."""
    return [line for lines in chain.leftovers().values() for line in lines if " live: " in line or line.startswith("ipset ")]
