"""One end-to-end connection: whoever carries it, what it belongs to, and what becomes of it when it breaks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from chainrelay.client.end_to_end import EndToEnd, First, answer_of
from chainrelay.errors import Code, Refusal
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.keys import Context
from chainrelay.wire.messages import (
    Answer,
    Bound,
    Close,
    Extended,
    Open,
    Opened,
    Protocol,
    Rekey,
    Rekeyed,
    Renew,
    Renewed,
    Status,
    StatusReport,
    Way,
)
from chainrelay.wire.sealed import new_key_id
from unit.client.fake_relay import CLIENT, SERVER, run
from unit.client.sealed_chain import SealedChain, pair_key

SESSION = bytes(range(16))
P1 = Endpoint(CLIENT, 40000)
KEY_ID = new_key_id(bytes(4), 0)


async def opened(hops: int) -> tuple[SealedChain, EndToEnd]:
    """A recursive session, and a connection with its last relay that has not been made yet."""
    chain = SealedChain(hops)
    await chain.request(Open(SESSION, Protocol.UDP, Way.RECURSIVE, True, 1, P1, Target(SERVER, 0), "alice", P1, 0, (), 16))
    context = Context.recursive(hops, SESSION, f"fw{hops - 1}" if hops > 1 else "")
    last = f"fw{hops}"
    return chain, EndToEnd("alice", last, pair_key(last), First("fw1", chain), context, P1, itertools.count(1))


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_request_on_the_connection_whose_keys_are_used(hops: int) -> None:
    async def scenario() -> None:
        chain, connection = await opened(hops)
        await connection.connect()
        keys = connection.seal_keys(KEY_ID)
        assert isinstance(await connection.ask_here(Rekey(SESSION, KEY_ID)), Rekeyed)
        assert chain.seal().keys == [keys], "both ends have the same"
        await connection.connect()
        assert connection.seal_keys(KEY_ID) != keys
        await chain.close()

    run(scenario())


def test_without_a_connection_there_are_no_keys() -> None:
    async def scenario() -> None:
        chain, connection = await opened(2)
        with pytest.raises(Refusal) as refused:
            connection.seal_keys(KEY_ID)
        assert refused.value.code is Code.UNEXPECTED
        with pytest.raises(Refusal):
            await connection.ask_here(Rekey(SESSION, KEY_ID))
        await chain.close()

    run(scenario())


def test_what_belongs_to_a_connection_is_not_asked_on_another() -> None:
    """`ask` makes a broken connection again; `ask_here` must not: REKEY there would name other keys."""

    async def scenario() -> None:
        chain, connection = await opened(2)
        connection.standing = True
        await connection.connect()
        chain.nodes[1]._ends.clear()  # the relay restarted
        with pytest.raises(Refusal):
            await connection.ask_here(Rekey(SESSION, KEY_ID))
        assert chain.seal().keys == []
        assert isinstance(await connection.ask(Status(SESSION)), StatusReport)
        await chain.close()

    run(scenario())


def test_octets_that_were_changed_on_the_way() -> None:
    async def scenario() -> None:
        chain, connection = await opened(2)
        await connection.connect()

        def change(relay: str, answer: Answer) -> Answer:
            if relay == "fw1" and isinstance(answer, Extended):
                return replace(answer, octets=answer.octets[:-1] + bytes([answer.octets[-1] ^ 1]))
            return answer

        chain.lie = change
        with pytest.raises(Refusal, match="what fw1 passed on is not fw2's") as refused:
            await connection.ask_here(Rekey(SESSION, KEY_ID))
        assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
        await chain.close()

    run(scenario())


@pytest.mark.parametrize("octets", [b"", bytes(300)], ids=["silence", "noise"])
def test_no_m2_is_no_handshake(octets: bytes) -> None:
    async def scenario() -> None:
        chain, connection = await opened(2)
        chain.lie = lambda _relay, answer: replace(answer, octets=octets) if isinstance(answer, Extended) else answer
        with pytest.raises(Refusal) as refused:
            await connection.connect()
        assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
        await chain.close()

    run(scenario())


def test_extend_is_answered_by_extended_of_the_same_session() -> None:
    async def scenario() -> None:
        for wrong in (Bound(SESSION, 1400), Extended(bytes(16), None, b"")):
            chain, connection = await opened(1)
            chain.lie = lambda _relay, _answer, wrong=wrong: wrong  # type: ignore[misc]
            with pytest.raises(Refusal, match="fw1 answered EXTEND with something else"):
                await connection.connect()
            chain.lie = lambda _relay, answer: answer
            await chain.close()

    run(scenario())


def test_an_answer_is_of_its_kind_and_session() -> None:
    message = Renew(SESSION, 0)
    assert answer_of(Renewed(SESSION, 5), "fw1", message, Renewed) == Renewed(SESSION, 5)
    for wrong in (Renewed(bytes(16), 5), Bound(SESSION, 5), Opened(SESSION, P1, P1, 5, 1400, True, ("fw1",))):
        with pytest.raises(Refusal, match="fw1 answered RENEW with something else"):
            answer_of(wrong, "fw1", message, Renewed)
    with pytest.raises(Refusal):
        answer_of(Bound(SESSION, 5), "fw1", Close(SESSION), Renewed)
