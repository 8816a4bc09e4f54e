"""Every combination of length, family, first speaker, rules, forward policy, firewall mode and components: the long run."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from e2e.chain import Chain
from lab import rulesets

pytestmark = [pytest.mark.root, pytest.mark.long]

HOPS = (1, 2, 3, 4, 5)
POLICIES: tuple[rulesets.Policy, ...] = ("drop", "accept")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("firewall", ["guest", "own"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("hops", HOPS)
@pytest.mark.parametrize("rules", get_args(rulesets.Rules))
def test_every_combination(hops: int, policy: rulesets.Policy, firewall: str, rules: rulesets.Rules) -> None:
    with Chain(hops, policy=policy, rules=rules, firewall=firewall) as chain:
        for family, server_first, components in product((4, 6), (True, False), (1, 2)):
            with chain.server(family, components=components) as server, chain.open(server) as call:
                for component in range(components):
                    call.proves_flow(server_first=server_first, component=component)
                counters = call.close()
            each_way = 20 * components
            assert [(each.hop, each.to_server_packets, each.to_client_packets) for each in counters] == [
                (firewall.name, each_way, each_way) for firewall in chain.firewalls
            ]
            assert chain.leftovers() == {}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("hops", HOPS)
def test_filters_before_every_relay(hops: int, family: int) -> None:
    with Chain(hops, (family,), filtered=tuple(range(1, hops + 1))) as chain:
        for server_first in (True, False):
            with chain.server(family) as server, chain.open(server) as call:
                call.proves_flow(server_first=server_first)
        assert chain.leftovers() == {}


@pytest.mark.timeout(300)
def test_two_hundred_sessions_over_a_pool_of_sixty_four() -> None:
    """Ports, rules and counters stay right over many sessions; the chain ends as empty as it began."""
    with Chain(2, pool="20000-20063", rest=0) as chain, chain.server(4) as server:
        for _ in range(200):
            with chain.open(server) as call:
                call.proves_flow(count=3)
        assert chain.leftovers() == {}
