"""A bare connection: EXTEND and its answers and nothing else, small until it has been proved."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from chainrelay.errors import Code, ProtocolError
from chainrelay.limits import FRAME_BEFORE_AUTHENTICATION
from chainrelay.wire import codec
from chainrelay.wire.authenticated import Claimed
from chainrelay.wire.bare import BareConnection, is_bare
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.frame import frame
from chainrelay.wire.messages import Close, ControlMessage, Error, Extend, Extended, Message
from chainrelay.wire.states import State
from vectors.make_v1 import MESSAGES, SESSION
from wirelab import Pair

P3 = Endpoint(IPv4Address("10.0.2.1"), 20000)


def extend(octets: bytes) -> Extend:
    return Extend(SESSION, 2, "fw1", "fw2", 1, P3, octets)


def test_a_request_and_its_answer() -> None:
    asking, asked = BareConnection(asking=True), BareConnection(asking=False)
    asking.send(7, extend(b"hello"))
    assert asked.receive(asking.outgoing()) == [(7, Claimed(extend(b"hello")))]
    answer = Extended(SESSION, None, b"octets")
    asked.send(7, answer)
    assert asking.receive(asked.outgoing()) == [(7, Claimed(answer))]
    assert asked.outgoing() == b""


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("asking", [True, False])
def test_nothing_else_is_heard(message: Message | ControlMessage, asking: bool) -> None:
    connection = BareConnection(asking=asking)
    data = frame(codec.encode(1, message))
    if isinstance(message, (Extended, Error) if asking else Extend):
        assert connection.receive(data) == [(1, Claimed(message))]
        return
    with pytest.raises(ProtocolError) as caught:
        connection.receive(data)
    assert caught.value.code is Code.UNEXPECTED
    assert connection.state is State.CLOSED
    with pytest.raises(ProtocolError):
        connection.receive(data)


def test_frames_are_small_until_it_is_proved() -> None:
    large = frame(codec.encode(1, extend(bytes(FRAME_BEFORE_AUTHENTICATION))))
    connection = BareConnection(asking=False)
    with pytest.raises(ProtocolError):
        connection.receive(large)
    connection.prove()
    assert connection.state is State.CLOSED, "what is closed stays closed"
    connection = BareConnection(asking=False)
    before = connection.state
    connection.prove()
    assert (before, connection.state) == (State.AWAITING_HELLO, State.OPEN)
    assert len(connection.receive(large)) == 1


def test_the_first_body_tells_the_kind_of_a_connection() -> None:
    hello = frame(Pair().start().hello())
    bare = frame(codec.encode(2**32 - 1, extend(b"x")))
    assert [is_bare(hello[:length]) for length in (0, 4, 5, 300)] == [None, None, False, False]
    assert [is_bare(bare[:length]) for length in (0, 4, 5, 30)] == [None, None, True, True]
    assert is_bare(frame(codec.encode(1, Close(SESSION)))) is True
    assert [is_bare(length.to_bytes(4, "big")) for length in (0, 1, 4096, 4097)] == [False, None, None, False]
