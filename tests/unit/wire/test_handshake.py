"""The handshake as it should go: both sides agree, sizes, one use per object. Its abuse: test_handshake_abuse.py."""

from __future__ import annotations

import os

import pytest

from chainrelay.errors import AuthenticationError
from chainrelay.wire import codec
from chainrelay.wire import handshake as hs
from chainrelay.wire.keys import DIRECT, Context, PairKey, Purpose
from chainrelay.wire.messages import Close
from wirelab import Pair

SESSION = bytes(range(16))
END_TO_END = Context(way=1, hop=2, session=SESSION, previous="fw1")


@pytest.mark.parametrize("purpose", Purpose)
def test_both_sides_agree(purpose: Purpose) -> None:
    context = END_TO_END if purpose is Purpose.END_TO_END else DIRECT
    i, r = Pair(purpose=purpose, context=context).run()
    assert (i.peer, r.peer, r.kid, r.purpose) == ("fw1", "alice", "k1", purpose)
    body = i.channel().seal(codec.encode(5, Close(SESSION)))[4:]
    [(number, message)] = r.channel().open(body)
    assert (number, message.principal, message.message) == (5, "alice", Close(SESSION))


def test_an_answer_is_never_longer_than_its_question() -> None:
    for initiator, responder in (("a", "b"), ("a" * 64, "b" * 64)):
        pair = Pair(initiator, responder, key=PairKey("k" * 64, os.urandom(32)))
        m1 = pair.start().hello()
        assert hs.M1_SHORTEST <= len(m1) <= hs.M1_LONGEST
        assert len(pair.await_().answer(m1)) <= hs.M1_SHORTEST <= len(m1)


def test_the_longest_end_to_end_hello_fits() -> None:
    context = Context(2, 16, SESSION, "p" * 64)
    pair = Pair("a" * 64, "b" * 64, Purpose.END_TO_END, context, PairKey("k" * 64, os.urandom(32)))
    assert len(pair.start().hello()) <= hs.M1_LONGEST
    pair.run()


def test_each_object_serves_once() -> None:
    pair = Pair()
    i, r = pair.start(), pair.await_()
    with pytest.raises(AuthenticationError):
        i.answer(b"\x85")
    with pytest.raises(AuthenticationError):
        r.finish(b"\x83")
    m1 = i.hello()
    m2 = r.answer(m1)
    with pytest.raises(AuthenticationError):
        r.answer(m1)
    m3 = i.answer(m2)
    with pytest.raises(AuthenticationError):
        i.answer(m2)
    r.finish(m3)
    with pytest.raises(AuthenticationError):
        r.finish(m3)


def test_two_runs_share_no_key() -> None:
    pair = Pair()
    (i1, _), (_, r2) = pair.run(), pair.run()
    with pytest.raises(AuthenticationError):
        r2.channel().open(i1.channel().seal(codec.encode(1, Close(SESSION)))[4:])
