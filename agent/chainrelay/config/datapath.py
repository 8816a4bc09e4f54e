"""What stands in agent.toml alone and suffices for the datapath helper, and for a teardown: that one works whatever is wrong with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from chainrelay.config.agent import (
    AGENT,
    DATAPATH,
    DEFAULT_PINS,
    FAST,
    FIREWALL,
    INTERFACES,
    LEVEL,
    LIMITS,
    LISTEN,
    LOG,
    MARK,
    MASK,
    PINS,
    POOL,
    PORTS,
    RULES,
    SOCKET,
    STATE,
    XDP,
    Rules,
    XdpConfig,
    check_interfaces,
    check_mark,
    path_of,
)
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
    rules: Rules
    xdp: XdpConfig
    log_level: str
    socket: Path | None = None
    state: Path | None = None


def load_datapath(directory: Path, facts: HostFacts | None = None) -> DatapathConfig:
    """Read agent.toml alone. Raises ConfigErrors."""
    problems = Problems()
    values = read_file(directory, AGENT, problems)
    datapath = values.get(DATAPATH)
    if datapath:
        check_mark(datapath)
        check_interfaces(datapath, read_host_facts() if facts is None else facts)
    problems.raise_errors()
    return _config(values)


def salvage_datapath(directory: Path) -> tuple[DatapathConfig, list[ConfigError]]:
    """For a teardown: what of agent.toml can be read, the defaults for the rest, and what was wrong with it. Never raises."""
    problems = Problems()
    values = read_file(directory, AGENT, problems)
    return _config(values), [problem.error() for problem in problems.errors]


def _config(values: Values) -> DatapathConfig:
    datapath, ports, shares, log = (_section(values, key) for key in (DATAPATH, PORTS, LIMITS, LOG))
    pool, mark = _right(ports, POOL), _right(datapath, MARK)
    return DatapathConfig(
        listen=values.get(LISTEN, ()),
        ruleset=Ruleset(_right(values, FIREWALL), ((pool.first, pool.last),), mark, _right(datapath, MASK) | mark),
        rules=_right(datapath, RULES),
        xdp=XdpConfig(
            _right(datapath, XDP), _right(datapath, INTERFACES), _right(shares, FAST), path_of(_right(datapath, PINS)) or DEFAULT_PINS
        ),
        log_level=_right(log, LEVEL).value,
        socket=path_of(_right(datapath, SOCKET)),
        state=path_of(_right(values, STATE) or os.environ.get("STATE_DIRECTORY")),
    )


def _section(values: Values, key: Key[Values]) -> Values:
    """A table, all of defaults where it was none."""
    found = values.get(key)
    return found if found is not None else key.kind.read({}, values.at(key))


def _right(values: Values, key: Key[T]) -> T:
    """The value, its default where it was wrong."""
    found = values.get(key)
    return found if found is not None else cast("T", key.default)
