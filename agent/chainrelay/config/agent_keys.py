"""Every key of agent.toml: its name, kind, default and meaning. Reading and documentation follow from it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from chainrelay import limits
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
from chainrelay.config.schema import Key, Schema
from chainrelay.datapath.ruleset import Firewall
from chainrelay.session.prefixes import PortRange, Prefix
from chainrelay.wire.endpoint import Address

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
