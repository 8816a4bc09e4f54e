"""The server's half against peers as they come: bad ones over raw sockets, with and without keys, several, returning ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from chainrelay.client import control, offer
from chainrelay.client.control import ControlStream, Identity, to_server
from chainrelay.client.offer import Admission, Offering, Visitor
from chainrelay.errors import ConfigError, ProtocolError
from chainrelay.session.tables import Kind, PeerRow, PeerTable
from chainrelay.wire.connection import PlainConnection
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.keys import PairKey
from chainrelay.wire.messages import ControlMessage, Done, Offer, Peer, Protocol
from unit.client.fake_relay import CLIENT, run, until

P5 = Endpoint(CLIENT, 20000)
KEY = PairKey("a", bytes(range(32)))


def identity(me: str, partner: str, key: PairKey = KEY) -> Identity:
    return Identity(me, PeerTable((PeerRow(partner, Kind.CLIENT, (key,), frozenset({partner})),)))


class Host:
    """An offering whose handler remembers who was there."""

    def __init__(self) -> None:
        self.streams: list[ControlStream] = []
        self.last: ControlMessage | None = None
        """What the last stream was told when the offering ended."""
        self.here: list[Visitor] = []
        self.left: list[Visitor] = []
        self.enough = asyncio.Event()
        """Set: the handler returns by itself."""

    async def serve(self, visitor: Visitor) -> None:
        self.here.append(visitor)
        try:
            await self.enough.wait()
        finally:
            self.left.append(visitor)

    @contextlib.asynccontextmanager
    async def open(self, *ports: int, **more: object) -> AsyncIterator[Endpoint]:
        offering = Offering(Endpoint(CLIENT, 0), self.serve, ports=ports or (5004,), **more)  # type: ignore[arg-type]
        async with offering:
            yield offering.listening
            for stream in self.streams[:-1]:
                stream.abort()
        if self.streams:
            self.last = await said(self.streams[-1])
            self.streams[-1].abort()

    async def connect(self, at: Endpoint, who: Identity | None = None) -> ControlStream:
        stream = to_server(*await asyncio.open_connection(str(at.address), at.port), who, "media")
        self.streams.append(stream)
        await stream.start()
        return stream

    async def arrive(self, at: Endpoint, session: bytes, who: Identity | None = None, leave: Endpoint = P5) -> ControlStream:
        stream = await self.connect(at, who)
        assert isinstance(await said(stream), Offer)
        await stream.send(Peer(session, leave))
        return stream


async def said(stream: ControlStream) -> ControlMessage | None:
    return await asyncio.wait_for(stream.receive(), 5)


def test_offer_peer_done() -> None:
    async def scenario() -> None:
        host, session = Host(), os.urandom(16)
        async with host.open() as at:
            stream = await host.arrive(at, session)
            assert await said(stream) == Offer(Protocol.UDP, 1, Endpoint(CLIENT, 5004)), "PEER is confirmed"
            await until(lambda: host.here == [Visitor(session, P5, Endpoint(CLIENT, 5004), "")])
            await stream.send(Done())
            await until(lambda: host.left == host.here)

    run(scenario())


def test_with_keys_both_sides_know_each_other() -> None:
    async def scenario() -> None:
        host = Host()
        async with host.open(identity=identity("media", "alice"), admission=Admission(ids=frozenset({"alice"}))) as at:
            stream = await host.arrive(at, os.urandom(16), identity("alice", "media"))
            assert isinstance(await said(stream), Offer)
            assert stream.principal == "media"
            await until(lambda: [visitor.principal for visitor in host.here] == ["alice"])

    run(scenario())


@pytest.mark.parametrize("who", [identity("alice", "media", PairKey("a", bytes([7]) * 32)), identity("mallory", "media")])
def test_who_has_not_the_key_is_cut_in_silence(who: Identity) -> None:
    async def scenario() -> None:
        host = Host()
        async with host.open(identity=identity("media", "alice")) as at:
            with pytest.raises(ProtocolError):
                await host.connect(at, who)
            plain = await host.connect(at)
            await plain.send(Peer(os.urandom(16), P5))
            assert await said(plain) is None, "nothing is said to who does not authenticate"
            assert host.here == []

    run(scenario())


def test_an_id_that_is_not_allowed_is_cut() -> None:
    async def scenario() -> None:
        host = Host()
        admission = Admission(ids=frozenset({"bob"}))
        async with host.open(identity=identity("media", "alice"), admission=admission) as at:
            stream = await host.arrive(at, os.urandom(16), identity("alice", "media"))
            assert await said(stream) is None
            assert host.here == []

    run(scenario())


PEER = PlainConnection.send(1, Peer(bytes(16), P5))


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        (4097).to_bytes(4, "big") + b"\xa0" * 10,
        b"\0\0\0\0",
        b"\0\0\0\1\xff",
        PEER[:-1] + b"\xff\0\0\0\0",
        PlainConnection.send(1, Offer(Protocol.UDP, 1, P5)),
        PEER + PlainConnection.send(1, Peer(os.urandom(16), P5)),
    ],
    ids=["http", "huge", "oversize", "empty", "no cbor", "bad port", "offer", "two sessions"],
)
def test_garbage_is_cut_and_the_server_lives_on(octets: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        host = Host()
        async with host.open(5004, 5006) as at:
            reader, writer = await asyncio.open_connection(str(at.address), at.port)
            writer.write(octets)
            with contextlib.suppress(ConnectionError):
                while await asyncio.wait_for(reader.read(100), 5):
                    pass
            writer.close()
            stream = await host.arrive(at, os.urandom(16))
            assert isinstance(await said(stream), Offer)
        assert "cut" in caplog.text

    with caplog.at_level(logging.WARNING):
        run(scenario())


def test_silence_is_cut_and_its_port_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer, "PEER_TIMEOUT", 0.1)
    monkeypatch.setattr(control, "HANDSHAKE_TIMEOUT", 0.1)

    async def scenario() -> None:
        host = Host()
        async with host.open() as at:
            silent = await host.connect(at)
            assert isinstance(await said(silent), Offer)
            assert await said(silent) is None
            stream = await host.arrive(at, os.urandom(16))
            assert isinstance(await said(stream), Offer)
        async with host.open(identity=identity("media", "alice")) as at:
            reader, writer = await asyncio.open_connection(str(at.address), at.port)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    run(scenario())


def test_every_client_has_a_port_and_the_next_one_is_told_that_there_is_none() -> None:
    async def scenario() -> None:
        host = Host()
        async with host.open(5004, 5006) as at:
            streams = [await host.arrive(at, os.urandom(16)) for _ in range(2)]
            for stream in streams:
                assert isinstance(await said(stream), Offer)
            assert [visitor.server.port for visitor in host.here] == [5004, 5006]
            third = await host.connect(at)
            assert await said(third) == Done()
            await streams[0].send(Done())
            await until(lambda: len(host.left) == 1)
            fourth = await host.arrive(at, os.urandom(16))
            confirmed = await said(fourth)
            assert isinstance(confirmed, Offer)
            assert confirmed.server.port == 5004

    run(scenario())


def test_a_shared_port_serves_many() -> None:
    async def scenario() -> None:
        host = Host()
        async with host.open(5004, shared=True) as at:
            for _ in range(3):
                assert isinstance(await said(await host.arrive(at, os.urandom(16))), Offer)
            assert {visitor.server.port for visitor in host.here} == {5004}

    run(scenario())


def test_a_client_that_returns_is_recognised_even_when_no_port_is_free() -> None:
    async def scenario() -> None:
        host, session = Host(), os.urandom(16)
        async with host.open() as at:
            first = await host.arrive(at, session)
            assert isinstance(await said(first), Offer)
            first.abort()
            await asyncio.sleep(0.05)
            again = await host.arrive(at, session)
            confirmed = await said(again)
            assert isinstance(confirmed, Offer)
            assert confirmed.server.port == 5004
            assert (len(host.here), host.left) == (1, [])

    run(scenario())


def test_a_client_that_does_not_return_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer, "RESUME_TIME", 0.1)

    async def scenario() -> None:
        host = Host()
        async with host.open() as at:
            stream = await host.arrive(at, os.urandom(16))
            assert isinstance(await said(stream), Offer)
            stream.abort()
            await until(lambda: len(host.left) == 1)
            stream = await host.arrive(at, os.urandom(16))
            assert isinstance(await said(stream), Offer), "its port is free again"

    run(scenario())


def test_another_principal_does_not_take_a_session_over() -> None:
    async def scenario() -> None:
        host, session = Host(), os.urandom(16)
        rows = tuple(PeerRow(name, Kind.CLIENT, (KEY,), frozenset({name})) for name in ("alice", "bob"))
        async with host.open(5004, 5006, identity=Identity("media", PeerTable(rows))) as at:
            alice = await host.arrive(at, session, identity("alice", "media"))
            assert isinstance(await said(alice), Offer)
            bob = await host.arrive(at, session, identity("bob", "media"))
            assert await said(bob) == Done()
            assert [visitor.principal for visitor in host.here] == ["alice"]
            assert host.left == []

    run(scenario())


def test_an_exit_that_moves_starts_the_handler_anew() -> None:
    async def scenario() -> None:
        host, session = Host(), os.urandom(16)
        async with host.open() as at:
            stream = await host.arrive(at, session)
            assert isinstance(await said(stream), Offer)
            await stream.send(Peer(session, P5.next(2)))
            assert isinstance(await said(stream), Offer)
            await until(lambda: [visitor.peer for visitor in host.here] == [P5, P5.next(2)])
            assert [visitor.peer for visitor in host.left] == [P5]

    run(scenario())


def test_the_exit_must_lie_where_the_client_comes_from_or_where_it_is_allowed() -> None:
    elsewhere = Endpoint(IPv4Address("198.51.100.1"), 20000)

    async def scenario() -> None:
        host = Host()
        async with host.open() as at:
            assert await said(await host.arrive(at, os.urandom(16), leave=elsewhere)) is None
            assert host.here == []
        allowed = Admission(exits=(IPv4Network("198.51.100.0/24"),))
        async with host.open(admission=allowed) as at:
            assert isinstance(await said(await host.arrive(at, os.urandom(16), leave=elsewhere)), Offer)
        async with host.open(admission=Admission(sources=(IPv4Network("198.51.100.0/24"),))) as at:
            assert await said(await host.connect(at)) is None, "not even an offer"

    run(scenario())


def test_done_is_said_when_the_handler_returns_and_when_the_offering_ends() -> None:
    async def scenario() -> None:
        host = Host()
        async with host.open(5004, 5006) as at:
            first = await host.arrive(at, os.urandom(16))
            assert isinstance(await said(first), Offer)
            host.enough.set()
            assert await said(first) == Done()
            host.enough.clear()
            second = await host.arrive(at, os.urandom(16))
            assert isinstance(await said(second), Offer)
        assert host.last == Done()
        assert len(host.left) == 2

    run(scenario())


def test_a_handler_that_fails_is_logged_and_the_client_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(visitor: Visitor) -> None:
        raise RuntimeError(f"can't serve {visitor.peer}")

    async def scenario() -> None:
        host = Host()
        host.serve = fail  # type: ignore[method-assign]
        async with host.open() as at:
            stream = await host.arrive(at, os.urandom(16))
            assert isinstance(await said(stream), Offer)
            assert await said(stream) == Done()

    run(scenario())
    assert "can't serve" in caplog.text


def test_an_address_in_use_and_an_odd_pair_are_told_plainly() -> None:
    async def scenario() -> None:
        host = Host()
        async with host.open() as at:
            with pytest.raises(ConfigError, match="can't listen"):
                async with Offering(at, host.serve, ports=[5004]):
                    pass

    run(scenario())
    with pytest.raises(ConfigError, match="even"):
        Offering(P5, Host.serve, ports=[5005], components=2)  # type: ignore[arg-type]
