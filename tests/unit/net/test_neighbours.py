"""A neighbour connection against a real listener over loopback: numbers, loss, retries, time-outs, wrong keys."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from chainrelay.errors import Code, Refusal
from chainrelay.net.connection import Heard
from chainrelay.net.listener import Listener
from chainrelay.net.neighbours import Neighbour
from chainrelay.session.events import Link, NextHop
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import Close, ControlMessage, Error, Message, Status, StatusReport
from unit.client.fake_relay import until

KEY = PairKey("k1", bytes(range(32)))
LOOPBACK = IPv4Address("127.0.0.1")


class Relay:
    """A listener that answers every request the way `answer` says; None = says nothing."""

    def __init__(self, key: PairKey = KEY, purpose: Purpose = Purpose.RELAY_HOP) -> None:
        self.asked: list[Message | ControlMessage] = []
        self.numbers: list[int] = []
        self.links: list[Link] = []
        self.silent = False
        self.listener = Listener(
            "fw2", lambda _id, kid: key if kid == key.kid else None, lambda _id: purpose, self._take, lambda _link: None
        )

    async def listen(self, port: int = 0) -> Endpoint:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the earlier listener's connections may linger
            probe.bind(("127.0.0.1", port))
            endpoint = Endpoint(LOOPBACK, probe.getsockname()[1])
        await self.listener.listen((endpoint,))
        return endpoint

    def _take(self, link: Link, number: int, message: Heard) -> None:
        assert isinstance(message, Authenticated)
        self.links.append(link)
        self.numbers.append(number)
        self.asked.append(message.message)
        if self.silent:
            return
        match message.message:
            case Status(session):
                self.listener.send(link.number, number, StatusReport(session, 7, ()))
            case Close():
                self.listener.send(link.number, number, Error(Code.UNKNOWN_SESSION, "fw3", "no such session"))
            case _:
                raise AssertionError(message)


def play(scenario: Callable[[Relay, Neighbour], Awaitable[None]], *, key: PairKey = KEY, purpose: Purpose = Purpose.RELAY_HOP) -> Relay:
    relay = Relay()

    async def run() -> None:
        endpoint = await relay.listen()
        neighbour = Neighbour("fw1", NextHop("fw2", endpoint), lambda: key, purpose)
        try:
            await scenario(relay, neighbour)
        finally:
            await neighbour.close()
            await relay.listener.close()

    asyncio.run(run())
    return relay


def session() -> bytes:
    return os.urandom(16)


def test_answers_find_their_questions() -> None:
    async def scenario(_relay: Relay, neighbour: Neighbour) -> None:
        ids = [session() for _ in range(50)]
        answers = await asyncio.gather(*(neighbour.request(Status(each)) for each in ids))
        assert [answer.message for answer in answers] == [StatusReport(each, 7, ()) for each in ids]
        assert {answer.principal for answer in answers} == {"fw2"}
        assert neighbour.remote == LOOPBACK

    relay = play(scenario)
    assert len({link.number for link in relay.links}) == 1, "one connection carries all"
    assert {link.principal for link in relay.links} == {"fw1"}


def test_an_answer_counts_for_the_question_of_its_number_alone() -> None:
    """In whatever order they come; to a number that nobody has used there is no question."""

    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        relay.silent = True
        ids = [session() for _ in range(5)]
        asking = asyncio.gather(*(neighbour.request(Status(each)) for each in ids))
        await until(lambda: len(relay.asked) == len(ids))
        link = relay.links[0].number
        relay.listener.send(link, 4_000_000_000, StatusReport(session(), 7, ()))
        for number, asked in reversed(list(zip(relay.numbers, relay.asked, strict=True))):
            assert isinstance(asked, Status)
            relay.listener.send(link, number, StatusReport(asked.session, 7, ()))
        assert [answer.message for answer in await asking] == [StatusReport(each, 7, ()) for each in ids]

    play(scenario)


def test_an_error_is_raised_with_the_hop_that_refused() -> None:
    async def scenario(_relay: Relay, neighbour: Neighbour) -> None:
        with pytest.raises(Refusal) as refused:
            await neighbour.request(Close(session()))
        assert (refused.value.code, refused.value.hop) == (Code.UNKNOWN_SESSION, "fw3")

    play(scenario)


def test_a_lost_connection_is_opened_again_and_the_question_asked_again() -> None:
    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        await neighbour.request(Status(session()))
        relay.silent = True
        asking = asyncio.ensure_future(neighbour.request(Status(session()), 5))
        await asyncio.sleep(0.05)
        relay.silent = False
        relay.listener.cut("fw1")
        assert isinstance((await asking).message, StatusReport)

    relay = play(scenario)
    assert len({link.number for link in relay.links}) == 2
    assert relay.asked[1] == relay.asked[2]


def test_silence_ends_in_time() -> None:
    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        relay.silent = True
        with pytest.raises(Refusal) as late:
            await neighbour.request(Status(session()), 0.3)
        assert late.value.code is Code.NEXT_HOP_TIMEOUT

    play(scenario)


def test_nobody_there() -> None:
    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        await relay.listener.close()
        with pytest.raises(Refusal) as refused:
            await neighbour.request(Status(session()))
        assert refused.value.code is Code.NEXT_HOP_UNREACHABLE
        assert "fw2" in refused.value.text
        assert "Connection refused" in refused.value.text
        with pytest.raises(Refusal, match="fw2"):
            await neighbour.connect(1)

    play(scenario)


def test_it_comes_back_when_the_relay_does() -> None:
    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        await neighbour.request(Status(session()))
        at = neighbour.hop.at
        await relay.listener.close()
        with pytest.raises(Refusal):
            await neighbour.request(Status(session()), 2)
        await relay.listen(at.port)
        assert isinstance((await neighbour.request(Status(session()), 5)).message, StatusReport)

    play(scenario)


@pytest.mark.parametrize(
    ("key", "purpose"),
    [
        (PairKey("k1", bytes(32)), Purpose.RELAY_HOP),
        (PairKey("k2", KEY.secret), Purpose.RELAY_HOP),
        (KEY, Purpose.CLIENT_HOP),
    ],
    ids=["wrong key", "unknown key id", "wrong purpose"],
)
def test_who_does_not_authenticate_is_told_where_to_look(key: PairKey, purpose: Purpose) -> None:
    async def scenario(_relay: Relay, neighbour: Neighbour) -> None:
        with pytest.raises(Refusal) as refused:
            await neighbour.request(Status(session()))
        assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
        assert "same key" in refused.value.text

    assert play(scenario, key=key, purpose=purpose).asked == []


def test_who_cuts_every_question_is_not_hammered_at() -> None:
    """Each connection authenticates and ends without an answer: the pause between two of them grows all the same."""

    async def scenario(relay: Relay, neighbour: Neighbour) -> None:
        relay.silent = True
        asking = asyncio.ensure_future(neighbour.request(Status(session()), 1.2))
        while not asking.done():
            relay.listener.cut("fw1")
            await asyncio.sleep(0.005)
        with pytest.raises(Refusal) as late:
            await asking
        assert late.value.code is Code.NEXT_HOP_TIMEOUT

    assert 2 <= len(play(scenario).links) <= 6
