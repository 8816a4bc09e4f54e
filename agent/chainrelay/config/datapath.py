"""What stands in agent.toml alone and suffices for the datapath helper, and for a teardown: that one works whatever is wrong with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from chainrelay.config import agent_keys as keys
from chainrelay.config.agent import XdpConfig, path_of
from chainrelay.config.agent_checks import check_interfaces, check_mark
from chainrelay.config.files import read_file
from chainrelay.config.host import HostFacts, read_host_facts
from chainrelay.config.problems import Problems
from chainrelay.config.schema import Key, Values
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.errors import ConfigError
from chainrelay.wire.endpoint import Endpoint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DatapathConfig:
    """See above."""

    listen: tuple[Endpoint, ...]
    ruleset: Ruleset
    rules: keys.Rules
    xdp: XdpConfig
    log_level: str
    socket: Path | None = None
    state: Path | None = None


def load_datapath(directory: Path, facts: HostFacts | None = None) -> DatapathConfig:
    """Read agent.toml alone. Raises ConfigErrors."""
    problems = Problems()
    values = read_file(directory, keys.AGENT, problems)
    datapath = values.get(keys.DATAPATH)
    if datapath:
        check_mark(datapath)
        check_interfaces(datapath, read_host_facts() if facts is None else facts)
    problems.raise_errors()
    return _config(values)


def salvage_datapath(directory: Path) -> tuple[DatapathConfig, list[ConfigError]]:
    """For a teardown: what of agent.toml can be read, the defaults for the rest, and what was wrong with it. Never raises."""
    problems = Problems()
    values = read_file(directory, keys.AGENT, problems)
    return _config(values), [problem.error() for problem in problems.errors]


def _config(values: Values) -> DatapathConfig:
    datapath, ports, shares, log = (_section(values, key) for key in (keys.DATAPATH, keys.PORTS, keys.LIMITS, keys.LOG))
    pool, mark = _right(ports, keys.POOL), _right(datapath, keys.MARK)
    return DatapathConfig(
        listen=values.get(keys.LISTEN, ()),
        ruleset=Ruleset(_right(values, keys.FIREWALL), ((pool.first, pool.last),), mark, _right(datapath, keys.MASK) | mark),
        rules=_right(datapath, keys.RULES),
        xdp=XdpConfig(
            mode=_right(datapath, keys.XDP),
            interfaces=_right(datapath, keys.INTERFACES),
            sessions=_right(shares, keys.FAST),
            pins=path_of(_right(datapath, keys.PINS)) or keys.DEFAULT_PINS,
        ),
        log_level=_right(log, keys.LEVEL).value,
        socket=path_of(_right(datapath, keys.SOCKET)),
        state=path_of(_right(values, keys.STATE) or os.environ.get("STATE_DIRECTORY")),
    )


def _section(values: Values, key: Key[Values]) -> Values:
    """A table, all of defaults where it was none."""
    found = values.get(key)
    return found if found is not None else key.kind.read({}, values.at(key))


def _right(values: Values, key: Key[T]) -> T:
    """The value, its default where it was wrong."""
    found = values.get(key)
    return found if found is not None else cast("T", key.default)
