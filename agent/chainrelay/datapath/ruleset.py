"""The static rules of the nftables backend as text: what `setup` loads and what `--print-ruleset` prints.

Pure: a `Ruleset` in, text out. Loading the text again is harmless at any time: sets and maps are declared as they are
(their elements, the sessions, stay), chains are emptied and filled in the same transaction. Per-session elements:
nft.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from chainrelay import limits

TABLE: Final = "chainrelay"
GATE: Final = "gate"
LIVE: Final = "live"
TO_DESTINATION: Final = "to_destination"
TO_SOURCE: Final = "to_source"

IP: Final = {4: "ip", 6: "ip6"}
"""nft's name of each family, as a table's family and as the header in an expression."""


class Firewall(Enum):
    """Who decides what is forwarded (M18, M24): our own rules, or the ruleset around us."""

    OWN = "own"
    GUEST = "guest"


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All that the static rules depend on. Raises ValueError for a pool, mark or family that can't work."""

    firewall: Firewall
    pool: tuple[tuple[int, int], ...] = ((limits.POOL_FIRST, limits.POOL_LAST),)
    """First and last port of each range; TCP and UDP alike."""
    mark: int = limits.MARK
    mask: int = limits.MARK
    """The bits of packet mark and connection mark that are ours; `mark` lies within them and is not 0."""
    families: tuple[int, ...] = (4, 6)

    def __post_init__(self) -> None:
        if not self.pool or any(not 1 <= first <= last <= 65535 for first, last in self.pool):
            raise ValueError(f"pool {self.pool}: wants ranges of ports, first ≤ last, within 1-65535")
        if not 0 < self.mark <= self.mask <= 0xFFFF_FFFF or self.mark & ~self.mask:
            raise ValueError(f"mark {self.mark:#x} is not a part of mask {self.mask:#x}, or not 32 bits, or 0")
        if not self.families or any(family not in IP for family in self.families):
            raise ValueError(f"families {self.families}: 4, 6 or both")


def render(ruleset: Ruleset) -> str:
    """The whole transaction, a table per family."""
    return "\n".join(_table(ruleset, family) for family in ruleset.families)


def teardown(families: Iterable[int] = (4, 6)) -> str:
    """Remove our tables with all that is in them; no error when they are not there."""
    return "".join(f"table {IP[family]} {TABLE}\ndelete table {IP[family]} {TABLE}\n" for family in families)


def administrators_rule(ruleset: Ruleset) -> str:
    """The one rule that a `guest` needs in the administrator's forward chain, where that has a policy of drop.

    An accept of ours is not final in nftables: every other base chain of the hook decides as well. ICMP errors about
    a session are `ct state related`; a chain that accepts those needs nothing more.
    """
    return f"meta mark & {ruleset.mask:#010x} == {ruleset.mark:#010x} accept"


def ranges(pool: Sequence[tuple[int, int]]) -> str:
    """`20000-29999, 31000`, as nft and ip_local_reserved_ports write it."""
    return ", ".join(f"{first}-{last}" if first != last else f"{first}" for first, last in pool)


def _table(ruleset: Ruleset, family: int) -> str:
    ip = IP[family]
    address = f"{'ipv4' if family == 4 else 'ipv6'}_addr"
    tuple_type = f"{address} . inet_proto . inet_service . {address} . inet_service"
    packet = f"{ip} saddr . meta l4proto . th sport . {ip} daddr . th dport"
    mark, mask = f"{ruleset.mark:#010x}", f"{ruleset.mask:#010x}"
    others = f"{~ruleset.mask & 0xFFFF_FFFF:#010x}"
    return f"""\
table {ip} {TABLE}
flush table {ip} {TABLE}
table {ip} {TABLE} {{
    # The leases: source, protocol, port, destination, port of a packet as it arrives. The kernel ends them by itself.
    set {LIVE} {{
        type {tuple_type}
        flags timeout
        counter
    }}

    # The same tuple, and the destination that it gets.
    map {TO_DESTINATION} {{
        type {tuple_type} : {address} . inet_service
    }}

    # The tuple with its new destination, and the source that it gets.
    map {TO_SOURCE} {{
        type {tuple_type} : {address} . inet_service
    }}

    # Decides before any NAT and before the connection is remembered: what is dropped here leaves no trace in conntrack.
    chain {GATE} {{
        type filter hook prerouting priority mangle; policy accept;
        # A session whose lease lasts, known to conntrack: almost every packet is one of those, so this is what relaying costs.
        ct state new,established ct mark & {mask} == {mark} {packet} @{LIVE} \
meta mark set meta mark & {others} | {mark} accept
        # The same for the first packet, and for a connection whose mark somebody has changed. Of the marks only our bits change.
        ct state new,established {packet} @{LIVE} \
meta mark set meta mark & {others} | {mark} ct mark set ct mark & {others} | {mark} accept
        # Nothing else is relayed, so nothing else is judged; ICMP errors follow their connection.
        meta l4proto != {{ tcp, udp }} accept
        # conntrack still knows the session, but its lease has ended.
        ct mark & {mask} == {mark} fib daddr type local goto ended
        # A stranger at a pool port gets no answer. Replies to a masquerade that borrowed the port are established.
        th dport {{ {ranges(ruleset.pool)} }} ct state new,invalid,untracked fib daddr type local drop
    }}

    # What a session may still send after its end.
    chain ended {{
        # TCP learns of it, once per segment.
        meta l4proto tcp reject with tcp reset
        # UDP does not; nor does TCP's own reset get an answer.
        drop
    }}

    # Runs before dstnat, so that a reload of the administrator's chains can't put his port-forwards first.
    chain translate_destination {{
        type nat hook prerouting priority dstnat - 5; policy accept;
        # The session's first packet; the later ones follow conntrack.
        ct mark & {mask} == {mark} dnat {ip} to {packet} map @{TO_DESTINATION}
    }}

    # Runs before srcnat, so that his masquerade can't choose the exit port.
    chain translate_source {{
        type nat hook postrouting priority srcnat - 5; policy accept;
        # Likewise.
        ct mark & {mask} == {mark} snat {ip} to {packet} map @{TO_SOURCE}
    }}
{_forward(ruleset, mark, mask)}}}
{_no_forward(ruleset, ip)}"""


def _forward(ruleset: Ruleset, mark: str, mask: str) -> str:
    if ruleset.firewall is Firewall.GUEST:
        return ""
    return f"""
    # This relay is the firewall: sessions, and the ICMP errors about them (which bear their mark); nothing else.
    chain forward {{
        type filter hook forward priority filter; policy drop;
        # The connection's mark covers both.
        ct mark & {mask} == {mark} accept
    }}
"""


def _no_forward(ruleset: Ruleset, ip: str) -> str:
    if ruleset.firewall is Firewall.OWN:
        return ""
    return f"""\
# firewall = "guest": the ruleset around us decides what is forwarded; a chain of an earlier "own" goes.
add chain {ip} {TABLE} forward
delete chain {ip} {TABLE} forward
"""
