"""The door against strangers, over loopback: silence, caps, time-outs, and links for those who authenticate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from chainrelay.errors import ConfigError
from chainrelay.net import listener as module
from chainrelay.net.listener import KeyStock, RateByPrefix, prefix_of
from chainrelay.wire.endpoint import Endpoint
from unit.net.test_neighbours import LOOPBACK, Relay


def play(scenario: Callable[[Relay, Endpoint], Awaitable[None]]) -> Relay:
    relay = Relay()

    async def run() -> None:
        endpoint = await relay.listen()
        try:
            await scenario(relay, endpoint)
        finally:
            await relay.listener.close()

    asyncio.run(run())
    return relay


async def say(endpoint: Endpoint, data: bytes, seconds: float = 2.0) -> bytes | None:
    """Send, and return what comes back until the other side closes; None when it closes by a reset or stays open."""
    reader, writer = await asyncio.open_connection(str(endpoint.address), endpoint.port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), seconds)
    except (ConnectionError, TimeoutError):
        return None
    finally:
        writer.close()


async def is_cut(endpoint: Endpoint, seconds: float = 2.0) -> bool:
    """Whether a newcomer is closed, before he has said anything."""
    reader, writer = await asyncio.open_connection(str(endpoint.address), endpoint.port)
    try:
        return await asyncio.wait_for(reader.read(1), seconds) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    finally:
        writer.close()


@pytest.mark.parametrize(
    "words",
    [b"GET / HTTP/1.0\r\n\r\n", b"\x00\x00\x00\x05hello", b"\xff\xff\xff\xff", bytes(4), b"\x00\x00\x0f\xff" + bytes(4095)],
    ids=["http", "not CBOR", "huge length", "empty frame", "zeros"],
)
def test_a_stranger_learns_nothing(words: bytes) -> None:
    async def scenario(_relay: Relay, endpoint: Endpoint) -> None:
        assert not await say(endpoint, words)

    assert play(scenario).asked == []


def test_who_dawdles_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT", 0.1)

    async def scenario(_relay: Relay, endpoint: Endpoint) -> None:
        reader, writer = await asyncio.open_connection(str(endpoint.address), endpoint.port)
        writer.write(b"\x00")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 2)
        writer.close()

    play(scenario)


@pytest.mark.parametrize("cap", ["HALF_OPEN_CONNECTIONS", "HALF_OPEN_PER_PREFIX"])
def test_half_open_connections_are_capped_and_forgotten(cap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, cap, 3)

    async def scenario(relay: Relay, endpoint: Endpoint) -> None:
        silent = [await asyncio.open_connection(str(endpoint.address), endpoint.port) for _ in range(3)]
        assert await is_cut(endpoint)
        for _, writer in silent:
            writer.close()
        await asyncio.sleep(0.1)
        assert relay.listener._half_open.total() == 0
        assert not await is_cut(endpoint, 0.2)

    play(scenario)


def test_all_or_no_endpoint_is_bound() -> None:
    async def scenario(_relay: Relay, endpoint: Endpoint) -> None:
        other = Relay()
        with pytest.raises(ConfigError, match=str(endpoint.port)):
            await other.listener.listen((endpoint,))
        with pytest.raises(ConfigError, match=r"agent\.toml:listen"):
            await other.listener.listen((Endpoint(IPv4Address("192.0.2.1"), 9798),))

    play(scenario)


def test_rates_are_kept_by_prefix() -> None:
    rate = RateByPrefix(5)
    assert [rate.allow("a", 10.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert rate.allow("b", 10.0)
    assert rate.allow("a", 10.5)


def test_no_ephemeral_key_serves_twice() -> None:
    """Whether made ahead or on the spot: the secrecy of what was said before rests on it."""

    async def scenario() -> None:
        stock, shares = KeyStock(), []
        for number in range(30):
            shares.append(stock.take().share)
            if number % 3 == 0:
                await asyncio.sleep(0.005)  # the stock grows meanwhile
        assert len(set(shares)) == 30

    asyncio.run(scenario())


def test_prefixes() -> None:
    assert prefix_of(LOOPBACK) == "127.0.0.0/24"
    assert prefix_of(IPv6Address("2001:db8:1:2::3")) == "2001:db8:1::/48"
