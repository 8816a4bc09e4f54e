"""What an administrator has on his firewall before chainrelay comes: tables of his own, in his own way.

Faults of a datapath hide in an empty namespace. So every firewall of the lab has `ct state` rules, a port-forward, a
masquerade at the usual priorities (also one that is bound to ports of the relay's pool), and drops what he did not
allow. The same in the legacy tables: legacy.py. The one rule that chainrelay asks of him accepts its mark. Nothing here
touches chainrelay's own tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lab import legacy

if TYPE_CHECKING:
    from chainrelay.wire.endpoint import Address
    from lab.host import Host
    from lab.link import End

Policy = Literal["drop", "accept"]
Rules = Literal["nftables", "iptables-legacy"]
"""In which of the kernel's tables the administrator lives; the agent beside him has its own in the same."""
CONTROL_PORT = 9798
FORWARDED_TCP = (8080, 80)  # from the outside to the inside host
FORWARDED_UDP = (8053, 53)
BORROWING_PORT = 5300  # datagrams to it are masqueraded to ports of the pool
POOL = (20000, 29999)
BORROWED = (20000, 20999)
MARK = 0x4000_0000


@dataclass(frozen=True)
class Administrator:
    """His wishes: what lies inside and outside, whom the port-forward serves, and whether he let chainrelay through."""

    inside: End
    outside: End
    served: tuple[Address, ...]
    """The inside host's addresses, one per family."""
    policy: Policy = "drop"
    accepts_mark: bool = True
    rules: Rules = "nftables"

    def ruleset(self) -> str:
        """His whole ruleset; loading it again replaces it in one transaction, as an administrator reloads."""
        if self.rules == "iptables-legacy":
            return legacy.ruleset(self)
        mark = f"meta mark & {MARK:#x} == {MARK:#x} accept" if self.accepts_mark else ""
        inward = f'iifname "{self.outside.name}" oifname "{self.inside.name}" ct status dnat'
        outward = f'iifname "{self.inside.name}" oifname "{self.outside.name}"'
        return f"""
table inet admin {{
}}
delete table inet admin
table inet admin {{
    counter strays {{
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        meta l4proto {{ tcp, udp }} th dport {POOL[0]}-{POOL[1]} counter name strays drop
        ct state invalid drop
        ct state established,related accept
        iifname "lo" accept
        meta l4proto {{ icmp, icmpv6 }} accept
        tcp dport {{ 22, {CONTROL_PORT} }} accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy {self.policy};
        ct state invalid counter drop
        ct state established,related accept
        {mark}
        {outward} tcp dport {{ 53, 80, 443, {FORWARDED_TCP[0]} }} accept
        {outward} udp dport {{ 53, {BORROWING_PORT}, {FORWARDED_UDP[0]} }} accept
        {inward} tcp dport {FORWARDED_TCP[1]} accept
        {inward} udp dport {FORWARDED_UDP[1]} accept
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
{self._forwards()}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{self.outside.name}" udp dport {BORROWING_PORT} masquerade to :{BORROWED[0]}-{BORROWED[1]}
        oifname "{self.outside.name}" masquerade
    }}
}}
"""

    def _forwards(self) -> str:
        lines = []
        for address in self.served:
            family = "ip" if address.version == 4 else "ip6"
            target = str(address) if address.version == 4 else f"[{address}]"
            own = self.outside.address(address.version)
            for protocol, (outer, inner) in (("tcp", FORWARDED_TCP), ("udp", FORWARDED_UDP)):
                lines.append(f"        {family} daddr {own} {protocol} dport {outer} dnat {family} to {target}:{inner}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Filter:
    """A packet filter in front of a relay, itself no relay: it lends the relay its own outer address."""

    outer: End
    inner: End
    relay: tuple[Address, ...]

    def ruleset(self) -> str:
        """DNAT of the control port and the pool to the relay; what the relay sends leaves under the outer address."""
        inward, outward = [], []
        first, last = POOL
        for address in self.relay:
            family = "ip" if address.version == 4 else "ip6"
            own = self.outer.address(address.version)
            matches = (f"tcp dport {{ {CONTROL_PORT}, {first}-{last} }}", f"udp dport {first}-{last}")
            inward += [f"        {family} daddr {own} {match} dnat {family} to {address}" for match in matches]
            outward.append(f'        oifname "{self.outer.name}" {family} saddr {address} snat {family} to {own}')
        return f"""
table inet admin {{
}}
delete table inet admin
table inet admin {{
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        ct status dnat accept
        iifname "{self.inner.name}" accept
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
{chr(10).join(inward)}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
{chr(10).join(outward)}
    }}
}}
"""


def strays(host: Host, rules: Rules = "nftables") -> int:
    """Packets for a port of the relay's pool that got as far as the administrator's input chain. The gate stops them before it."""
    if rules == "iptables-legacy":
        return legacy.strays(host)
    listed = json.loads(host.run(["nft", "-j", "list", "counter", "inet", "admin", "strays"]).stdout)["nftables"]
    return next(int(item["counter"]["packets"]) for item in listed if "counter" in item)


def load(host: Host, ruleset: str) -> None:
    """What `nft -f`, or a script around iptables-restore, does on the administrator's firewall."""
    if legacy.is_legacy(ruleset):
        legacy.load(host, ruleset)
    else:
        host.run(["nft", "-f", "-"], stdin=ruleset)
