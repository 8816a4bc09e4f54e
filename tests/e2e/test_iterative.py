"""The iterative way through real agents: the client asks every relay itself, with and without keys between the relays."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from contextlib import suppress
from itertools import product
from typing import Any

import pytest

from chainrelay.client import Client, Session, end_to_end, walk
from chainrelay.errors import Code, Refusal
from chainrelay.limits import CONFIRM_TIMEOUT
from chainrelay.wire.messages import Bind, Protocol, Request, Way
from e2e.chain import Chain
from lab import wait
from lab.kernel import endpoints
from lab.relays import environment

pytestmark = pytest.mark.root

LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("hops", "families", "keyed"),
    [
        (1, (4,), True),
        (2, (4, 6), True),
        (3, (6,), False),
        *(pytest.param(hops, (4, 6), keyed, marks=LONG) for hops, keyed in product((1, 2, 3, 5), (True, False))),
    ],
)
def test_both_ways_and_nothing_left(hops: int, families: tuple[int, ...], keyed: bool) -> None:
    with Chain(hops, families, way="iterative", neighbour_keys=keyed) as chain:
        for family, server_first in product(families, (True, False)):
            with chain.server(family) as server:
                with chain.open(server) as call:
                    points = endpoints(chain.firewalls, call.session.local, call.session.entry)
                    assert points[-2:] == [call.session.exit, server.endpoint], "the row fits together, from P1 to P6"
                    call.proves_flow(server_first=server_first)
                    counters = call.close()
                assert [(each.hop, each.to_server_packets, each.to_client_packets) for each in counters] == [
                    (firewall.name, 20, 20) for firewall in chain.firewalls
                ]
                assert chain.leftovers() == {}


@pytest.mark.parametrize("family", [4, pytest.param(6, marks=LONG)])
def test_filters_that_lend_the_relays_their_addresses(family: int) -> None:
    """What is announced is what is compared, inside and outside (M24)."""
    with Chain(2, (family,), filtered=(1, 2), way="iterative", neighbour_keys=False) as chain, chain.server(family) as server:
        with chain.open(server) as call:
            call.proves_flow()
        assert chain.leftovers() == {}


@pytest.mark.parametrize("neighbour_keys", [True, pytest.param(False, marks=LONG)])
def test_the_same_chain_in_either_way(neighbour_keys: bool) -> None:
    """routes.toml says recursive; a client may say otherwise, and both stand side by side."""

    async def other() -> Client:
        return Client(chain.relays.client_directory, way=Way.ITERATIVE)

    with Chain(2, (4,), neighbour_keys=neighbour_keys) as chain, chain.server(4) as server:
        usual, chain.client = chain.client, chain.client_loop.call(other)
        try:
            with chain.open(server) as iterative:
                if neighbour_keys:
                    chain.client, usual = usual, chain.client
                    with chain.open(server) as recursive:
                        recursive.proves_flow()
                        iterative.proves_flow()
                    chain.client, usual = usual, chain.client
                else:
                    iterative.proves_flow()
        finally:
            chain.client_loop.call(chain.client.close)
            chain.client = usual
        assert chain.leftovers() == {}


def test_pairs_reservations_and_tcp() -> None:
    with Chain(2, (4,), way="iterative") as chain:
        with chain.server(4, components=2) as server, chain.open(server) as call:
            assert [end.port % 2 for end in (call.session.local, call.session.entry, call.session.exit)] == [0, 0, 0]
            call.proves_flow(component=0)
            call.proves_flow(component=1)
        with chain.server(4) as server:
            session = chain.client_loop.call(lambda: chain.client.reserve(str(server.address)))
            server.ports[0].send(session.exit, b"too early")
            chain.client_loop.call(lambda: session.bind(str(server.endpoint)))
            server.ports[0].send(session.exit, b"in time")
            assert chain.client_loop.call(lambda: _receive(session)) == b"in time"
            chain.close_session(session)
        with (
            chain.server(4, protocol=Protocol.TCP) as server,
            chain.row.server.enter(),
            socket.create_server((str(server.address), server.endpoint.port)) as listener,
            chain.open(server) as stream,
        ):
            accepted, remote = listener.accept()
            accepted.close()
            assert remote == (str(stream.session.exit.address), stream.session.exit.port)
        assert chain.leftovers() == {}


def test_the_command_line_chooses_the_way() -> None:
    with Chain(2, (4,)) as chain, chain.server(4) as server:
        command = [sys.executable, "-m", "chainrelay.client.cli", "open", "--config", str(chain.relays.client_directory), "--json"]
        process = chain.row.client.popen(
            [*command, "--way", "iterative", "--peer", str(server.endpoint)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())
        assert "previous=fw1" in chain.relays.agents[1].log()
        process.terminate()
        process.wait(10)
        process.stdout.close()
        wait.until(lambda: chain.leftovers() == {}, "the session to be closed")


def test_refusals_of_every_relay_leave_nothing() -> None:
    nobody = '[[allow]]\nuser = "bob"\n'
    for refusing in ("fw1", "fw2"):
        with Chain(2, (4,), way="iterative", allow={refusing: nobody}) as chain, chain.server(4) as server:
            with pytest.raises(Refusal) as refused:
                chain.open_to(server.endpoint)
            assert (refused.value.code, refused.value.hop) == (Code.ACCESS_DENIED, refusing)
            assert chain.leftovers() == {}


def test_a_relay_that_does_not_know_the_client() -> None:
    for keyed in (True, False):
        with Chain(2, (4,), way="iterative", neighbour_keys=keyed) as chain, chain.server(4) as server:
            last = chain.relays.agents[1]
            peers = last.directory / "peers.toml"
            peers.write_text(peers.read_text().replace('id = "alice"', 'id = "alina"').replace('users = ["alice"]', 'users = ["alina"]'))
            last.stop()
            last.start()
            with pytest.raises(Refusal) as refused:
                chain.open_to(server.endpoint)
            assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
            assert "fw2" in str(refused.value)
            assert chain.leftovers() == {}


@LONG
def test_a_client_that_never_completes_the_loop() -> None:
    """It reserves at both relays and vanishes: the reservations end by themselves, and nothing was ever installed."""

    class VanishedError(Exception):
        pass

    async def vanish(*_: object) -> None:
        raise VanishedError

    with Chain(2, (4,), way="iterative") as chain, chain.server(4) as server, pytest.MonkeyPatch.context() as patch:
        tell = end_to_end.tell

        async def only_open(hop: Any, message: Request, kind: Any) -> Any:
            return await (vanish() if isinstance(message, Bind) else tell(hop, message, kind))

        patch.setattr("chainrelay.client.walk.tell", only_open)
        patch.setattr(walk.Walk, "_close", vanish)
        with pytest.raises(VanishedError):
            chain.open_to(server.endpoint)
        assert chain.leftovers() == {}

        def ended() -> bool:
            return all("did not complete its loop" in agent.log() for agent in chain.relays.agents)

        wait.until(ended, "the reservations to end", CONFIRM_TIMEOUT + 5)


def test_the_session_goes_on_when_the_last_agent_comes_back() -> None:
    """An agent that restarts has forgotten the session; the client opens it again and the server hears of it."""
    with Chain(2, (4,), way="iterative", lease=6, neighbour_keys=False) as chain, chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        chain.relays.agents[1].kill()
        chain.relays.agents[1].start()

        def again() -> bool:
            with suppress(Refusal):
                return len(chain.client_loop.call(call.session.counters)) == 2
            return False

        wait.until(again, "the session to stand at both relays again", CONFIRM_TIMEOUT)
        tally = call.to_server()
        assert (tally.lost, tally.sources) == (0, {call.session.exit})


async def _receive(session: Session) -> bytes:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(session.socket, 2000)
