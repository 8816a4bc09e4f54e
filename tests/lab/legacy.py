"""The administrator of rulesets.py in the legacy tables: the same wishes, by iptables-restore into chains of his own.

He reloads as those do who share the tables with other programs (`--noflush`, his chains hooked once): a plain iptables-restore
would take away everybody's. Also what the legacy tables and sets hold of chainrelay, read back by the tools.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from chainrelay.wire.endpoint import Endpoint
from lab import rulesets

if TYPE_CHECKING:
    from lab.host import Host
    from lab.rulesets import Administrator

COMMANDS = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_HOOKS = (("filter", "INPUT"), ("filter", "FORWARD"), ("nat", "PREROUTING"), ("nat", "POSTROUTING"))
_BEGIN = "# iptables-legacy, IPv"
_MEMBER = re.compile(
    r'(?P<partner>[^ ,]+),(?P<protocol>udp|tcp):(?P<port>[0-9]+),(?P<own>[^ ,]+) .* comment "(?P<more>[^"]+)"'
)


def ruleset(administrator: Administrator) -> str:
    """Both families, one after the other."""
    return "".join(f"{_BEGIN}{family}\n{_family(administrator, family)}" for family in COMMANDS)


def is_legacy(text: str) -> bool:
    """Whether a ruleset is for these tables."""
    return text.startswith(_BEGIN)


def load(host: Host, text: str) -> None:
    """Load a ruleset of both families; his chains are hooked if they are not."""
    for part in text.split(_BEGIN)[1:]:
        family, rules = int(part[0]), part[1:]
        host.run([f"{COMMANDS[family]}-restore", "--noflush", "--wait"], stdin=rules)
        for table, hook in _HOOKS:
            jump = [hook, "-j", f"ADMIN-{hook}"]
            if host.run([COMMANDS[family], "-w", "-t", table, "-C", *jump], check=False).returncode != 0:
                host.run([COMMANDS[family], "-w", "-t", table, "-A", *jump])


def unload(host: Host) -> None:
    """He and his policies are gone."""
    for command in COMMANDS.values():
        for table, hook in _HOOKS:
            host.run([command, "-w", "-t", table, "-D", hook, "-j", f"ADMIN-{hook}"])
            if table == "filter":
                host.run([command, "-w", "-P", hook, "ACCEPT"])


def saved(host: Host, *, ours: bool) -> list[str]:
    """Lines of all tables of both families, without counters: chainrelay's, or everybody else's."""
    lines = []
    for command in COMMANDS.values():
        for table in ("mangle", "nat", "filter"):
            found = host.run([f"{command}-save", "-t", table]).stdout.splitlines()
            wanted = [line for line in found if line[0] in ":-" and ("CHAINRELAY-" in line) is ours]
            lines += [f"{command} {table} {line.partition(' [')[0]}" for line in wanted]
    return lines


def members(host: Host) -> list[str]:
    """Elements of chainrelay's sets, as lines."""
    listed = host.run(["ipset", "list", "-o", "save"]).stdout.splitlines()
    return [line.removeprefix("add ") for line in listed if line.startswith("add chainrelay-")]


def sets(host: Host) -> list[str]:
    """Names of chainrelay's sets."""
    return [name for name in host.run(["ipset", "list", "-n"]).stdout.split() if name.startswith("chainrelay-")]


def translations(host: Host, protocol: str = "udp") -> list[tuple[Endpoint, Endpoint, Endpoint, Endpoint]]:
    """Source, destination, new source and new destination of every direction that the sets hold."""
    found = []
    for line in members(host):
        parts = _MEMBER.search(line)
        if parts is not None and parts["protocol"] == protocol:
            port, new_source, new_destination = parts["more"].split()
            source, own = (f"[{text}]" if ":" in text else text for text in (parts["partner"], parts["own"]))
            here, there = Endpoint.parse(f"{source}:{port}"), Endpoint.parse(f"{own}:{parts['port']}")
            found.append((here, there, Endpoint.parse(new_source), Endpoint.parse(new_destination)))
    return found


def strays(host: Host) -> int:
    """As rulesets.strays."""
    return sum(
        int(line.split()[0])
        for command in COMMANDS.values()
        for line in host.run([command, "-w", "-nvxL", "ADMIN-INPUT"]).stdout.splitlines()
        if "/* strays */" in line
    )


def _family(administrator: Administrator, family: int) -> str:
    inside, outside = administrator.inside.name, administrator.outside.name
    icmp = "icmp" if family == 4 else "ipv6-icmp"
    address = next((each for each in administrator.served if each.version == family), None)
    outer, inner = (rulesets.FORWARDED_TCP, rulesets.FORWARDED_UDP), "-m conntrack --ctstate DNAT"
    pool, outward, inward = ":".join(map(str, rulesets.POOL)), f"-i {inside} -o {outside}", f"-i {outside} -o {inside} {inner}"
    mark = f"-m mark --mark {rulesets.MARK:#x}/{rulesets.MARK:#x} -j ACCEPT"
    forward = [
        "-m conntrack --ctstate INVALID -j DROP",
        "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        *([mark] if administrator.accepts_mark else []),
        f"{outward} -p tcp -m multiport --dports 53,80,443,{outer[0][0]} -j ACCEPT",
        f"{outward} -p udp -m multiport --dports 53,{rulesets.BORROWING_PORT},{outer[1][0]} -j ACCEPT",
        f"{inward} -p tcp --dport {outer[0][1]} -j ACCEPT",
        f"{inward} -p udp --dport {outer[1][1]} -j ACCEPT",
    ]
    entering = [
        *(f"-p {each} --dport {pool} -m comment --comment strays -j DROP" for each in ("tcp", "udp")),
        "-m conntrack --ctstate INVALID -j DROP",
        "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-i lo -j ACCEPT",
        f"-p {icmp} -j ACCEPT",
        f"-p tcp -m multiport --dports 22,{rulesets.CONTROL_PORT} -j ACCEPT",
    ]
    forwards = []
    if address is not None:
        own, target = administrator.outside.address(family), f"[{address}]" if family == 6 else str(address)
        forwards = [
            f"-d {own} -p {each} --dport {ports[0]} -j DNAT --to-destination {target}:{ports[1]}"
            for each, ports in zip(("tcp", "udp"), outer, strict=True)
        ]
    borrowed = "-".join(map(str, rulesets.BORROWED))
    masquerade = [
        f"-o {outside} -p udp --dport {rulesets.BORROWING_PORT} -j MASQUERADE --to-ports {borrowed}",
        f"-o {outside} -j MASQUERADE",
    ]
    policy = administrator.policy.upper()
    return (
        f"*filter\n:INPUT DROP [0:0]\n:FORWARD {policy} [0:0]\n"
        + _chains({"INPUT": entering, "FORWARD": forward})
        + "*nat\n"
        + _chains({"PREROUTING": forwards, "POSTROUTING": masquerade})
    )


def _chains(chains: dict[str, list[str]]) -> str:
    names = "".join(f":ADMIN-{name} - [0:0]\n" for name in chains)
    return names + "".join(f"-A ADMIN-{name} {rule}\n" for name, rules in chains.items() for rule in rules) + "COMMIT\n"
