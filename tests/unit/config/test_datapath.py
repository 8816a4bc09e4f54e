"""What the helper and a teardown read of agent.toml; the latter whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrelay import limits
from chainrelay.config.agent_keys import DEFAULT_PINS, Rules, Xdp
from chainrelay.config.datapath import load_datapath, salvage_datapath
from chainrelay.datapath.ruleset import Firewall
from unit.config.directory import NO_FACTS, RELAY, write

HEAD = RELAY["agent.toml"]
WHOLE = HEAD + (
    'firewall = "own"\nstate = "/var/lib/x"\n[ports]\npool = "30000-30999"\n[log]\nlevel = "error"\n'
    '[datapath]\nrules = "iptables-legacy"\nxdp = "auto"\npins = "/run/x/bpf"\nmark = 2\nmask = 6\nsocket = "/run/x/socket"\n'
)


def test_a_good_file_is_salvaged_as_it_is_loaded(tmp_path: Path) -> None:
    directory = write(tmp_path, RELAY, agent=WHOLE)
    assert salvage_datapath(directory) == (load_datapath(directory, NO_FACTS), [])


def test_what_is_right_is_kept(tmp_path: Path) -> None:
    text = WHOLE.replace("mark = 2", "mark = true").replace('level = "error"', 'level = "loud"') + "colour = 3\n"
    config, faults = salvage_datapath(write(tmp_path, RELAY, agent=text))
    assert [fault.where.split(" ")[0] for fault in faults] == [
        "agent.toml:datapath.colour", "agent.toml:datapath.mark", "agent.toml:log.level"
    ]  # fmt: skip
    assert (config.rules, config.xdp.mode, config.xdp.pins) == (Rules.IPTABLES_LEGACY, Xdp.AUTO, Path("/run/x/bpf"))
    assert (config.ruleset.mark, config.ruleset.pool) == (limits.MARK, ((30000, 30999),))
    assert config.ruleset.mark & ~config.ruleset.mask == 0
    assert (config.socket, config.state) == (Path("/run/x/socket"), Path("/var/lib/x"))


@pytest.mark.parametrize("text", [None, "", "half a f", "datapath = 3\nports = []\n", "\0"])
def test_of_nothing_it_makes_the_defaults(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    if text is not None:
        (tmp_path / "agent.toml").write_text(text)
    config, faults = salvage_datapath(tmp_path)
    assert faults
    assert (config.rules, config.xdp.pins, config.ruleset.firewall) == (Rules.NFTABLES, DEFAULT_PINS, Firewall.GUEST)
    assert config.ruleset.pool == ((limits.POOL_FIRST, limits.POOL_LAST),)
    assert (config.listen, config.socket, config.state) == ((), None, None)
