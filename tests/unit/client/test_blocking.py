"""The waiting client: ordinary blocking sockets, from several threads, and errors where they belong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chainrelay.client import Offering, Visitor, blocking
from chainrelay.errors import Code, ConfigError, Refusal
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Way
from unit.client.fake_relay import SERVER, config
from unit.client.sealed_chain import SealedChain


@contextlib.contextmanager
def server() -> Iterator[tuple[str, socket.socket, list[Visitor]]]:
    """An Offering in a thread of its own, and the socket at P6."""
    visitors: list[Visitor] = []
    started = threading.Event()
    listening: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((str(SERVER), 0))
        service.settimeout(5)
        port = service.getsockname()[1]
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()

        async def serve(visitor: Visitor) -> None:
            visitors.append(visitor)
            await stop.wait()

        async def work() -> None:
            async with Offering(Endpoint(SERVER, 0), serve, ports=[port], shared=True) as offering:
                listening.append(str(offering.listening))
                started.set()
                await stop.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
        thread.start()
        try:
            assert started.wait(5)
            yield listening[0], service, visitors
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()


def met(visitors: list[Visitor], count: int) -> None:
    """Wait for handlers to have started: PEER is confirmed a moment before that."""
    deadline = time.monotonic() + 5
    while len(visitors) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_session_is_an_ordinary_socket() -> None:
    with server() as (at, service, visitors), blocking.open(at, config=config()) as session:
        session.socket.settimeout(5)
        session.socket.send(b"ping")
        data, sender = service.recvfrom(100)
        assert data == b"ping"
        assert sender == (str(session.exit.address), session.exit.port)
        service.sendto(b"pong", sender)
        assert session.socket.recv(100) == b"pong"
        met(visitors, 1)
        assert visitors[0].session == session.id
        assert session.counters() == ()
        assert (session.local, session.entry) == (session.exit, Endpoint(SERVER, service.getsockname()[1]))


def test_sockets_wait_unless_told_otherwise() -> None:
    with blocking.open_to("127.0.0.4:5004", config=config()) as session:
        assert session.socket.getblocking()
        assert session.mtu > 1000


def test_reserve_and_bind() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((str(SERVER), 0))
        service.settimeout(5)
        with blocking.reserve(str(SERVER), config=config(), components=2) as session:
            session.bind(f"{SERVER}:{service.getsockname()[1]}")
            assert len(session.sockets) == 2
            session.socket.send(b"bound")
            assert service.recv(100) == b"bound"


def test_several_threads_share_a_client() -> None:
    with server() as (at, _, visitors), blocking.Client(config()) as owner:
        threads = [threading.Thread(target=lambda: owner.open(at).close()) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        met(visitors, 8)
        assert len({visitor.session for visitor in visitors}) == 8


def test_a_refusal_is_raised_and_the_thread_ends() -> None:
    before = threading.active_count()
    with pytest.raises(Refusal, match="no TCP connection"), blocking.open("127.0.0.4:1", config=config()):
        pass
    assert threading.active_count() == before


def test_closing_twice_and_using_what_was_closed() -> None:
    owner = blocking.Client(config())
    session = owner.open_to("127.0.0.4:5004")
    assert session.close() == session.close() == ()
    late = owner.open_to("127.0.0.4:5004")
    owner.close()
    owner.close()
    for use in (late.counters, late.close, lambda: owner.open_to("127.0.0.4:5004")):
        with pytest.raises(Refusal, match="the client was closed") as refused:
            use()
        assert refused.value.code is Code.WRONG_STATE
    for each in late.sockets:
        each.close()


def test_a_wrong_configuration_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError):
        blocking.Client(tmp_path)
    assert threading.active_count() == before


def test_send_and_receive_wait() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((str(SERVER), 0))
        service.settimeout(5)
        with blocking.open_to(f"{SERVER}:{service.getsockname()[1]}", config=config()) as session:
            session.socket.settimeout(5)
            session.send(b"ping")
            data, sender = service.recvfrom(100)
            assert data == b"ping"
            with pytest.raises(TimeoutError):
                session.receive(timeout=0.05)
            service.sendto(b"pong", sender)
            assert session.receive(timeout=5) == b"pong"
            with pytest.raises(ValueError, match="at most"):
                session.send(bytes(65509))
            assert not session.sealed


@pytest.mark.parametrize("way", list(Way), ids=lambda way: way.name.lower())
def test_a_sealed_session_from_several_threads(way: Way) -> None:
    """Every datagram has a counter of its own, whoever sends it."""
    chain = SealedChain(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service, blocking.Client(config()) as owner:
        service.bind((str(SERVER), 0))
        service.settimeout(5)
        owner._client = chain.owner(way)
        with owner.open_to(f"{SERVER}:{service.getsockname()[1]}") as session:
            assert session.sealed
            assert session.relays == ("fw1", "fw2")
            with pytest.raises(Refusal, match="send"):
                _ = session.socket

            def speak(name: int) -> None:
                for number in range(25):
                    session.send(b"%d %d" % (name, number))

            threads = [threading.Thread(target=speak, args=(name,)) for name in range(4)]
            for thread in threads:
                thread.start()
            texts = {service.recv(100) for _ in range(100)}
            for thread in threads:
                thread.join()
            assert texts == {b"%d %d" % (name, number) for name in range(4) for number in range(25)}
            service.sendto(b"answer", (str(session.exit.address), session.exit.port))
            assert session.receive(timeout=5) == b"answer"
            assert session.seal_counters.sealed == 100
            with pytest.raises(TimeoutError):
                session.receive(timeout=0.05)
        assert chain.sessions == {}
