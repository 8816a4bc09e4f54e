"""A relay's directory (agent.toml, routes.toml, peers.toml, access.toml) -> AgentConfig, or every error in it.

The schema of agent.toml comes first; then what takes two keys, two files or the host's ports to judge. A mistake that
would only be seen when the kernel or a partner refuses is told here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from chainrelay import limits
from chainrelay.config.access import read_access
from chainrelay.config.files import read_file
from chainrelay.config.host import HostFacts, read_host_facts
from chainrelay.config.kinds import (
    AddressKind,
    AddressMap,
    Choice,
    EndpointKind,
    Identifier,
    Integer,
    Interface,
    ListOf,
    NetworkKind,
    Ports,
    Text,
)
from chainrelay.config.peers import read_peers
from chainrelay.config.pool import check_pool
from chainrelay.config.problems import Place, Problems
from chainrelay.config.routes import read_routes
from chainrelay.config.schema import Key, Schema, Values, nearest, shorten
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.session.policy import Leases, Policy
from chainrelay.session.prefixes import PortRange, Prefix, Prefixes
from chainrelay.wire.endpoint import Address, Endpoint

_YEAR = 366 * 24 * 3600


class Rules(Enum):
    """What writes the rules of a session."""

    NFTABLES = "nftables"
    IPTABLES_LEGACY = "iptables-legacy"


class Xdp(Enum):
    """Whether XDP carries UDP sessions in front of the rules, and how."""

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    OFF = "off"


class LogLevel(Enum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_NO_ADDRESSES: tuple[Address, ...] = ()
_NO_PREFIXES: tuple[Prefix, ...] = ()
_NO_ANNOUNCE: dict[Address, Address] = {}
_POOL = PortRange(limits.POOL_FIRST, limits.POOL_LAST)

POOL = Key("pool", Ports(), "ports that sessions get, TCP and UDP alike", _POOL, f'"{_POOL}"')
REST = Key("rest", Integer(0, 3600, "seconds"), "how long a closed session's ports rest", limits.PORT_REST)
PORTS = Key("ports", Schema("ports", (POOL, REST)), "The pool of ports.")

CLIENT_SIDE = Key(
    "client_side",
    ListOf(AddressKind(), empty=True),
    "own addresses toward the client side, instead of the one at which the partner reached us",
    _NO_ADDRESSES,
    "none",
)
SERVER_SIDE = Key(
    "server_side",
    ListOf(AddressKind(), empty=True),
    "own addresses toward the server side, instead of what the route says",
    _NO_ADDRESSES,
    "none",
)
ANNOUNCE = Key(
    "announce",
    AddressMap(),
    "bound address = the address that partners are told, where a filter in front translates",
    _NO_ANNOUNCE,
    "none",
)
ADDRESSES = Key("addresses", Schema("addresses", (CLIENT_SIDE, SERVER_SIDE, ANNOUNCE)), "Own addresses.")

RULES = Key(
    "rules",
    Choice({rules.value: rules for rules in Rules}),
    "what writes the rules; iptables-legacy is for appliances whose own rules live in the legacy tables",
    Rules.NFTABLES,
    '"nftables"',
)
XDP = Key(
    "xdp",
    Choice({xdp.value: xdp for xdp in Xdp}),
    "the fast path for UDP in front of the rules, which passes by your forward rules, tcpdump and QoS: "
    "native (in the driver), generic (any driver, slower), auto (what works, else the rules alone), off",
    Xdp.OFF,
    '"off"',
)
_NO_NAMES: tuple[str, ...] = ()
INTERFACES = Key(
    "interfaces",
    ListOf(Interface(), empty=True),
    "interfaces on which datagrams take the fast path",
    _NO_NAMES,
    "every Ethernet interface that has an address at start",
)
MARK = Key("mark", Integer(1, 0xFFFF_FFFF), "the bits that mark a session's packets", limits.MARK, f"{limits.MARK:#x}")
MASK = Key("mask", Integer(1, 0xFFFF_FFFF), "the bits of the mark that are ours", limits.MARK, f"{limits.MARK:#x}")
DEFAULT_SOCKET = Path("/run/chainrelay-datapath/socket")
_NO_PATH: str | None = None
SOCKET = Key("socket", Text("path"), "socket of the datapath helper; without it the agent needs the rights itself", _NO_PATH, "none")
DEFAULT_PINS = Path("/run/chainrelay/bpf")
PINS = Key(
    "pins",
    Text("path"),
    "folder of the fast path's maps, a bpffs, made one if it isn't; its log and state lie beside it",
    _NO_PATH,
    str(DEFAULT_PINS),
)
DATAPATH = Key("datapath", Schema("datapath", (RULES, XDP, INTERFACES, PINS, MARK, MASK, SOCKET)), "How the kernel is told.")

_SHORTEST = limits.LEASE_SHORTEST
DEFAULT = Key("default", Integer(_SHORTEST, _YEAR, "seconds"), "lease that a session gets", limits.LEASE_DEFAULT)
LONGEST = Key("longest", Integer(_SHORTEST, _YEAR, "seconds"), "longest lease that is granted", limits.LEASE_LONGEST)
IDLE = Key("idle", Integer(0, _YEAR, "seconds"), "a session ends after so long in silence; 0: never", limits.IDLE_LIMIT)
ABSOLUTE = Key("absolute", Integer(_SHORTEST, _YEAR, "seconds"), "a session's greatest age", limits.ABSOLUTE_LIMIT)
LEASE = Key("lease", Schema("lease", (DEFAULT, LONGEST, IDLE, ABSOLUTE)), "How long sessions last.")

SESSIONS = Key(
    "sessions_per_principal",
    Integer(1, 10_000_000),
    "sessions at once that one partner may hold",
    limits.SESSIONS_PER_PRINCIPAL,
)
OPENS = Key(
    "opens_per_second",
    Integer(1, 10_000_000),
    "new sessions per second that one partner may open",
    int(limits.OPENS_PER_SECOND),
)
HANDSHAKES = Key(
    "handshakes_per_second",
    Integer(1, 10_000_000),
    "connections per second from one /24 or /48 that get as far as a handshake",
    int(limits.HELLO_RATE_PER_PREFIX),
)
FAST = Key(
    "fast_path_sessions",
    Integer(1, 4_000_000),
    "UDP sessions (components count each) of one family that the fast path has room for, 768 octets of memory each; one more is refused as "
    "datapath-full",
    limits.FAST_PATH_SESSIONS,
)
LIMITS = Key("limits", Schema("limits", (SESSIONS, OPENS, HANDSHAKES, FAST)), "What one partner may take, and what there is room for.")

ALLOW = Key(
    "allow",
    ListOf(NetworkKind(), empty=True),
    "prefixes that may be a target although the built-in refusals forbid them",
    _NO_PREFIXES,
    "none",
)
TARGETS = Key("targets", Schema("targets", (ALLOW,)), "Exceptions from what is never a target.")

LEVEL = Key("level", Choice({level.value: level for level in LogLevel}), "how much is logged", LogLevel.INFO, '"info"')
LOG = Key("log", Schema("log", (LEVEL,)), "The log.")

ID = Key("id", Identifier(), "this relay's id, the same at all of its partners")
LISTEN = Key("listen", ListOf(EndpointKind()), f"control endpoints; without a port {limits.CONTROL_PORT} is meant")
FIREWALL = Key(
    "firewall",
    Choice({firewall.value: firewall for firewall in Firewall}),
    "own: our forward chain drops what has no session; guest: the ruleset around us decides",
    Firewall.GUEST,
    '"guest"',
)
STATE = Key(
    "state", Text("path"), "folder of the session journal", _NO_PATH, "what systemd gives by StateDirectory=, otherwise there is no journal"
)
AGENT = Schema(
    "agent.toml",
    (ID, LISTEN, FIREWALL, STATE, PORTS, ADDRESSES, DATAPATH, LEASE, LIMITS, TARGETS, LOG),
)


@dataclass(frozen=True, slots=True)
class XdpConfig:
    """The fast path. `interfaces` empty: every Ethernet interface that has an address at start."""

    mode: Xdp = Xdp.OFF
    interfaces: tuple[str, ...] = ()
    sessions: int = limits.FAST_PATH_SESSIONS
    pins: Path = DEFAULT_PINS


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything that a relay is told by its files."""

    id: str
    listen: tuple[Endpoint, ...]
    policy: Policy
    ruleset: Ruleset
    rules: Rules
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
    values = read_file(directory, AGENT, problems)
    listen = values.get(LISTEN, ())
    peers, partners = read_peers(directory, problems, values.get(ID))
    routes = read_routes(directory, problems, partners, listen)
    access, answers = read_access(directory, problems, partners)
    _check(values, listen, facts)
    if problems.errors:
        return None
    ports, addresses, datapath = values[PORTS], values[ADDRESSES], values[DATAPATH]
    lease, shares, announce = values[LEASE], values[LIMITS], addresses[ANNOUNCE]
    return AgentConfig(
        id=values[ID],
        listen=listen,
        policy=Policy(
            routes=routes,
            peers=peers,
            access=access,
            answers=answers,
            pool=ports[POOL],
            rest=ports[REST],
            leases=Leases(
                default=lease[DEFAULT], longest=lease[LONGEST], idle=lease[IDLE], absolute=lease[ABSOLUTE]
            ),
            sessions_per_principal=shares[SESSIONS],
            opens_per_second=shares[OPENS],
            announce=announce,
            client_side=addresses[CLIENT_SIDE],
            server_side=addresses[SERVER_SIDE],
            own=frozenset(end.address for end in listen if not end.address.is_unspecified),
            targets_allow=Prefixes(values[TARGETS][ALLOW]),
        ),
        ruleset=_ruleset(values),
        rules=datapath[RULES],
        xdp=_xdp(values),
        handshakes_per_second=shares[HANDSHAKES],
        log_level=values[LOG][LEVEL].value,
        socket=path_of(datapath[SOCKET]),
        state=_state(values),
    )


def _ruleset(values: Values) -> Ruleset:
    pool, datapath = values[PORTS][POOL], values[DATAPATH]
    return Ruleset(values[FIREWALL], ((pool.first, pool.last),), datapath[MARK], datapath[MASK])


def _xdp(values: Values) -> XdpConfig:
    datapath = values[DATAPATH]
    return XdpConfig(datapath[XDP], datapath[INTERFACES], values[LIMITS][FAST], path_of(datapath[PINS]) or DEFAULT_PINS)


def _state(values: Values) -> Path | None:
    return path_of(values[STATE] or os.environ.get("STATE_DIRECTORY"))


def path_of(text: str | None) -> Path | None:
    """A path, if there is one."""
    return Path(text) if text else None


def _check(values: Values, listen: tuple[Endpoint, ...], facts: HostFacts) -> None:
    """What takes more than one key of agent.toml, or the host, to judge. Sections that are wrong are passed over."""
    _check_listen(values, listen)
    sections = [values.get(key) for key in (PORTS, ADDRESSES, DATAPATH, LEASE, LIMITS)]
    ports, addresses, datapath, lease, shares = sections
    pool = ports.get(POOL) if ports else None
    if ports and pool is not None:
        check_pool(ports.at(POOL), pool, listen, facts)
    if addresses:
        _check_addresses(addresses)
    if datapath:
        check_mark(datapath)
        check_interfaces(datapath, facts)
    if lease:
        _check_lease(lease)
    if shares and pool is not None and addresses:
        _check_share(shares, pool, max(1, len(addresses.get(CLIENT_SIDE, ()))))
    if (state := values.get(STATE)) and Path(state).exists() and not Path(state).is_dir():
        values.at(STATE).wrong(f"{shorten(state)} is no folder", "name a folder, or leave it out under systemd")
    if targets := values.get(TARGETS):
        _check_targets(targets)


def _check_listen(values: Values, listen: tuple[Endpoint, ...]) -> None:
    wildcards = {(end.family, end.port) for end in listen if end.address.is_unspecified}
    for end in listen:
        if end.address.is_multicast:
            values.at(LISTEN).wrong(f"{end.address} is a multicast address", "write an address of this host")
        elif not end.address.is_unspecified and (end.family, end.port) in wildcards:
            every = "0.0.0.0" if end.family == 4 else "::"
            values.at(LISTEN).wrong(f"{end} is covered by {every} on the same port already", "remove one of the two")


def _check_addresses(values: Values) -> None:
    for key in (CLIENT_SIDE, SERVER_SIDE):
        for address in values.get(key, ()):
            _expect_host(values.at(key), address)
    announce = values.get(ANNOUNCE, {})
    told: dict[Address, Address] = {}
    for bound, announced in announce.items():
        place = values.at(ANNOUNCE).of(str(bound))
        _expect_host(place, bound)
        if bound.version != announced.version:
            why = f"{bound} is announced as {announced}: IPv{bound.version} can't be announced as IPv{announced.version}"
            place.wrong(why, "announce an address of the same family")
        elif announced != bound:
            _expect_host(place, announced)
        if announced in told:
            why = f"{announced} is announced for {told[announced]} as well: their ports would collide"
            place.wrong(why, "announce another address for one of the two")
        told.setdefault(announced, bound)


def _expect_host(place: Place, address: Address) -> None:
    """A relay's own address has to be one that packets of others can reach."""
    kinds = {
        "unspecified": address.is_unspecified,
        "a loopback address": address.is_loopback,
        "a multicast address": address.is_multicast,
        "a link-local address": address.is_link_local,
    }
    for what, holds in kinds.items():
        if holds:
            place.wrong(f"{address} is {what}: partners can't send to it", "write a routable address of this host")
            return


def check_mark(values: Values) -> None:
    """Of [datapath]."""
    mark, mask = values.get(MARK), values.get(MASK)
    if mark is not None and mask is not None and mark & ~mask:
        why = f"mark {mark:#x} has bits outside of mask {mask:#x}"
        values.at(MARK if values.has(MARK) else MASK).wrong(why, f"write mask = {mark | mask:#x}, or a mark within it")


def check_interfaces(values: Values, facts: HostFacts) -> None:
    """Of [datapath]: a name that is not there may come back, so it is no error."""
    if values.get(XDP, Xdp.OFF) is Xdp.OFF:
        return
    here = sorted(facts.interfaces - {"lo"})
    names = values.get(INTERFACES)
    for at, name in enumerate(names or ()):
        place = values.at(INTERFACES).of(at)
        if name == "lo":
            place.wrong("no datagram of others arrives at lo", "remove it")
        elif here and name not in here:
            place.warn(f"there is no interface {shorten(name)!r} on this host now", nearest(name, here, "name one that exists"))


def _check_lease(values: Values) -> None:
    default, longest, absolute = values.get(DEFAULT), values.get(LONGEST), values.get(ABSOLUTE)
    idle = values.get(IDLE)
    if default is not None and longest is not None and default > longest:
        why = f"default {default} is longer than longest {longest}"
        values.at(DEFAULT if values.has(DEFAULT) else LONGEST).wrong(why, "write default ≤ longest")
    if longest is not None and absolute is not None and longest > absolute:
        why = f"longest {longest} is longer than absolute {absolute}"
        values.at(ABSOLUTE if values.has(ABSOLUTE) else LONGEST).wrong(why, "write longest ≤ absolute")
    if idle and absolute is not None and idle >= absolute:
        values.at(IDLE).warn(f"idle {idle} never comes before absolute {absolute}", "write idle < absolute, or 0")


def _check_targets(values: Values) -> None:
    allowed = values.get(ALLOW)
    for at, prefix in enumerate(allowed or ()):
        if not prefix.prefixlen:
            why = f"{prefix} lifts every built-in refusal: loopback, link-local and this host's own addresses become targets"
            values.at(ALLOW).of(at).warn(why, "write the prefixes that you mean")


def _check_share(values: Values, pool: PortRange, addresses: int) -> None:
    sessions, ports = values.get(SESSIONS), len(pool) * addresses
    if sessions is not None and values.has(SESSIONS) and sessions > ports:
        why = f"{sessions} sessions of one partner don't fit into {ports} ports"
        values.at(SESSIONS).warn(why, "widen ports.pool, or list more addresses.client_side")
