"""What the kernel of a firewall still holds of chainrelay. Where this is empty, a teardown has left nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import legacy
from lab.rulesets import MARK, POOL

if TYPE_CHECKING:
    from lab.host import Host

TABLE = "chainrelay"


@dataclass(frozen=True)
class Remains:
    """Of one host. Tables and XDP programs are static and stand while an agent is installed; the rest belongs to sessions."""

    tables: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()
    conntrack: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()

    @property
    def of_sessions(self) -> tuple[str, ...]:
        """Everything but what is static, as lines to show."""
        return self.elements + self.conntrack + self.sockets

    @property
    def all(self) -> tuple[str, ...]:
        """Everything."""
        return self.tables + self.programs + self.of_sessions


def remains(host: Host) -> Remains:
    """Look at tables, XDP programs, chains, set and map elements, connections with our mark, and sockets on ports of the pool."""
    tables, elements = [], []
    for item in json.loads(host.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]:
        kind, body = next(iter(item.items()))
        if kind == "table" and body["name"] == TABLE:
            tables.append(f"nft table {body['family']} {TABLE}")
        elif kind in {"set", "map"} and body["table"] == TABLE:
            elements += [f"nft {body['family']} {body['name']}: {json.dumps(each)}" for each in body.get("elem", ())]
    elements += [f"ipset {line}" for line in legacy.members(host)]
    tables += [f"ipset {name}" for name in legacy.sets(host)] + legacy.saved(host, ours=True)
    conntrack: list[str] = []
    for family in ("ipv4", "ipv6"):
        listed = host.run(["conntrack", "-L", "-f", family, "--mark", f"{MARK:#x}/{MARK:#x}"]).stdout
        conntrack += listed.splitlines()
    first, last = POOL
    shown = host.run(["ss", "-H", "-a", "-n", "-t", "-u", f"( sport >= :{first} and sport <= :{last} )"]).stdout
    return Remains(tuple(tables), tuple(elements), tuple(conntrack), tuple(shown.splitlines()), programs(host))


def rules(host: Host) -> str:
    """chainrelay's rules and sets as text, wherever they are, without what changes by itself in the legacy ones."""
    listed = host.run(["nft", "list", "ruleset"]).stdout
    tables = re.findall(rf"^table ip6? {TABLE} \{{.*?^\}}", listed, re.MULTILINE | re.DOTALL)
    return "\n".join([*tables, *legacy.sets(host), *legacy.saved(host, ours=True)])


def programs(host: Host) -> tuple[str, ...]:
    """XDP programs on the host's interfaces, whoever put them there."""
    links = json.loads(host.run(["ip", "-j", "link", "show"]).stdout)
    return tuple(f"XDP program {each['xdp']['prog']['id']} on {each['ifname']}" for each in links if "xdp" in each)
