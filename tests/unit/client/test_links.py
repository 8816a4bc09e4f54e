"""One connection per first relay, whatever the number of sessions."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address

import pytest

from chainrelay.client.leg import RelayedLeg
from chainrelay.client.links import Links
from chainrelay.errors import Code, Refusal
from chainrelay.session.events import NextHop
from chainrelay.session.tables import Kind, PeerRow, PeerTable
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.keys import PairKey
from chainrelay.wire.messages import Close
from unit.client.fake_relay import run
from unit.client.test_leg import wanted

NOBODY = NextHop("fw1", Endpoint(IPv4Address("127.0.0.1"), 9))
PEERS = PeerTable((PeerRow("fw1", Kind.RELAY, (PairKey("a", bytes(range(32))),)),))


def test_one_link_per_relay() -> None:
    async def scenario() -> None:
        links = Links("alice", PEERS)
        other = NextHop("fw2", NOBODY.at)
        assert links.to(NOBODY) is links.to(NextHop("fw1", Endpoint(IPv4Address("127.0.0.1"), 9)))
        assert links.to(NOBODY) is not links.to(other)
        await links.close()

    run(scenario())


@pytest.mark.parametrize(
    ("peers", "code"), [(PEERS, Code.NEXT_HOP_UNREACHABLE), (PeerTable(()), Code.NEXT_HOP_AUTHENTICATION)]
)
def test_a_relay_that_is_not_there_and_a_key_that_is_missing(peers: PeerTable, code: Code) -> None:
    async def scenario() -> None:
        links = Links("alice", peers)
        with pytest.raises(Refusal) as caught:
            await links.to(NOBODY).addresses()
        await links.close()
        assert caught.value.code is code

    run(scenario())


def test_a_relay_that_hangs_up_does_not_hold_us() -> None:
    async def scenario() -> None:
        async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
            links = Links("alice", PEERS)
            at = Endpoint(IPv4Address("127.0.0.1"), listening.sockets[0].getsockname()[1])
            with pytest.raises(Refusal):
                await links.to(NextHop("fw1", at)).addresses()
            await links.close()

    run(scenario())


def test_after_its_end_nobody_waits_for_an_answer_that_can_not_come() -> None:
    """A session may outlive its client by mistake: it hears so at once, and there are no new links that nobody would close."""

    async def scenario() -> None:
        links = Links("alice", PEERS)
        link = links.to(NOBODY)
        await links.close()
        async with asyncio.timeout(1):
            with pytest.raises(Refusal, match="was closed here"):
                await link.neighbour.request(Close(bytes(16)))
            with pytest.raises(Refusal, match="was closed here"):
                await link.addresses()
        with pytest.raises(Refusal, match="the client was closed"):
            links.to(NOBODY)

    run(scenario())


def test_what_is_still_to_be_said_ends_with_the_link() -> None:
    async def scenario() -> None:
        links, ended = Links("alice", PEERS), asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        leg = RelayedLeg(links.to(NOBODY).neighbour, wanted(), lambda _opened: None)
        links.to(NOBODY).carries(leg)
        assert leg.later is not None
        leg.later(work())
        await asyncio.sleep(0)
        await links.close()
        assert ended.is_set()

    run(scenario())
