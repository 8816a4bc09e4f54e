"""The shell: events reach the engine one after the other, effects come out, a fault of ours ends one request only."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest

from chainrelay.client.leg import PATIENCE
from chainrelay.config.agent import AgentConfig, XdpConfig
from chainrelay.config.agent_keys import Rules
from chainrelay.datapath.fake import FakeBackend
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.errors import Code, Refusal
from chainrelay.limits import ASK_TIMEOUT
from chainrelay.net.agent import Relay, ask_timeout
from chainrelay.net.neighbours import Neighbour
from chainrelay.session.engine import Engine
from chainrelay.session.events import NextHop
from chainrelay.session.policy import Policy
from chainrelay.session.prefixes import Prefixes
from chainrelay.session.tables import AccessTable, Allow, Kind, PeerRow, PeerTable, RouteTable
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import Extend, Open, Protocol, Status, Way

KEY = PairKey("k1", bytes(range(32)))
LOOPBACK = IPv4Address("127.0.0.1")


def config(port: int) -> AgentConfig:
    alice = PeerRow("alice", Kind.CLIENT, (KEY,), frozenset({"alice"}))
    policy = Policy(
        routes=RouteTable(()),
        peers=PeerTable((alice,)),
        access=AccessTable((Allow("alice", Prefixes((ip_network("127.0.0.0/8"),))),)),
    )
    return AgentConfig(
        id="fw1", listen=(Endpoint(LOOPBACK, port),), policy=policy, ruleset=Ruleset(Firewall.GUEST), rules=Rules.NFTABLES, xdp=XdpConfig(),
        handshakes_per_second=50, log_level="info",
    )  # fmt: skip


def play(scenario: Callable[[Relay, Neighbour], Awaitable[None]]) -> None:
    async def run() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        here = config(port)
        relay = Relay(here, Engine(here.id, here.policy), FakeBackend())
        await relay.start()
        neighbour = Neighbour("alice", NextHop("fw1", here.listen[0]), lambda: KEY, Purpose.CLIENT_HOP)
        try:
            await scenario(relay, neighbour)
        finally:
            await neighbour.close()
            await relay.stop()

    asyncio.run(run())


def request(user: str = "alice") -> Open:
    me = Endpoint(LOOPBACK, 4000)
    target = Target(IPv4Address("192.0.2.1"), 5004)
    return Open(os.urandom(16), Protocol.UDP, Way.RECURSIVE, False, 1, me, target, user, me, 60, (), 8)


def test_refusals_come_back_on_the_same_connection() -> None:
    async def scenario(_relay: Relay, neighbour: Neighbour) -> None:
        with pytest.raises(Refusal) as unknown:
            await neighbour.request(Status(os.urandom(16)))
        assert (unknown.value.code, unknown.value.hop) == (Code.UNKNOWN_SESSION, "fw1")
        with pytest.raises(Refusal) as refused:
            await neighbour.request(request("mallory"))
        assert refused.value.code is Code.USER_NOT_ALLOWED

    play(scenario)


def test_a_fault_of_the_engine_ends_one_request_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        real = relay.engine.handle

        def broken(*_: object) -> object:
            raise ZeroDivisionError

        monkeypatch.setattr(relay.engine, "handle", broken)
        with pytest.raises(Refusal) as internal:
            await neighbour.request(Status(os.urandom(16)))
        assert internal.value.code is Code.INTERNAL
        monkeypatch.setattr(relay.engine, "handle", real)
        with pytest.raises(Refusal) as unknown:
            await neighbour.request(Status(os.urandom(16)))
        assert unknown.value.code is Code.UNKNOWN_SESSION

    play(scenario)


def test_a_partner_that_is_no_longer_in_the_table_is_cut() -> None:
    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        await neighbour.connect()
        gone = replace(relay.config, policy=replace(relay.config.policy, peers=PeerTable(())))
        relay.reconfigure(gone)
        await asyncio.sleep(0.05)
        assert not neighbour.connected
        with pytest.raises(Refusal) as refused:
            await neighbour.request(Status(os.urandom(16)), 2)
        assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION

    play(scenario)


def test_a_draining_relay_says_so() -> None:
    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        for drain in (relay.drain, relay.end_all):
            drain()
            assert relay.engine.draining
            with pytest.raises(Refusal) as refused:
                await neighbour.request(request())
            assert refused.value.code is Code.DRAINING

    play(scenario)


def test_relays_further_on_lose_patience_earlier() -> None:
    """So the one whose neighbour hangs is the one that says so; the client waits longer than any of them."""
    waits = [ask_timeout(replace(request(), path=tuple(f"fw{each}" for each in range(1, hops + 1)))) for hops in range(1, 7)]
    assert waits[:4] == sorted(set(waits), reverse=True)
    assert waits[3:] == [ASK_TIMEOUT] * 3
    assert ask_timeout(Status(os.urandom(16))) == ASK_TIMEOUT
    octets = Extend(os.urandom(16), 6, "fw5", "fw6", 1, Endpoint(LOOPBACK, 4000), b"octets")
    assert [ask_timeout(octets, place) for place in range(1, 7)] == waits, "an EXTEND for the last relay waits as OPEN does"
    assert waits[0] < PATIENCE
