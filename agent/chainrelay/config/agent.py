"""A relay's directory (agent.toml, routes.toml, peers.toml, access.toml) -> AgentConfig, or every error in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from chainrelay import limits
from chainrelay.config import agent_keys as keys
from chainrelay.config.access import read_access
from chainrelay.config.agent_checks import check_values
from chainrelay.config.files import read_file
from chainrelay.config.host import HostFacts, read_host_facts
from chainrelay.config.peers import read_peers
from chainrelay.config.problems import Problems
from chainrelay.config.routes import read_routes
from chainrelay.config.schema import Values
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.session.policy import Leases, Policy
from chainrelay.session.prefixes import Prefixes
from chainrelay.wire.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class XdpConfig:
    """The fast path. `interfaces` empty: every Ethernet interface that has an address at start."""

    mode: keys.Xdp = keys.Xdp.OFF
    interfaces: tuple[str, ...] = ()
    sessions: int = limits.FAST_PATH_SESSIONS
    pins: Path = keys.DEFAULT_PINS


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything that a relay is told by its files."""

    id: str
    listen: tuple[Endpoint, ...]
    policy: Policy
    ruleset: Ruleset
    rules: keys.Rules
    xdp: XdpConfig
    handshakes_per_second: float
    log_level: str
    socket: Path | None = None
    """Of the datapath helper; None: the backend runs in the agent's process."""
    state: Path | None = None
    """Folder of the session journal; None: there is none."""


def load_agent(directory: Path, facts: HostFacts | None = None) -> AgentConfig:
    """Read a relay's directory. `facts`: the host's ports, read from the kernel if not given.

    Raises ConfigErrors with everything that is wrong; warnings are `check`'s to tell.
    """
    problems = Problems()
    config = read_agent(directory, problems, read_host_facts() if facts is None else facts)
    problems.raise_errors()
    assert config is not None, "no error, so there is a configuration"
    return config


def read_agent(directory: Path, problems: Problems, facts: HostFacts) -> AgentConfig | None:
    """The same, with everything that is wrong, warnings too, put into `problems`; None if there are errors."""
    values = read_file(directory, keys.AGENT, problems)
    listen = values.get(keys.LISTEN, ())
    peers, partners = read_peers(directory, problems, values.get(keys.ID))
    routes = read_routes(directory, problems, partners, listen)
    access, answers = read_access(directory, problems, partners)
    check_values(values, listen, facts)
    if problems.errors:
        return None
    ports, addresses, datapath = values[keys.PORTS], values[keys.ADDRESSES], values[keys.DATAPATH]
    lease, shares, announce = values[keys.LEASE], values[keys.LIMITS], addresses[keys.ANNOUNCE]
    return AgentConfig(
        id=values[keys.ID],
        listen=listen,
        policy=Policy(
            routes=routes,
            peers=peers,
            access=access,
            answers=answers,
            pool=ports[keys.POOL],
            rest=ports[keys.REST],
            leases=Leases(
                default=lease[keys.DEFAULT], longest=lease[keys.LONGEST], idle=lease[keys.IDLE], absolute=lease[keys.ABSOLUTE]
            ),
            sessions_per_principal=shares[keys.SESSIONS],
            opens_per_second=shares[keys.OPENS],
            announce=announce,
            client_side=addresses[keys.CLIENT_SIDE],
            server_side=addresses[keys.SERVER_SIDE],
            own=frozenset(end.address for end in listen if not end.address.is_unspecified),
            targets_allow=Prefixes(values[keys.TARGETS][keys.ALLOW]),
        ),
        ruleset=_ruleset(values),
        rules=datapath[keys.RULES],
        xdp=_xdp(values),
        handshakes_per_second=shares[keys.HANDSHAKES],
        log_level=values[keys.LOG][keys.LEVEL].value,
        socket=path_of(datapath[keys.SOCKET]),
        state=_state(values),
    )


def _ruleset(values: Values) -> Ruleset:
    pool, datapath = values[keys.PORTS][keys.POOL], values[keys.DATAPATH]
    return Ruleset(values[keys.FIREWALL], ((pool.first, pool.last),), datapath[keys.MARK], datapath[keys.MASK])


def _xdp(values: Values) -> XdpConfig:
    datapath, sessions = values[keys.DATAPATH], values[keys.LIMITS][keys.FAST]
    return XdpConfig(datapath[keys.XDP], datapath[keys.INTERFACES], sessions, path_of(datapath[keys.PINS]) or keys.DEFAULT_PINS)


def _state(values: Values) -> Path | None:
    return path_of(values[keys.STATE] or os.environ.get("STATE_DIRECTORY"))


def path_of(text: str | None) -> Path | None:
    """A path, if there is one."""
    return Path(text) if text else None
