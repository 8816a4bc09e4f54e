"""A row of real relays in this process, over loopback, with kernels in memory; any of them may lie.

    async with Walk(3, lies={2: swap}) as row: await row.open()

Relay k listens at 127.0.k.1; the client and every relay send from 127.0.0.1. A lie is a function from an effect of that relay's
engine to the effect that is carried out instead, so a liar is an honest relay up to the one thing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any, Self

from chainrelay.client import Client, Session
from chainrelay.config.agent import AgentConfig, XdpConfig
from chainrelay.config.agent_keys import Rules
from chainrelay.config.client import ClientConfig
from chainrelay.datapath.fake import FakeBackend
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.net.agent import Relay
from chainrelay.session.engine import Engine
from chainrelay.session.events import Effect, NextHop
from chainrelay.session.policy import Policy
from chainrelay.session.prefixes import Prefixes
from chainrelay.session.tables import DIRECT, AccessTable, Allow, AnswerTable, Kind, PeerRow, PeerTable, Route, RouteTable
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.keys import PairKey
from chainrelay.wire.messages import Way

LOOPBACK = Prefixes((ip_network("127.0.0.0/8"),))
P6 = Endpoint(IPv4Address("127.0.9.9"), 6000)
Lie = Callable[[Effect], Effect]


def pair_key(one: str, other: str) -> PairKey:
    """The key that two ids share."""
    return PairKey("2026a", "-".join(sorted((one, other))).encode().ljust(32, b"."))


class Liar(Relay):
    """A relay that carries out something other than its engine orders."""

    lie: Lie

    def _perform(self, effects: list[Effect]) -> None:
        super()._perform([self.lie(effect) for effect in effects])


class Walk:
    """`hops` relays and a client. `keyed`: whether neighbours share keys. `seals`: whether they can open and seal."""

    def __init__(
        self,
        hops: int,
        *,
        keyed: bool = True,
        lies: Mapping[int, Lie] | None = None,
        policy: Mapping[int, dict[str, Any]] | None = None,
        way: Way = Way.ITERATIVE,
        seals: bool = True,
    ) -> None:
        self.hops, self.keyed, self.way = hops, keyed, way
        self.at = [Endpoint(ip_address(f"127.0.{k}.1"), free_port(f"127.0.{k}.1")) for k in range(1, hops + 1)]
        self.relays: list[Relay] = []
        for k in range(1, hops + 1):
            config = self._config(k, (policy or {}).get(k, {}))
            kind = Liar if k in (lies or {}) else Relay
            relay = kind(config, Engine(config.id, config.policy, seals=seals), FakeBackend(seals=seals))
            if isinstance(relay, Liar):
                relay.lie = (lies or {})[k]
            self.relays.append(relay)
        self.client = self.make_client()

    def _config(self, k: int, changes: dict[str, Any]) -> AgentConfig:
        me = f"fw{k}"
        peers = [PeerRow("alice", Kind.CLIENT, (pair_key("alice", me),), frozenset({"alice"}))]
        peers += [
            PeerRow(f"fw{other}", Kind.RELAY, (pair_key(me, f"fw{other}"),) if self.keyed else (), frozenset({"*"}))
            for other in (k - 1, k + 1)
        ]
        via = DIRECT if k == self.hops else NextHop(f"fw{k + 1}", self.at[k])
        policy = Policy(
            RouteTable((Route("*", via),)), PeerTable(tuple(peers)), AccessTable((Allow("*"),)), rest=0, targets_allow=LOOPBACK
        )
        return AgentConfig(
            id=me, listen=(self.at[k - 1],), policy=replace(policy, **changes), ruleset=Ruleset(Firewall.GUEST),
            rules=Rules.NFTABLES, xdp=XdpConfig(), handshakes_per_second=1000, log_level="info",
        )  # fmt: skip

    def make_client(self, **keys: PairKey | None) -> Client:
        """Alice. `keys`: instead of the usual one with a relay; None for none."""
        return self.client_on(Route("*", NextHop("fw1", self.at[0]), self.way), keys)

    def sealing_client(self, last: str, *, seal: bool = True, keys: Mapping[str, PairKey] | None = None) -> Client:
        """Alice, whose chain must end at `last`."""
        return self.client_on(Route("*", NextHop("fw1", self.at[0]), self.way, last, seal), keys or {})

    def client_on(self, route: Route, keys: Mapping[str, PairKey | None]) -> Client:
        """Alice, with that one route."""
        usual: dict[str, PairKey | None] = {f"fw{k}": pair_key("alice", f"fw{k}") for k in range(1, self.hops + 1)}
        rows = tuple(PeerRow(relay, Kind.RELAY, (key,)) for relay, key in {**usual, **keys}.items() if key is not None)
        config = ClientConfig(
            id="alice", user="alice", lease=0, listen=Endpoint(IPv4Address("127.0.0.1"), 9799), authenticate=False, server=None,
            routes=RouteTable((route,)), peers=PeerTable(rows), answers=AnswerTable(()),
        )  # fmt: skip
        client = Client(config)
        client._policy = replace(client._policy, targets_allow=LOOPBACK)
        return client

    async def open(self, client: Client | None = None) -> Session:
        """A session with P6. Raises Refusal."""
        return await (client or self.client).open_to(str(P6))

    def left(self) -> list[object]:
        """What any relay still holds of sessions."""
        sessions = [row for relay in self.relays for row in relay.engine.sessions()]
        flows = [flow for relay in self.relays for flow in relay.datapath._backend.flows()]
        return [*sessions, *flows]

    async def __aenter__(self) -> Self:
        for relay in self.relays:
            await relay.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        for relay in self.relays:
            await relay.stop()


def free_port(address: str) -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
