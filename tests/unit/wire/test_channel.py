"""Records: only the partner's very next one opens."""

from __future__ import annotations

import pytest

from chainrelay.errors import AuthenticationError, Code, ProtocolError
from chainrelay.limits import FRAME_AFTER_AUTHENTICATION, RECORDS_PER_KEY
from chainrelay.wire import codec
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.channel import TEXT_LONGEST, Channel
from chainrelay.wire.frame import FrameReader
from chainrelay.wire.messages import Close, Error, Status
from vectors.make_v1 import MESSAGES, SESSION
from wirelab import Pair


def channels() -> tuple[Channel, Channel]:
    i, r = Pair().run()
    return i.channel(), r.channel()


def test_every_message_both_ways() -> None:
    i, r = channels()
    for number, message in enumerate(MESSAGES):
        assert r.open(i.seal(codec.encode(number, message))[4:]) == [(number, Authenticated("alice", message))]
        assert i.open(r.seal(codec.encode(number, message))[4:]) == [(number, Authenticated("fw1", message))]


def test_several_messages_in_one_record() -> None:
    i, r = channels()
    record = i.seal(*(codec.encode(number, message) for number, message in enumerate(MESSAGES)))
    assert r.open(record[4:]) == [(number, Authenticated("alice", message)) for number, message in enumerate(MESSAGES)]
    assert r._receive.counter == 1


def test_records_are_cut_where_a_frame_ends() -> None:
    i, r = channels()
    message = codec.encode(1, Error(Code.INTERNAL, "fw1", "x" * 512))
    fit = TEXT_LONGEST // len(message)
    for count, records in ((fit, 1), (fit + 1, 2), (3 * fit, 3)):
        bodies = FrameReader(FRAME_AFTER_AUTHENTICATION).feed(i.seal(*[message] * count))
        assert len(bodies) == records
        assert sum(len(r.open(body)) for body in bodies) == count


@pytest.mark.parametrize("text", [b"\xa0", b"\x00", b"\xa3", codec.encode(2, Close(SESSION))[:-1], codec.encode(2, Close(SESSION)) + b"\0"])
def test_one_bad_message_spoils_its_record(text: bytes) -> None:
    i, r = channels()
    with pytest.raises(ProtocolError):
        r.open(i.seal(codec.encode(1, Close(SESSION)), text)[4:])


def test_every_bit_and_every_truncation() -> None:
    i, r = channels()
    body = i.seal(codec.encode(1, Close(SESSION)))[4:]
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthenticationError):
            r.open(bytes(flipped))
    for length in range(len(body)):
        with pytest.raises(AuthenticationError):
            r.open(body[:length])
    assert r.open(body)[0][0] == 1


def test_replay_reorder_drop_and_reflection() -> None:
    i, r = channels()
    first, second, third = (i.seal(codec.encode(number, Close(SESSION)))[4:] for number in range(3))
    with pytest.raises(AuthenticationError):
        r.open(second)
    assert r.open(first)[0][0] == 0
    for wrong in (first, third):
        with pytest.raises(AuthenticationError):
            r.open(wrong)
    with pytest.raises(AuthenticationError):
        i.open(second)
    assert r.open(second)[0][0] == 1


def test_equal_messages_look_different() -> None:
    i, r = channels()
    message = codec.encode(1, Status(SESSION))
    assert len({i.seal(message), i.seal(message), r.seal(message)}) == 3


def test_ready() -> None:
    i, r = channels()
    i.open_ready(r.seal_ready()[4:])
    with pytest.raises(AuthenticationError):
        i.open_ready(r.seal_ready()[5:])
    i, r = channels()
    with pytest.raises(ProtocolError) as caught:
        i.open_ready(r.seal(codec.encode(1, Close(SESSION)))[4:])
    assert caught.value.code is Code.UNEXPECTED
    i, r = channels()
    with pytest.raises(ProtocolError):
        i.open(r.seal_ready()[4:])


def test_a_key_ends() -> None:
    i, r = channels()
    i._send.counter = r._receive.counter = RECORDS_PER_KEY - 1
    body = i.seal(codec.encode(1, Close(SESSION)))[4:]
    r.open(body)
    with pytest.raises(ProtocolError, match="used up"):
        i.seal(codec.encode(2, Close(SESSION)))
    with pytest.raises(ProtocolError, match="beyond"):
        r.open(body)
