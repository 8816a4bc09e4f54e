"""A control connection's two ends over real sockets: messages whole and in order, plain and with keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest

from chainrelay.client import control
from chainrelay.client.control import ControlStream, Identity, to_client, to_server
from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.limits import FRAME_BEFORE_AUTHENTICATION
from chainrelay.session.tables import Kind, PeerRow, PeerTable
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.keys import PairKey
from chainrelay.wire.messages import ControlMessage, Done, Offer, Peer, Protocol
from unit.client.fake_relay import run

HERE = Endpoint(IPv4Address("127.0.0.1"), 5004)
OFFER = Offer(Protocol.UDP, 2, HERE)


def knows(me: str, partner: str, *keys: PairKey) -> Identity:
    return Identity(me, PeerTable((PeerRow(partner, Kind.CLIENT, keys, frozenset({partner})),)))


OLD, NEW = PairKey("2025", os.urandom(32)), PairKey("2026", os.urandom(32))


@contextlib.asynccontextmanager
async def pair(client: Identity | None, server: Identity | None) -> AsyncIterator[tuple[ControlStream, ControlStream]]:
    """Both ends, started at the same time."""
    accepted: asyncio.Future[ControlStream] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(to_client(reader, writer, server))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        near = to_server(*await asyncio.open_connection("127.0.0.1", port), client, "media")
        far = await accepted
        try:
            results = await asyncio.gather(near.start(), far.start(), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            yield near, far
        finally:
            near.abort()
            far.abort()


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (None, None),
        (knows("alice", "media", NEW), knows("media", "alice", NEW)),
        (knows("alice", "media", OLD), knows("media", "alice", NEW, OLD)),
    ],
    ids=["plain", "keys", "old key while rotating"],
)
def test_messages_arrive_whole_in_order_and_from_whom(client: Identity | None, server: Identity | None) -> None:
    async def scenario() -> None:
        async with pair(client, server) as (near, far):
            assert far.remote.address == near.local.address == HERE.address
            for count in range(3):
                await near.send(Peer(bytes([count]) * 16, HERE))
            await far.send(OFFER)
            await far.send(Done())
            assert [await far.receive() for _ in range(3)] == [Peer(bytes([count]) * 16, HERE) for count in range(3)]
            assert far.principal == ("alice" if server else "")
            said: list[ControlMessage | None] = [await near.receive(), await near.receive()]
            assert said == [OFFER, Done()]
            far.close()
            assert await near.receive() is None

    run(scenario())


def test_a_side_with_a_key_takes_no_plain_partner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configured, not negotiated: nobody in between talks the two out of it."""
    monkeypatch.setattr(control, "HANDSHAKE_TIMEOUT", 0.3)

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with pair(None, knows("media", "alice", NEW)):
                pass
        with pytest.raises((TimeoutError, ProtocolError)):
            async with pair(knows("alice", "media", NEW), None):
                pass

    run(scenario())


def test_a_key_that_is_missing_here_is_told_before_anything_is_sent() -> None:
    heard: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            heard.append(await reader.read())
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
            streams = await asyncio.open_connection("127.0.0.1", listening.sockets[0].getsockname()[1])
            with pytest.raises(Refusal, match=r"peers\.toml") as caught:
                to_server(*streams, knows("alice", "other", NEW), "media")
            assert caught.value.code is Code.NEXT_HOP_AUTHENTICATION
            await asyncio.sleep(0.05)
        assert b"".join(heard) == b""

    run(scenario())


def test_an_oversize_frame_is_refused_by_its_length_alone() -> None:
    async def scenario() -> None:
        async with pair(None, None) as (near, far):
            near._writer.write((FRAME_BEFORE_AUTHENTICATION + 1).to_bytes(4, "big"))
            with pytest.raises(ProtocolError):
                await far.receive()

    run(scenario())
