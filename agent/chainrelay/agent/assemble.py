"""Puts an agent together from its configuration: backend, journal, engine, shell. The only place that knows every layer.

What an earlier run left in the kernel and in the journal is adopted before anybody is listened to (docs/design.md §14).
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from chainrelay.agent.fast_path import FastPathed
from chainrelay.config.agent import AgentConfig
from chainrelay.config.agent_keys import Rules
from chainrelay.config.check import Finding
from chainrelay.config.datapath import DatapathConfig
from chainrelay.config.problems import Level
from chainrelay.datapath import legacy_ruleset, ruleset
from chainrelay.datapath.backend import Backend
from chainrelay.datapath.legacy_backend import LegacyBackend
from chainrelay.datapath.nft_backend import NftBackend
from chainrelay.net.agent import Relay
from chainrelay.net.helper import HelperBackend
from chainrelay.net.journal import SessionJournal
from chainrelay.net.listener import assert_free
from chainrelay.privileged import legacy_check
from chainrelay.privileged.addresses import own_addresses
from chainrelay.privileged.kernel import open_nft_backend
from chainrelay.privileged.legacy_kernel import open_legacy_backend
from chainrelay.session.engine import Engine


def build_backend(config: AgentConfig | DatapathConfig) -> Backend:
    """The datapath that the configuration names: the helper's, or one in this process. Raises DatapathError with what to do."""
    return HelperBackend(config.socket) if config.socket is not None else local_backend(config)


def local_backend(config: AgentConfig | DatapathConfig) -> Backend:
    """The datapath in this process, which needs the rights for it. Raises DatapathError with what to do."""
    return FastPathed(rules_backend(config), config.xdp)


def rules_backend(config: AgentConfig | DatapathConfig) -> NftBackend | LegacyBackend:
    """What writes the rules. Raises DatapathError with what to do."""
    match config.rules:
        case Rules.NFTABLES:
            return open_nft_backend(config.ruleset)
        case Rules.IPTABLES_LEGACY:
            return open_legacy_backend(config.ruleset)
        case _:
            assert_never(config.rules)


def static_rules(config: AgentConfig | DatapathConfig) -> str:
    """What `setup` would load into an empty kernel, as the tools read it: `nft -f`, or iptables-restore for each family."""
    match config.rules:
        case Rules.NFTABLES:
            return ruleset.render(config.ruleset)
        case Rules.IPTABLES_LEGACY:
            return legacy_ruleset.render_all(config.ruleset)
        case _:
            assert_never(config.rules)


def administrators_rule(config: AgentConfig) -> str:
    """The one rule that a `guest` needs from the administrator."""
    if config.rules is Rules.NFTABLES:
        return ruleset.administrators_rule(config.ruleset)
    return legacy_ruleset.administrators_rule(config.ruleset)


def probe(config: AgentConfig) -> list[Finding]:
    """What this host says about the addresses and the datapath that the configuration names."""
    found, here = [], own_addresses()
    for address in (end.address for end in config.listen):
        if not address.is_unspecified and not address.is_loopback and address not in here:
            why = f"{address} is no address of this host now, and until it is one the agent can't start"
            found.append(Finding("agent.toml", "listen", Level.WARNING, why, "give this host the address, or write one that it has"))
    if config.rules is Rules.IPTABLES_LEGACY:
        level = {True: Level.ERROR, False: Level.WARNING}
        found += [Finding("agent.toml", "datapath.rules", level[each.fatal], each.why, each.mend) for each in legacy_check.findings()]
    return found


def build_relay(config: AgentConfig) -> Relay:
    """A relay whose static rules are loaded and that has adopted what it found, not yet listening.

    Raises DatapathError, ConfigError when another agent runs here.
    """
    journal = SessionJournal(config.state) if config.state is not None else None
    assert_free(config.listen)
    backend = build_backend(config)
    backend.setup()
    engine = Engine(config.id, with_own_addresses(config).policy, seals=backend.seals())
    relay = Relay(config, engine, backend, journal)
    relay.adopt(journal.records if journal is not None else (), backend.flows())
    return relay


def with_own_addresses(config: AgentConfig) -> AgentConfig:
    """The configuration, with every address that this host has now among those that are never a target."""
    policy = replace(config.policy, own=config.policy.own | own_addresses())
    return replace(config, policy=policy)
