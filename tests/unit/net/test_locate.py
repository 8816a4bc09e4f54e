"""Look-ups against the kernel's own loopback routes, and the resolver's failures."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from chainrelay.errors import Code
from chainrelay.net import locate
from chainrelay.net.locate import Found, Locator, candidate
from chainrelay.wire.endpoint import Address


def find(host: Address | str, times: int = 1) -> list[Found]:
    found: list[Found] = []

    async def scenario() -> None:
        locator = Locator()
        for _ in range(times):
            done = asyncio.Event()

            def take(answer: Found, done: asyncio.Event = done) -> None:
                found.append(answer)
                done.set()

            locator.locate(host, take)
            await asyncio.wait_for(done.wait(), 10)
        locator.close()

    asyncio.run(scenario())
    return found


def test_the_kernel_tells_source_and_mtu() -> None:
    there = candidate(IPv4Address("127.0.0.1"))
    assert there.source == IPv4Address("127.0.0.1")
    assert there.mtu == 65535 or there.mtu == 65536
    assert candidate(IPv6Address("::1")).source == IPv6Address("::1")


def test_a_name_is_resolved() -> None:
    (candidates, why), *_ = find("localhost")
    assert why is None
    assert IPv4Address("127.0.0.1") in [each.address for each in candidates]


def test_answers_are_kept_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = socket.getaddrinfo

    def counting(*arguments: Any, **options: Any) -> object:
        asked.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", counting)
    first, second = find("localhost", times=2)
    assert first == second
    assert len(asked) == 1


def test_an_unknown_name_says_who_could_not_resolve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    (candidates, why), *_ = find("nowhere.example")
    assert candidates == ()
    assert why is not None
    assert why.code is Code.NAME_NOT_RESOLVED
    assert "nowhere.example" in why.text


def test_a_slow_resolver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, **__: object) -> object:
        import time

        time.sleep(0.5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(locate, "RESOLVE_TIMEOUT", 0.05)
    (_, why), *_ = find("slow.example")
    assert why is not None
    assert "no answer in time" in why.text


def test_no_route_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_address: Address) -> object:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(locate, "candidate", unreachable)
    (_, why), *_ = find(IPv4Address("192.0.2.1"))
    assert why is not None
    assert why.code is Code.NO_ROUTE
    assert "Network is unreachable" in why.text


def test_a_broadcast_address_is_no_host() -> None:
    """The kernel says "permission denied"; that it has no route would send the administrator the wrong way."""
    [(candidates, why)] = find(IPv4Address("127.255.255.255"))
    assert candidates == ()
    assert why is not None
    assert why.code is Code.FORBIDDEN_TARGET
