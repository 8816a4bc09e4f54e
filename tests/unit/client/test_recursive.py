"""The recursive way of a sealed session behind the face of a link: what goes out, and that nothing is left when a step fails."""

from __future__ import annotations

import asyncio

import pytest

from chainrelay.client.recursive import Recursive
from chainrelay.client.sealing import Sealing
from chainrelay.errors import Code, Refusal
from chainrelay.session.tables import Kind, PeerRow, PeerTable
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import Answer, Bind, Bound, Close, Extend, Open, Opened, Protocol, Renew, Request, Way
from unit.client.fake_relay import CLIENT, SERVER, run
from unit.client.sealed_chain import SealedChain, pair_key

P1 = Endpoint(CLIENT, 40000)
P6 = Target(SERVER, 5004)


def wanted(server: Target = P6) -> Open:
    return Open(bytes(range(16)), Protocol.UDP, Way.RECURSIVE, True, 1, P1, server, "alice", P1, 0, (), 16)


def anything(_opened: Opened) -> None:
    """Any answer will do."""


def way_to(chain: SealedChain, check: object = anything) -> Recursive:
    peers = PeerTable(tuple(PeerRow(node.id, Kind.RELAY, (pair_key(node.id),)) for node in chain.nodes))
    return Recursive("alice", "fw1", chain, peers, check, Sealing())  # type: ignore[arg-type]


def kinds(chain: SealedChain) -> list[type[Request]]:
    return [type(each) for each in chain.asked]


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_open_key_bind(hops: int) -> None:
    async def scenario() -> None:
        chain = SealedChain(hops)
        chain_way = way_to(chain)
        told = await chain_way.request(wanted())
        assert isinstance(told.message, Opened)
        assert kinds(chain) == [Open, Extend, Extend, Bind]
        opened, hello, proof, bind = chain.asked
        assert isinstance(opened, Open)
        assert opened.server == Target(SERVER, 0)
        assert isinstance(hello, Extend) and isinstance(proof, Extend)
        assert {(each.hop, each.previous, each.relay, each.partner) for each in (hello, proof)} == {
            (hops, f"fw{hops - 1}" if hops > 1 else "", f"fw{hops}", P1)
        }
        assert hello.connection == proof.connection
        assert bind == Bind(wanted().session, P6)
        assert isinstance((await chain_way.request(Renew(wanted().session, 0))).message, Answer)
        await chain_way.rekey()
        assert isinstance(chain.asked[-1], Extend)
        assert chain.asked[-1].connection != hello.connection, "a key has a connection of its own"
        await chain.close()

    run(scenario())


def test_the_mtu_is_what_bound_says() -> None:
    async def scenario() -> None:
        chain = SealedChain(2)
        chain.lie = lambda _relay, answer: Bound(answer.session, 1200) if isinstance(answer, Bound) else answer
        opened = (await way_to(chain).request(wanted())).message
        assert isinstance(opened, Opened)
        assert opened.mtu == 1200
        await chain.close()

    run(scenario())


def test_a_reserved_one_is_not_bound() -> None:
    async def scenario() -> None:
        chain = SealedChain(2)
        await way_to(chain).request(wanted(Target(SERVER, 0)))
        assert kinds(chain) == [Open, Extend, Extend]
        await chain.close()

    run(scenario())


@pytest.mark.parametrize("step", [Extend, Bind])
def test_a_step_that_fails_closes_what_was_opened(step: type[Request]) -> None:
    async def scenario() -> None:
        chain = SealedChain(2)
        chain.refuse[step] = [Refusal(Code.DRAINING, "said by the test", "fw2")]
        with pytest.raises(Refusal, match="said by the test"):
            await way_to(chain).request(wanted())
        assert kinds(chain)[-1] is Close
        assert chain.sessions == {}

    run(scenario())


def test_an_answer_that_is_denied_asks_nobody_further() -> None:
    def deny(_opened: Opened) -> None:
        raise Refusal(Code.ANSWER_DENIED, "said by the test")

    async def scenario() -> None:
        chain = SealedChain(2)
        with pytest.raises(Refusal):
            await way_to(chain, deny).request(wanted())
        assert kinds(chain) == [Open, Close]

    run(scenario())


def test_a_chain_that_hangs_is_given_up_and_closed() -> None:
    async def scenario() -> None:
        chain = SealedChain(2)
        ordinary = chain.request

        async def slow(message: Request, timeout: float = 5) -> Authenticated[Answer]:
            if isinstance(message, Extend):
                await asyncio.sleep(60)
            return await ordinary(message, timeout)

        chain.request = slow  # type: ignore[method-assign, assignment]
        with pytest.raises(Refusal) as refused:
            await way_to(chain).request(wanted(), 0.1)
        assert refused.value.code is Code.NEXT_HOP_TIMEOUT
        assert chain.sessions == {}

    run(scenario())


def test_there_is_no_new_key_for_what_is_not_open() -> None:
    async def scenario() -> None:
        with pytest.raises(Refusal) as refused:
            await way_to(SealedChain(2)).rekey()
        assert refused.value.code is Code.UNKNOWN_SESSION

    run(scenario())


def test_no_key_with_whoever_is_last() -> None:
    async def scenario() -> None:
        chain = SealedChain(2)
        way = Recursive("alice", "fw1", chain, PeerTable(()), anything, Sealing())
        with pytest.raises(Refusal, match="no key for fw2"):
            await way.request(wanted())
        assert chain.sessions == {}

    run(scenario())
