"""Agents whose rules live in the legacy tables, beside an administrator who lives there too.

The rest of the chain's tests run on them in the long set (conftest.py's `two`, test_matrix.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from chainrelay.errors import Refusal
from chainrelay.wire.messages import HopCounters
from e2e.chain import Call, Chain
from lab import legacy, rulesets, wait
from lab.daemons import ConfinedAgent
from lab.datagrams import Port
from lab.remains import remains

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(2, rules="iptables-legacy") as made:
        yield made


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("server_first", [True, False])
def test_both_ways_counted_and_nothing_left(chain: Chain, family: int, components: int, server_first: bool) -> None:
    with chain.server(family, components=components) as server, chain.open(server) as call:
        for component in range(components):
            call.proves_flow(server_first=server_first, component=component)
        counters = call.close()
    each_way = 20 * components
    assert [(each.to_server_packets, each.to_client_packets) for each in counters] == [(each_way, each_way)] * 2
    assert chain.leftovers() == {}


def test_a_stranger_at_the_right_address_with_a_wrong_port_gets_nowhere(chain: Chain) -> None:
    """The partner's port is not in the set's key: the rule for the whole tuple has to stop him, and the input chain never sees him."""
    with chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        before = [rulesets.strays(each.host, "iptables-legacy") for each in chain.firewalls]
        counted = chain.client_loop.call(call.session.counters)
        with Port(chain.row.client, chain.row.client_end.address(4)) as near, Port(chain.row.server, server.address) as far:
            for _ in range(3):
                near.send(call.session.entry, b"from a stranger")
                far.send(call.session.exit, b"from a stranger")
        assert call.far.receive(0.3) is None
        assert call.near.receive(0.3) is None
        assert [rulesets.strays(each.host, "iptables-legacy") for each in chain.firewalls] == before
        assert chain.client_loop.call(call.session.counters) == counted
        call.proves_flow()


@pytest.mark.parametrize("table", ["mangle", "nat", "filter"])
def test_a_restore_that_takes_our_rules_away_is_mended_without_being_asked(chain: Chain, table: str) -> None:
    """`iptables-legacy-restore` without --noflush, and nobody opens a session: the agent looks by itself."""
    firewall = chain.firewalls[0]
    with chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        before = hooks(chain)
        firewall.host.run(["iptables-legacy-restore", "--wait"], stdin=f"*{table}\nCOMMIT\n")
        wait.until(lambda: hooks(chain) == before, "our rules to be back")
        rulesets.load(firewall.host, chain.row.administrator(firewall).ruleset())
        call.proves_flow()
    assert "our rules are gone" in chain.relays.agents[0].log()
    assert chain.leftovers() == {}


def hooks(chain: Chain) -> set[str]:
    """The rules at relay 1 that lead from the kernel's own chains into ours."""
    return {line for line in legacy.saved(chain.firewalls[0].host, ours=True) if " -A CHAINRELAY-" not in line and " -A " in line}


def test_nft_rules_beside_it_are_told_by_the_check() -> None:
    with Chain(1, (4,), rules="iptables-legacy") as chain:
        agent, host = chain.relays.agents[0], chain.firewalls[0].host
        good = agent.run("--check-config")
        assert ", 0 warnings" in good.stdout
        host.run(["nft", "add", "table", "ip", "old_rules"])
        warned = agent.run("--check-config")
        assert "old_rules" in warned.stdout
        assert "warning: agent.toml:datapath.rules" in warned.stdout


def test_teardown_takes_only_what_is_ours_and_a_reload_of_his_loses_nothing() -> None:
    with Chain(1, (4,), rules="iptables-legacy") as chain, chain.server(4) as server:
        agent, firewall = chain.relays.agents[0], chain.firewalls[0]
        his = legacy.saved(firewall.host, ours=False)
        with chain.open(server) as call:
            call.proves_flow()
            rulesets.load(firewall.host, chain.row.administrator(firewall).ruleset())
            call.proves_flow()
        agent.stop()
        assert any(line.startswith("ipset ") for line in remains(firewall.host).tables)
        for _ in range(2):  # a second time finds nothing and is no error
            agent.teardown()
            assert remains(firewall.host).all == ()
        assert legacy.saved(firewall.host, ours=False) == his


# two daemons ---------------------------------------------------------------------


def two_daemons(lease: int) -> Chain:
    """A relay whose helper has a user of its own, CAP_NET_ADMIN and CAP_NET_RAW, and reads the xtables lock, as the documentation says."""
    return Chain(1, rules="iptables-legacy", confined=True, lease=lease, level="info")


@pytest.mark.parametrize("family", [4, 6])
def test_both_daemons_dead_and_the_kernel_ends_it_with_the_lease(family: int) -> None:
    with two_daemons(4) as chain, chain.server(family) as server, chain.open(server) as call:
        call.proves_flow()
        agent = confined(chain)
        agent.kill()
        agent.helper.kill()
        killed = time.monotonic()
        call.proves_flow()
        wait.until(lambda: not call.to_client(1).seen and not call.to_server(1).seen, "the kernel to stop it", 8)
        assert time.monotonic() - killed > 2
        assert legacy.members(agent.host) == []


def test_both_daemons_restart_and_adopt_it() -> None:
    with two_daemons(60) as chain, chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        agent = confined(chain)
        agent.kill()
        agent.helper.kill()
        call.proves_flow()
        agent.start()
        counters = wait.until(lambda: told(call), "the relay to know the session", 10)
        assert [each.hop for each in counters] == ["fw1"]
        call.proves_flow()
        call.close()
        assert chain.leftovers() == {}
        with chain.open(server) as later:
            later.proves_flow()
        agent.stop()
        agent.teardown()
        assert remains(agent.host).all == ()


def confined(chain: Chain) -> ConfinedAgent:
    """Its agent."""
    agent = chain.relays.agents[0]
    assert isinstance(agent, ConfinedAgent)
    return agent


def told(call: Call) -> tuple[HopCounters, ...]:
    """What the relays counted; nothing while they can't say."""
    try:
        return call.chain.client_loop.call(call.session.counters)
    except Refusal:
        return ()
