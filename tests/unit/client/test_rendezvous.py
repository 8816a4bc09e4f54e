"""The client's half of the control connection against servers that are not what they should be, or have forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from chainrelay import client
from chainrelay.client import UDP, rendezvous
from chainrelay.errors import Code, Refusal
from chainrelay.wire.connection import PlainConnection
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import ControlMessage, Done, Offer, Peer
from unit.client.fake_relay import CLIENT, config, run, until

OFFER = Offer(UDP, 1, Endpoint(CLIENT, 5004))
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def octets(*messages: ControlMessage) -> bytes:
    return b"".join(PlainConnection.send(0, message) for message in messages)


@contextlib.asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[str]:
    """A server that says what the test wants."""
    done: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        done.append(task)
        try:
            await talk(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with listening:
        yield "127.0.0.1:%d" % listening.sockets[0].getsockname()[1]  # noqa: UP031
        for task in done:
            task.cancel()
        await asyncio.gather(*done, return_exceptions=True)


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (b"", Code.ACCESS_DENIED, "made no offer and closed"),
        (b"SSH-2.0-OpenSSH\r\n", Code.UNEXPECTED, "does not speak the control protocol"),
        (b"\xff\xff\xff\xff", Code.UNEXPECTED, "does not speak the control protocol"),
        (octets(Done()), Code.PORTS_EXHAUSTED, "as many clients as it has ports"),
        (octets(Peer(bytes(16), OFFER.server)), Code.UNEXPECTED, "talks like a client"),
        (octets(OFFER), Code.ACCESS_DENIED, "did not accept"),
        (octets(OFFER, Done()), Code.PORTS_EXHAUSTED, "as many clients as it has ports"),
        (octets(OFFER, Offer(UDP, 1, Endpoint(CLIENT, 5006))), Code.UNKNOWN_SESSION, "5006"),
        (octets(Offer(UDP, 1, Endpoint(IPv4Address("198.51.100.1"), 53))), Code.ANSWER_DENIED, "not its own"),
    ],
)
def test_bad_servers_are_refused_with_the_reason(said: bytes, code: Code, reason: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        if said[: len(octets(OFFER))] == octets(OFFER):
            await reader.read(100)  # PEER

    async def scenario() -> None:
        async with server(talk) as at, client.Client(config()) as owner:
            with pytest.raises(Refusal, match=reason) as caught:
                await owner.open(at)
            assert caught.value.code is code
            knows = {"made no offer and closed": "`chainrelay offer` listens", "did not accept": "--allow-exit"}.get(reason, "")
            assert knows in caught.value.mend
            assert bool(caught.value.mend) is bool(knows)

    run(scenario())


def test_a_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "OFFER_TIMEOUT", 0.1)

    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        async with server(talk) as at, client.Client(config()) as owner:
            with pytest.raises(Refusal) as caught:
                await owner.open(at)
            assert caught.value.code is Code.NEXT_HOP_TIMEOUT

    run(scenario())


def test_a_server_that_has_forgotten_ends_the_session() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        offer = OFFER if connections == 1 else Offer(UDP, 1, Endpoint(CLIENT, 5006))
        writer.write(octets(offer))
        await reader.read(100)
        writer.write(octets(offer))
        if connections == 1:
            await asyncio.sleep(0.05)  # and the connection is lost
        else:
            await reader.read()

    async def scenario() -> None:
        async with server(talk) as at, client.Client(config()) as owner, owner.open(at) as session:
            with pytest.raises(Refusal, match="forgotten") as caught:
                await asyncio.wait_for(session.ended(), 5)
            assert caught.value.code is Code.UNKNOWN_SESSION

    run(scenario())


def test_done_of_the_server_ends_nothing_but_is_told() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(octets(OFFER))
        await reader.read(100)
        writer.write(octets(OFFER, Done()))

    async def scenario() -> None:
        async with server(talk) as at, client.Client(config()) as owner, owner.open(at) as session:
            await asyncio.wait_for(session.server_done(), 5)
            await asyncio.sleep(0.3)
            assert connections == 1, "there is nothing to come back for"
            assert not session._ended.done()

    run(scenario())


def test_it_comes_back_as_often_as_it_takes() -> None:
    peers: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(peers) == 1:
            peers.append(b"")  # cut before the offer
            return
        writer.write(octets(OFFER))
        peers.append(await reader.read(100))
        writer.write(octets(OFFER))
        if len(peers) < 4:
            await asyncio.sleep(0.05)
        else:
            await reader.read()

    async def scenario() -> None:
        async with server(talk) as at, client.Client(config()) as owner, owner.open(at) as session:
            await until(lambda: len(peers) == 4)
            assert peers[0] == peers[2] == peers[3] == octets(Peer(session.id, session.exit))

    run(scenario())
