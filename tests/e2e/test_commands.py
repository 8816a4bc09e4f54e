"""The agent's other options on the configurations that these tests run with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from e2e.chain import Chain
from lab.relays import Agent
from lab.remains import remains, rules

pytestmark = pytest.mark.root


def test_the_configuration_passes_its_check(two: Chain) -> None:
    for agent in two.relays.agents:
        checked = agent.run("--check-config", check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_misspelt_key_is_found_before_anything_starts() -> None:
    with Chain(1, (4,)) as chain:
        agent = chain.relays.agents[0]
        file = agent.directory / "agent.toml"
        file.write_text(file.read_text().replace("[lease]\ndefault", "[lease]\ndefalt"))
        checked = agent.run("--check-config", check=False)
        assert checked.returncode == 2
        assert "agent.toml" in checked.stdout + checked.stderr
        assert "default" in checked.stdout + checked.stderr
        agent.stop()
        started = agent.run(check=False)
        assert started.returncode == 2
        assert "defalt" in started.stderr


@pytest.mark.parametrize("two", ["nftables"], indirect=True)
def test_the_printed_ruleset_is_the_loaded_one(two: Chain) -> None:
    """nft takes it again and nothing changes. The legacy one: tests/unit/privileged/test_legacy_kernel.py."""
    host = two.firewalls[0].host
    before = host.run(["nft", "list", "table", "ip", "chainrelay"]).stdout
    host.run(["nft", "-f", "-"], stdin=two.relays.agents[0].run("--print-ruleset").stdout)
    assert host.run(["nft", "list", "table", "ip", "chainrelay"]).stdout == before


def test_teardown_takes_only_what_is_ours() -> None:
    with Chain(1, (4,)) as chain:
        agent, firewall = chain.relays.agents[0], chain.firewalls[0]
        admin = firewall.host.run(["nft", "list", "table", "inet", "admin"]).stdout
        agent.stop()
        assert remains(firewall.host).tables == ("nft table ip chainrelay", "nft table ip6 chainrelay")
        for _ in range(2):  # a second time finds nothing and is no error
            agent.teardown()
            assert remains(firewall.host).all == ()
        assert firewall.host.run(["nft", "list", "table", "inet", "admin"]).stdout == admin


def test_no_teardown_beside_an_agent_that_would_put_everything_back() -> None:
    with Chain(1, (4,)) as chain:
        agent, host = chain.relays.agents[0], chain.firewalls[0].host
        before = rules(host)
        refused = agent.run("--teardown", check=False)
        assert refused.returncode == 2
        assert "an agent seems to run (can't listen on" in refused.stderr
        assert rules(host) == before
        agent.stop()
        (agent.directory / "routes.toml").write_text("half a f")
        agent.teardown()  # of the four files it needs one
        assert remains(host).all == ()


def test_a_second_agent_on_a_host_changes_nothing_of_the_first(two: Chain, tmp_path: Path) -> None:
    """Started by hand beside the running one, with another pool: its rules would unguard the first one's ports."""
    agent, host = two.relays.agents[0], two.firewalls[0].host
    second = shutil.copytree(agent.directory, tmp_path / "second")
    file = second / "agent.toml"
    file.write_text(file.read_text().replace('pool = "20000-29999"', 'pool = "30000-30999"'))
    before = rules(host)
    started = Agent(host, second, tmp_path / "log", 1).run(check=False)
    assert started.returncode == 2, started.stderr
    assert "agent.toml:listen: can't listen on" in started.stderr
    assert rules(host) == before
    assert re.search("dports? 20000[-:]29999", before), before
