"""A session as its holder sees it: closing twice, ends that are told, what a moved leg does. Its way through a chain: test_client."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address

import pytest

from chainrelay.client import UDP, Session, sockets
from chainrelay.client.leg import DirectLeg
from chainrelay.errors import Code, Refusal
from chainrelay.wire.endpoint import Endpoint, Target
from unit.client.fake_relay import run

HERE = IPv4Address("127.0.0.1")


def session(entry: Endpoint) -> Session:
    bound = sockets.bind(UDP, HERE, 0, 1)
    leg = DirectLeg(bytes(range(16)), sockets.local_endpoint(bound[0]), entry, 1472)
    made = Session(leg, UDP, 1, Target(entry.address, entry.port), bound)
    sockets.connect_datagrams(bound, entry)
    return made


def test_closing_closes_the_sockets_once() -> None:
    async def scenario() -> None:
        held = session(Endpoint(HERE, 5004))
        assert list(await asyncio.gather(held.close(), held.close())) == [(), ()]
        assert held.socket.fileno() == -1
        await asyncio.wait_for(held.ended(), 1)

    run(scenario())


def test_an_end_is_told_to_everybody_and_the_first_reason_counts() -> None:
    async def scenario() -> None:
        told: list[Refusal] = []
        async with session(Endpoint(HERE, 5004)) as held:
            held.on_ended = told.append
            waiting = [asyncio.ensure_future(held.ended()) for _ in range(2)]
            await asyncio.sleep(0)
            for code in (Code.REVOKED, Code.IDLE):
                held.end(Refusal(code, "over"))
            for wait in waiting:
                with pytest.raises(Refusal) as caught:
                    await wait
                assert caught.value.code is Code.REVOKED
            assert [each.code for each in told] == [Code.REVOKED]

    run(scenario())


def test_a_moved_session_talks_with_its_new_entry_only() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
            for each in (first, second):
                each.bind((str(HERE), 0))
                each.settimeout(5)
            held = session(Endpoint(HERE, first.getsockname()[1]))
            moved: list[Session] = []
            held.on_moved = moved.append
            assert isinstance(held._leg, DirectLeg)
            held._leg.entry = Endpoint(HERE, second.getsockname()[1])
            held.moved()
            assert moved == [held]
            held.socket.send(b"here")
            data, sender = second.recvfrom(100)
            assert data == b"here"
            first.sendto(b"late", sender)
            second.sendto(b"welcome", sender)
            assert await asyncio.get_running_loop().sock_recv(held.socket, 100) == b"welcome"
            await held.close()

    run(scenario())


def test_without_a_control_connection_no_server_is_ever_done() -> None:
    async def scenario() -> None:
        async with session(Endpoint(HERE, 5004)) as held:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(held.server_done(), 0.05)

    run(scenario())
