"""What a reload changes, as short lines for the log (`peers: alice: keys 2026a → 2026a, 2026b`; never a key itself), and what of
it a running agent can put in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from chainrelay.config.agent import AgentConfig
from chainrelay.session.policy import Policy
from chainrelay.session.prefixes import PortRange
from chainrelay.session.tables import Allow, AnswerRow, Direct, PeerRow, Route

RESTART: Final = "takes effect after a restart"


def differences(old: AgentConfig, new: AgentConfig) -> list[str]:
    """One line per change, none if nothing changed. What a running agent can't take over says so."""
    lines = [
        f"{key}: {_text(was)} → {_text(now)}" + (f" ({RESTART})" if restart else "")
        for key, was, now, restart in _settings(old, new)
        if was != now
    ]
    lines += _keyed("routes", _routes(old.policy), _routes(new.policy))
    lines += _peers(old.policy, new.policy)
    lines += _rows("access: allow", old.policy.access.rows, new.policy.access.rows)
    lines += _rows("access: answer", old.policy.answers.rows, new.policy.answers.rows)
    return lines


def in_force(old: AgentConfig, new: AgentConfig) -> AgentConfig:
    """`new`, but what takes effect after a restart is as in `old`: what the kernel, the sockets and the partners were told at the
    start must be what the engine goes by (a port out of a pool that the gate does not know would be unguarded)."""
    return replace(old, policy=replace(new.policy, pool=old.policy.pool))


def _settings(old: AgentConfig, new: AgentConfig) -> list[tuple[str, object, object, bool]]:
    """(key, was, now, needs a restart)."""
    was, now = old.policy, new.policy
    return [
        ("id", old.id, new.id, True),
        ("listen", old.listen, new.listen, True),
        ("firewall", old.ruleset.firewall.value, new.ruleset.firewall.value, True),
        ("ports.pool", was.pool, now.pool, True),
        ("ports.rest", was.rest, now.rest, False),
        ("addresses.client_side", was.client_side, now.client_side, False),
        ("addresses.server_side", was.server_side, now.server_side, False),
        ("addresses.announce", was.announce, now.announce, False),
        ("datapath.rules", old.rules.value, new.rules.value, True),
        ("datapath.xdp", old.xdp.mode.value, new.xdp.mode.value, True),
        ("datapath.interfaces", old.xdp.interfaces, new.xdp.interfaces, True),
        ("datapath.pins", str(old.xdp.pins), str(new.xdp.pins), True),
        ("datapath.mark", hex(old.ruleset.mark), hex(new.ruleset.mark), True),
        ("datapath.mask", hex(old.ruleset.mask), hex(new.ruleset.mask), True),
        ("datapath.socket", str(old.socket), str(new.socket), True),
        ("state", str(old.state), str(new.state), True),
        ("lease.default", was.leases.default, now.leases.default, False),
        ("lease.longest", was.leases.longest, now.leases.longest, False),
        ("lease.idle", was.leases.idle, now.leases.idle, False),
        ("lease.absolute", was.leases.absolute, now.leases.absolute, False),
        ("limits.sessions_per_principal", was.sessions_per_principal, now.sessions_per_principal, False),
        ("limits.opens_per_second", was.opens_per_second, now.opens_per_second, False),
        ("limits.fast_path_sessions", old.xdp.sessions, new.xdp.sessions, True),
        ("limits.handshakes_per_second", old.handshakes_per_second, new.handshakes_per_second, True),
        ("targets.allow", str(was.targets_allow), str(now.targets_allow), False),
        ("log.level", old.log_level, new.log_level, True),
    ]


def _routes(policy: Policy) -> dict[str, str]:
    return {str(route.to): _route(route) for route in policy.routes.rows}


def _route(route: Route) -> str:
    return "direct" if isinstance(route.via, Direct) else f"{route.via.peer} at {route.via.at}"


def _keyed(table: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    lines = [f"{table}: {key} added, {value}" for key, value in new.items() if key not in old]
    lines += [f"{table}: {key} removed" for key in old if key not in new]
    lines += [f"{table}: {key}: {old[key]} → {new[key]}" for key in new if key in old and old[key] != new[key]]
    return lines


def _peers(old: Policy, new: Policy) -> list[str]:
    was, now = ({row.id: row for row in policy.peers.rows} for policy in (old, new))
    lines = [f"peers: {peer} added ({now[peer].kind.value})" for peer in now if peer not in was]
    lines += [f"peers: {peer} removed" for peer in was if peer not in now]
    for peer in now:
        if peer in was:
            lines += [f"peers: {peer}: {change}" for change in _peer(was[peer], now[peer])]
    return lines


def _peer(was: PeerRow, now: PeerRow) -> list[str]:
    def kids(row: PeerRow) -> str:
        return ", ".join(key.kid for key in row.keys)

    pairs = {
        "kind": (was.kind.value, now.kind.value),
        "keys": (kids(was), kids(now)),
        "users": (_text(sorted(was.users)), _text(sorted(now.users))),
        "addresses": (str(was.addresses), str(now.addresses)),
    }
    lines = [f"{key} {before} → {after}" for key, (before, after) in pairs.items() if before != after]
    before = {key.kid: key.secret for key in was.keys}
    return lines + [f"key {key.kid} has a new content" for key in now.keys if before.get(key.kid, key.secret) != key.secret]


def _rows(table: str, old: Sequence[Allow | AnswerRow], new: Sequence[Allow | AnswerRow]) -> list[str]:
    """Rows have no name of their own: those that came and those that went, or that only their order changed."""
    was, now = Counter(map(_row, old)), Counter(map(_row, new))
    lines = [f"{table}: + {row}" for row in (now - was).elements()]
    lines += [f"{table}: - {row}" for row in (was - now).elements()]
    if not lines and [_row(row) for row in old] != [_row(row) for row in new]:
        lines.append(f"{table}: another order")
    return lines


def _row(row: Allow | AnswerRow) -> str:
    if isinstance(row, AnswerRow):
        return f"{row.relay} entry {row.entry} ports {row.entry_ports} exit {row.exit} ports {row.exit_ports}"
    names = ", ".join(sorted(row.destination_names))
    protocols = "/".join(sorted(protocol.name.lower() for protocol in row.protocols))
    text = f"{row.user} from {row.source} ports {row.source_ports} to {row.destination}{' ' + names if names else ''}"
    text += f" ports {row.destination_ports} {protocols}"
    shares: dict[str, object] = {"sessions": row.sessions, "opens_per_second": row.opens_per_second}
    shares |= {name: "required" for name, demanded in (("seal", row.seal), ("neighbour_key", row.neighbour_key)) if demanded}
    return text + "".join(f" {key} {_text(value)}" for key, value in shares.items() if value)


def _text(value: object) -> str:
    match value:
        case Mapping():
            return ", ".join(f"{key} as {entry}" for key, entry in value.items()) or "none"
        case str() | PortRange():
            return str(value)
        case bool():
            return "true" if value else "false"
        case Sequence():
            return ", ".join(map(str, value)) or "none"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
