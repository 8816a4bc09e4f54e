"""The rules of the iptables-legacy backend as text in iptables-restore's syntax, and how a session lies in them.

Pure: a `Ruleset` and flows in, text out; the same text is loaded and printed (`--print-ruleset`). Each direction of a session is one
element of an ipset (its lease and counters; its comment says the rest of the flow) and two rules of table nat, DNAT and SNAT, in
chains that divide the sessions by own port. docs/design.md §12 has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from chainrelay import limits
from chainrelay.datapath.mapping import Flow
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Protocol

PREFIX: Final = "CHAINRELAY-"
SETS: Final = {4: "chainrelay-4", 6: "chainrelay-6"}
TABLES: Final = ("mangle", "nat", "filter")
DESTINATIONS: Final = f"{PREFIX}DST"
SOURCES: Final = f"{PREFIX}SRC"
_SHIFTS: Final = (12, 8, 4)
"""Bits of the own port below each level: 16 children a level, 16 ports in a leaf."""
MATCH_SET: Final = "src,dst,dst"
_PROTOCOLS: Final = tuple(protocol.name.lower() for protocol in Protocol)


@dataclass(frozen=True, slots=True)
class Key:
    """What an element of the set is: a partner's address, and our own endpoint. The partner's port is in the comment."""

    protocol: Protocol
    partner: Address
    own: Endpoint

    @staticmethod
    def of(flow: Flow) -> Key:
        """The one builder."""
        return Key(flow.protocol, flow.source.address, flow.destination)


@dataclass(frozen=True, slots=True)
class Element:
    """An element of the set, as listed: seconds left, packets, bytes."""

    flow: Flow
    expires: float
    packets: int
    octets: int


def comment(flow: Flow) -> str:
    """What the set's key does not hold: partner's port, new source, new destination. So the set alone is a journal to adopt from."""
    return f"{flow.source.port} {flow.new_source} {flow.new_destination}"


def flow_of(key: Key, text: str) -> Flow:
    """The inverse of `comment`. Raises ValueError."""
    port, new_source, new_destination = text.split(" ")
    source = Endpoint(key.partner, int(port))
    return Flow(key.protocol, source, key.own, Endpoint.parse(new_source), Endpoint.parse(new_destination))


def branch(root: str, port: int) -> list[tuple[str, int, int]]:
    """The chains below `root` that lead to a session at own port `port`: name, first and last port."""
    return [
        (f"{root}-{port >> shift:0{level}X}", port >> shift << shift, (port >> shift << shift) + (1 << shift) - 1)
        for level, shift in enumerate(_SHIFTS, 1)
    ]


def render(ruleset: Ruleset, family: int, table: str, flows: Iterable[Flow] = (), saved: str = "") -> str:
    """One table's transaction for `iptables-restore --noflush`: our chains as they should be, hooked once and first.

    `saved`: the table as iptables-save prints it; chains and hooks of ours in it are replaced, nothing of anybody else's is named.
    """
    chains = _chains(ruleset, family, table)
    if table == "nat":
        _grow(chains, flows)
    hooks = [f"-I {hook}" for hook in _hooks(ruleset, table)]
    return _transaction(table, chains, hooks, saved)


def render_all(ruleset: Ruleset) -> str:
    """All tables of all families, as for a kernel without anything of ours; with the commands that take them."""
    options = f"timeout 0 counters comment maxelem {2 * limits.LEGACY_SESSIONS}"
    parts = []
    for family in ruleset.families:
        inet, command = ("inet", "iptables") if family == 4 else ("inet6", "ip6tables")
        parts.append(f"# ipset create {SETS[family]} hash:ip,port,ip family {inet} {options}\n# {command}-legacy-restore --noflush\n")
        parts += [render(ruleset, family, table) for table in TABLES]
    return "".join(parts)


def teardown(table: str, saved: str) -> str:
    """Remove our chains and hooks from a table; empty when there are none."""
    return _transaction(table, {}, [], saved) if f":{PREFIX}" in saved else ""


def administrators_rule(ruleset: Ruleset) -> str:
    """The one rule that a `guest` needs in the administrator's FORWARD chain, where that ends in a drop."""
    return f"-A FORWARD -m mark --mark {ruleset.mark:#x}/{ruleset.mask:#x} -j ACCEPT"


def _transaction(table: str, chains: dict[str, list[str]], hooks: list[str], saved: str) -> str:
    before = [line.split()[0][1:] for line in saved.splitlines() if line.startswith(f":{PREFIX}")]
    unhook = [f"-D{line[2:]}" for line in saved.splitlines() if line.startswith("-A ") and _is_hook(line)]
    lines = [
        f"*{table}",
        *(f":{name} - [0:0]" for name in dict.fromkeys([*before, *chains])),
        *unhook,
        *(f"-A {name} {rule}" for name, rules in chains.items() for rule in rules),
        *(f"-X {name}" for name in before if name not in chains),
        *hooks,
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def _is_hook(line: str) -> bool:
    words = line.split()
    return not words[1].startswith(PREFIX) and words[-2] == "-j" and words[-1].startswith(PREFIX)


def _hooks(ruleset: Ruleset, table: str) -> list[str]:
    ours = f"-m connmark --mark {_value(ruleset)}"
    return {
        "mangle": [f"{hook}ROUTING -j {PREFIX}{hook}" for hook in ("PRE", "POST")] + [f"INPUT -j {PREFIX}INPUT"],
        "nat": [f"{hook}ROUTING {ours} -j {PREFIX}{hook}" for hook in ("PRE", "POST")],
        "filter": [f"FORWARD -j {PREFIX}FORWARD"],
    }[table]


def _chains(ruleset: Ruleset, family: int, table: str) -> dict[str, list[str]]:
    match table:
        case "mangle":
            return dict(_mangle(ruleset, family))
        case "nat":
            clear = [f"-j {target} --set-xmark 0x0/{ruleset.mask:#x}" for target in ("CONNMARK", "MARK")]
            return {
                # a stranger who is wrong by the partner's port alone: not ours, and INPUT drops him
                f"{PREFIX}PRE": [f"-j {DESTINATIONS}", *clear],
                f"{PREFIX}POST": [f"-j {SOURCES}"],
                DESTINATIONS: [],
                SOURCES: [],
            }
        case "filter":
            return {f"{PREFIX}FORWARD": list(_forward(ruleset))}
        case _:
            raise ValueError(f"table {table}")


def _mangle(ruleset: Ruleset, family: int) -> Iterator[tuple[str, list[str]]]:
    value, live = _value(ruleset), f"-m set --match-set {SETS[family]} {MATCH_SET}"
    pool = [f"-p {each} -m {each} --dport {first}:{last}" for first, last in ruleset.pool for each in _PROTOCOLS]
    local = "-m addrtype --dst-type LOCAL"
    yield (
        f"{PREFIX}PRE",
        [
            # conntrack knows the session: its tuple is exact, the lease decides
            *(f"-p {each} -m connmark --mark {value} -g {PREFIX}KNOWN" for each in _PROTOCOLS),
            # perhaps a session's first packet: table nat compares the partner's port, and counts it
            *(f"-p {each} -m conntrack --ctstate NEW {live} ! --update-counters -g {PREFIX}LIVE" for each in _PROTOCOLS),
            # a stranger at a pool port gets no answer; replies to a masquerade that borrowed the port are established
            *(f"{match} -m conntrack --ctstate NEW,INVALID,UNTRACKED {local} -j DROP" for match in pool),
        ],
    )
    # the lease has ended: silence for UDP; TCP goes on without a mark, as far as FORWARD's reset
    yield f"{PREFIX}KNOWN", [f"{live} -g {PREFIX}LIVE", f"-p udp {local} -j DROP"]
    yield f"{PREFIX}LIVE", [f"-j {target} --set-xmark {value}" for target in ("MARK", "CONNMARK")]
    yield f"{PREFIX}INPUT", [f"{match} -m conntrack --ctstate NEW -j DROP" for match in pool]
    # should the administrator have put an accept of his own before our reset
    yield f"{PREFIX}POST", [f"-p tcp {_ended(value)} -m tcp ! --tcp-flags RST RST -j DROP"]


def _forward(ruleset: Ruleset) -> Iterator[str]:
    value = _value(ruleset)
    yield f"-p tcp {_ended(value)} -j REJECT --reject-with tcp-reset"
    if ruleset.firewall is Firewall.OWN:
        yield f"-m connmark --mark {value} -j ACCEPT"
        yield "-j DROP"


def _ended(value: str) -> str:
    return f"-m connmark --mark {value} -m mark ! --mark {value}"


def _value(ruleset: Ruleset) -> str:
    return f"{ruleset.mark:#x}/{ruleset.mask:#x}"


def _grow(chains: dict[str, list[str]], flows: Iterable[Flow]) -> None:
    """Add the rules of sessions, and the chains that lead to them. privileged/iptables_worker.py does the same one by one."""
    for flow in flows:
        protocol = flow.protocol.name.lower()
        counted = f"-m set --match-set {SETS[flow.source.family]} {MATCH_SET} "
        for root, destination, rest in (
            (DESTINATIONS, flow.destination, f"{counted}-j DNAT --to-destination {flow.new_destination}"),
            (SOURCES, flow.new_destination, f"-j SNAT --to-source {flow.new_source}"),
        ):
            parent = root
            for chain, first, last in branch(root, flow.destination.port):
                if chain not in chains:
                    chains[chain] = []
                    chains[parent].append(f"-m conntrack --ctorigdstport {first}:{last} -j {chain}")
                parent = chain
            ends = f"-s {flow.source.address} -d {destination.address}"
            ports = f"-p {protocol} -m {protocol} --sport {flow.source.port} --dport {destination.port}"
            chains[parent].append(f"{ends} {ports} {rest}")
