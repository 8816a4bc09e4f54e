"""A session as its holder sees it: closing twice, ends that are told, what a moved leg does. Its way through a chain: test_client."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address

import pytest

from chainrelay.client import TCP, UDP, SealCounters, Session, sockets
from chainrelay.client.data_keys import DataKeys
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


def test_datagrams_go_through_send_and_receive() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((str(HERE), 0))
            server.settimeout(5)
            async with session(Endpoint(HERE, server.getsockname()[1])) as held:
                await held.send(b"there")
                data, sender = server.recvfrom(100)
                assert data == b"there"
                server.sendto(b"back", sender)
                assert await asyncio.wait_for(held.receive(), 5) == b"back"
                with pytest.raises(ValueError, match="carries 1472 at most"):
                    await held.send(bytes(1473))
                with pytest.raises(ValueError, match="component 1: this session has 1"):
                    await held.send(b"there", 1)
                assert not held.sealed
                assert held.seal_counters == SealCounters()
                assert held.relays == ()

    run(scenario())


def test_whoever_receives_is_told_that_the_session_was_closed() -> None:
    async def scenario() -> None:
        held = session(Endpoint(HERE, 5004))
        waiting = asyncio.ensure_future(held.receive())
        await asyncio.sleep(0.01)
        await held.close()
        with pytest.raises(Refusal, match="closed"):
            await asyncio.wait_for(waiting, 5)

    run(scenario())


def test_a_sealed_session_hands_out_no_socket() -> None:
    async def scenario() -> None:
        plain = session(Endpoint(HERE, 5004))
        sealed = Session(plain._leg, UDP, 1, plain.peer, plain.bound, DataKeys())
        for take in (lambda: sealed.socket, lambda: sealed.sockets):
            with pytest.raises(Refusal, match=r"send.*receive.*chainrelay forward --seal"):
                take()
        assert sealed.sealed
        await sealed.close()
        assert plain.socket.fileno() == -1

    run(scenario())


def test_who_has_no_datagrams_is_told_why() -> None:
    async def scenario() -> None:
        leg = DirectLeg(bytes(16), Endpoint(HERE, 4000), Endpoint(HERE, 5004), 1472)
        for made, why in (
            (Session(leg, UDP, 1, Target(HERE, 5004), []), "another program"),
            (Session(leg, TCP, 1, Target(HERE, 5004), []), "TCP session has no datagrams"),
        ):
            with pytest.raises(Refusal, match=why):
                await made.send(b"text")
            with pytest.raises(Refusal, match=why):
                await made.receive()

    run(scenario())
