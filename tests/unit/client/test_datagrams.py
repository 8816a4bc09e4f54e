"""Sending and receiving through a session, plain and sealed: limits, waiting, closing, and what is dropped on the way."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chainrelay.client.data_keys import DataKeys
from chainrelay.client.datagrams import BY_ICMP, Datagrams
from chainrelay.errors import Code, Refusal
from chainrelay.wire.sealed import Opener, Sealer, SealKeys, new_key_id
from unit.client.fake_relay import run

KEYS = SealKeys(new_key_id(bytes(4), 0), bytes(range(32)), bytes(12), bytes(range(1, 33)), bytes(12))
MTU = 1000


@asynccontextmanager
async def ends(*, sealed: bool) -> AsyncIterator[tuple[Datagrams, socket.socket]]:
    """A session's datagrams, and the socket at the other end of them."""
    near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with near, far:
        for each in (near, far):
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
        near.connect(far.getsockname())
        far.connect(near.getsockname())
        keys = None
        if sealed:
            keys = DataKeys()
            keys.prepare(KEYS)
            keys.adopt(KEYS.key_id)
        datagrams = Datagrams([near], keys)
        yield datagrams, far
        datagrams.stop()


async def heard(far: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(far, 65535), 5)


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_there_and_back(sealed: bool) -> None:
    async def scenario() -> None:
        relay_opens, relay_seals = Opener(KEYS.key_id, KEYS.open_key, KEYS.open_iv), Sealer(KEYS.key_id, KEYS.seal_key, KEYS.seal_iv)
        async with ends(sealed=sealed) as (here, far):
            for data in (b"text", bytearray(b"text"), memoryview(b"text"), b""):
                await here.send(data, 0, MTU)
                datagram = await heard(far)
                assert (relay_opens.open(datagram) if sealed else datagram) == bytes(data)
            far.send(relay_seals.seal(b"answer") if sealed else b"answer")
            assert await here.receive(0) == b"answer"
            waiting = asyncio.ensure_future(here.receive(0))
            await asyncio.sleep(0.01)
            far.send(relay_seals.seal(b"later") if sealed else b"later")
            assert await asyncio.wait_for(waiting, 5) == b"later"

    run(scenario())


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_too_large_names_the_limit(sealed: bool) -> None:
    async def scenario() -> None:
        async with ends(sealed=sealed) as (here, far):
            await here.send(bytes(MTU), 0, MTU)
            assert len(await heard(far)) == MTU + (28 if sealed else 0)
            with pytest.raises(ValueError, match=r"1001 octets.*carries 1000 at most"):
                await here.send(bytes(MTU + 1), 0, MTU)
            with pytest.raises(ValueError, match=r"carries 70000 at most"):
                await here.send(bytes(66000), 0, 70000)  # beyond what UDP itself can carry
            await here.send(b"next", 0, MTU)
            assert len(await heard(far)) == (32 if sealed else 4)

    run(scenario())


def test_what_does_not_open_is_dropped_and_the_next_one_is_received() -> None:
    async def scenario() -> None:
        relay = Sealer(KEYS.key_id, KEYS.seal_key, KEYS.seal_iv)
        async with ends(sealed=True) as (here, far):
            first = relay.seal(b"first")
            other = Sealer(new_key_id(b"\xff" * 4, 3), bytes(32), bytes(12)).seal(b"another session's")
            for datagram in (first, first, first[:-1] + b"?", b"plain text", other, relay.seal(b"second")):
                far.send(datagram)
            assert [await here.receive(0) for _ in range(2)] == [b"first", b"second"]
            assert here._keys is not None
            counters = here._keys.counters
            # the changed one repeats a counter: it is judged before the cipher
            assert (counters.opened, counters.replayed, counters.forged, counters.unknown) == (2, 2, 0, 2)
            far.send(relay.seal(b"third")[:-1] + b"?")
            far.send(relay.seal(b"fourth"))
            assert await here.receive(0) == b"fourth"
            assert here._keys.counters.forged == 1

    run(scenario())


def test_a_flood_of_forgeries_does_not_stop_the_program() -> None:
    async def scenario() -> None:
        async with ends(sealed=True) as (here, far):
            turns = 0

            async def other_work() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            for number in range(100):
                far.send(KEYS.key_id + number.to_bytes(8, "big") + bytes(16))
            work = asyncio.ensure_future(other_work())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(here.receive(0), 0.2)
            work.cancel()
            assert here._keys is not None
            assert here._keys.counters.forged == 100
            assert turns >= 100

    run(scenario())


def test_a_full_buffer_is_waited_for() -> None:
    async def scenario() -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # unlike UDP over loopback it pushes back
        with near, far:
            near.setblocking(False)
            far.setblocking(False)
            here = Datagrams([near], None)
            sent = [asyncio.ensure_future(here.send(b"%d" % number, 0, MTU)) for number in range(1000)]
            await asyncio.sleep(0.01)
            assert not all(each.done() for each in sent)
            got = {await heard(far) for _ in range(1000)}
            await asyncio.gather(*sent)
            assert got == {b"%d" % number for number in range(1000)}
            here.stop()

    run(scenario())


def test_an_icmp_error_is_not_the_next_datagrams_fault() -> None:
    async def scenario() -> None:
        async with ends(sealed=False) as (here, far):
            address = far.getsockname()
            far.close()
            await here.send(b"to nobody", 0, MTU)
            await asyncio.sleep(0.01)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(address)
                again.setblocking(False)
                again.connect(here._sockets[0].getsockname())
                await here.send(b"to somebody", 0, MTU)
                assert await heard(again) == b"to somebody"
                again.send(b"answer")
                assert await here.receive(0) == b"answer"

    run(scenario())


class Told(socket.socket):
    """Is told once of an ICMP error before it does what it is asked for."""

    number = 0

    def tell(self) -> None:
        if number := self.number:
            self.number = 0
            raise OSError(number, "by ICMP")

    def send(self, *arguments: Any) -> int:
        self.tell()
        return super().send(*arguments)

    def recv(self, *arguments: Any) -> bytes:
        self.tell()
        return super().recv(*arguments)


@pytest.mark.parametrize("number", sorted(BY_ICMP))
def test_whatever_a_firewall_answers_is_not_the_next_datagrams_fault(number: int) -> None:
    async def scenario() -> None:
        async with ends(sealed=False) as (here, far):
            told = Told(fileno=here._sockets[0].detach())
            told.setblocking(False)
            here._sockets = [told]
            told.number = number
            await here.send(b"there", 0, MTU)
            assert await heard(far) == b"there"
            far.send(b"back")
            told.number = number
            assert await here.receive(0) == b"back"
            told.number = errno.EPERM
            with pytest.raises(PermissionError):
                await here.send(b"our own firewall", 0, MTU)
            told.close()

    run(scenario())


def test_whoever_waits_is_told_when_it_ends() -> None:
    async def scenario() -> None:
        async with ends(sealed=False) as (here, _):
            waiting = [asyncio.ensure_future(here.receive(0)) for _ in range(3)]
            await asyncio.sleep(0.01)
            waiting[0].cancel()
            await asyncio.sleep(0)
            here.stop()
            for each in waiting[1:]:
                with pytest.raises(Refusal) as refused:
                    await asyncio.wait_for(each, 5)
                assert refused.value.code is Code.WRONG_STATE
            with pytest.raises(Refusal):
                await here.send(b"text", 0, MTU)
            with pytest.raises(Refusal):
                await here.receive(0)

    run(scenario())


def test_several_may_wait() -> None:
    async def scenario() -> None:
        async with ends(sealed=False) as (here, far):
            waiting = [asyncio.ensure_future(here.receive(0)) for _ in range(3)]
            await asyncio.sleep(0.01)
            for text in (b"1", b"2", b"3"):
                far.send(text)
            assert set(await asyncio.wait_for(asyncio.gather(*waiting), 5)) == {b"1", b"2", b"3"}

    run(scenario())
