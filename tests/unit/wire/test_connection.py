"""A connection without its socket: the way to OPEN in any cut of the stream, and the ways out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.errors import AuthenticationError, Code, ProtocolError
from chainrelay.wire import codec
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.connection import Connection, PlainConnection
from chainrelay.wire.frame import frame
from chainrelay.wire.keys import DIRECT, Context, Purpose
from chainrelay.wire.messages import Close, Closed, ControlMessage, Done, Message, Offer, Peer, Protocol, Status
from chainrelay.wire.states import TRANSITIONS, Input, State
from vectors.make_v1 import KEY_ID, MESSAGES, SESSION, V4
from wirelab import Pair


def fails(connection: Connection, data: bytes, code: Code = Code.MALFORMED) -> None:
    """The octets close the connection, and nothing is said about it."""
    with pytest.raises(ProtocolError) as caught:
        connection.receive(data)
    assert caught.value.code is code
    assert connection.state is State.CLOSED
    assert connection.peer == connection.kid == ""
    assert connection.outgoing() == b""
    with pytest.raises(ProtocolError):
        connection.receive(b"")
    with pytest.raises(ProtocolError):
        connection.send(1, Close(SESSION))


def test_the_way_to_open() -> None:
    pair = Pair()
    i, r = Connection(pair.start()), Connection(pair.await_())
    assert (i.state, r.state) == (State.HELLO_SENT, State.AWAITING_HELLO)
    assert r.receive(i.outgoing()) == []
    assert (r.state, r.peer) == (State.CHALLENGE_SENT, "")
    assert i.receive(r.outgoing()) == []
    assert (i.state, i.peer) == (State.PROOF_SENT, "")
    assert r.receive(i.outgoing()) == []
    assert (r.state, r.peer, r.kid) == (State.OPEN, "alice", "k1")
    ready = r.outgoing()
    assert len(ready) == 4 + 16
    assert i.receive(ready) == []
    assert (i.state, i.peer) == (State.OPEN, "fw1")
    assert i.outgoing() == r.outgoing() == b""
    i.send(1, Status(SESSION))
    i.send(2, Close(SESSION))
    assert r.receive(i.outgoing()) == [(1, Authenticated("alice", Status(SESSION))), (2, Authenticated("alice", Close(SESSION)))]
    r.send(2, Closed(SESSION, ()))
    assert i.receive(r.outgoing()) == [(2, Authenticated("fw1", Closed(SESSION, ())))]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_any_cut_of_the_stream(sizes: list[int]) -> None:
    pair = Pair()
    i, r = Connection(pair.start()), Connection(pair.await_())
    got: list[tuple[int, Authenticated[Message | ControlMessage]]] = []
    cut = 0
    sent = False
    for _ in range(4000):
        if i.state is State.OPEN and not sent:
            i.send(7, Close(SESSION))
            sent = True
        moved = False
        for source, sink in ((i, r), (r, i)):
            data = source.outgoing()
            moved |= bool(data)
            while data:
                size = sizes[cut % len(sizes)]
                cut += 1
                got += sink.receive(data[:size])
                data = data[size:]
        if not moved:
            break
    assert got == [(7, Authenticated("alice", Close(SESSION)))]


def test_ready_and_messages_in_one_piece() -> None:
    pair = Pair(purpose=Purpose.CONTROL)
    i, r = Connection(pair.start()), Connection(pair.await_())
    r.receive(i.outgoing())
    i.receive(r.outgoing())
    r.receive(i.outgoing())
    offer = Offer(Protocol.UDP, 1, V4)
    r.send(1, offer)
    assert i.receive(r.outgoing()) == [(1, Authenticated("fw1", offer))]


def test_nothing_is_sent_before_open() -> None:
    pair = Pair()
    i, r = Connection(pair.start()), Connection(pair.await_())
    for connection in (i, r):
        with pytest.raises(ProtocolError, match="nothing can be sent"):
            connection.send(1, Close(SESSION))
    r.receive(i.outgoing())
    i.receive(r.outgoing())
    with pytest.raises(ProtocolError, match="proof sent"):
        i.send(1, Close(SESSION))


def test_silence_for_strangers() -> None:
    pair = Pair()
    for stranger in (Pair("mallory"), Pair(), Pair(responder="fw2", key=pair.key), Pair(purpose=Purpose.RELAY_HOP, key=pair.key)):
        fails(Connection(pair.await_()), Connection(stranger.start()).outgoing())
    for noise in (b"GET / HTTP/1.1\r\n\r\n", frame(b"\x8e"), frame(b"\xa0"), frame(bytes(300)), b"\x16\x03\x01\x02\x00"):
        connection = Connection(pair.await_())
        with pytest.raises(ProtocolError):
            connection.receive(noise)
        assert connection.outgoing() == b""


def test_a_wrong_m3_and_a_wrong_ready() -> None:
    pair = Pair()
    i, r = Connection(pair.start()), Connection(pair.await_())
    r.receive(i.outgoing())
    i.receive(r.outgoing())
    m3 = bytearray(i.outgoing())
    m3[-1] ^= 1
    fails(r, bytes(m3))
    fails(i, frame(bytes(16)))


def test_the_table_is_what_is_obeyed() -> None:
    """Every state is fed each kind of handshake message: what has no row closes the connection."""
    pair = Pair()
    m1 = Connection(pair.start()).outgoing()
    i, r = Connection(pair.start()), Connection(pair.await_())
    r.receive(i.outgoing())
    m2 = r.outgoing()
    i.receive(m2)
    m3 = i.outgoing()
    shaped = {Input.M1: m1, Input.M2: m2, Input.M3: m3}
    for state in (State.HELLO_SENT, State.AWAITING_HELLO, State.CHALLENGE_SENT):
        for given_input, data in shaped.items():
            connection = Connection(pair.start() if state is State.HELLO_SENT else pair.await_())
            if state is State.CHALLENGE_SENT:
                connection.receive(m1)
            assert connection.state is state
            if (state, given_input) not in TRANSITIONS:
                fails(connection, data, Code.UNEXPECTED)
    for opened in pair.connect():
        fails(opened, m1)
    opened, _ = pair.connect()
    fails(opened, frame(bytes(16)), Code.UNEXPECTED)


@pytest.mark.parametrize("purpose", [Purpose.CLIENT_HOP, Purpose.RELAY_HOP, Purpose.CONTROL])
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_side_says_only_what_is_its_own(purpose: Purpose, message: Message | ControlMessage) -> None:
    requests, control = {"Open", "Bind", "Renew", "Close", "Status", "Extend", "Rekey"}, {"Offer", "Peer", "Done"}
    kind = type(message).__name__
    if purpose is Purpose.CONTROL:
        allowed = [kind in {"Peer", "Done"}, kind in {"Offer", "Done"}]
    else:
        allowed = [kind in requests, kind not in requests | control]
    for side in (0, 1):
        connections = Pair(purpose=purpose).connect()
        speaker, listener = connections[side], connections[1 - side]
        speaker.send(1, message)
        if allowed[side]:
            assert listener.receive(speaker.outgoing()) == [(1, Authenticated(speaker._handshake._me, message))]
        else:
            fails(listener, speaker.outgoing(), Code.UNEXPECTED)


def test_frames_grow_with_authentication() -> None:
    pair = Pair()
    with pytest.raises(ProtocolError, match="4096"):
        Connection(pair.await_()).receive(b"\0\0\x10\x01")
    _, r = pair.connect()
    assert r.receive(b"\0\0\x10\x01") == []
    fails(r, bytes(4097))
    _, r = pair.connect()
    fails(r, b"\0\x01\0\x01")


def test_a_forged_record_closes() -> None:
    _, r = Pair().connect()
    with pytest.raises(AuthenticationError):
        r.receive(frame(bytes(40)))
    assert r.state is State.CLOSED


def test_plain_control_connection() -> None:
    client, server = PlainConnection(), PlainConnection()
    offer, peer = Offer(Protocol.UDP, 2, V4), Peer(SESSION, V4)
    assert client.receive(server.send(1, offer) + server.send(2, Done())) == [(1, offer), (2, Done())]
    assert server.receive(client.send(1, peer)) == [(1, peer)]
    with pytest.raises(ProtocolError):
        server.receive(frame(Pair().start().hello()))
    with pytest.raises(ProtocolError, match="4096"):
        PlainConnection().receive(b"\0\0\x10\x01")


def test_plain_control_connection_relays_nothing() -> None:
    with pytest.raises(ProtocolError) as caught:
        PlainConnection().receive(frame(codec.encode(1, Close(SESSION))))
    assert caught.value.code is Code.UNEXPECTED


def test_end_to_end_the_first_request_may_go_with_m3() -> None:
    """It saves a round trip; on other connections, and before M2, nothing may be sent before READY."""
    context = Context.iterative(2, bytes(16), "fw1")
    for purpose, place in ((Purpose.END_TO_END, context), (Purpose.CLIENT_HOP, DIRECT)):
        pair = Pair(purpose=purpose, context=place)
        i, r = Connection(pair.start()), Connection(pair.await_())
        with pytest.raises(ProtocolError):
            i.send(1, Close(bytes(16)))
        r.receive(i.outgoing())
        i.receive(r.outgoing())
        if purpose is Purpose.CLIENT_HOP:
            with pytest.raises(ProtocolError):
                i.send(1, Close(bytes(16)))
            continue
        i.send(1, Close(bytes(16)))
        assert r.receive(i.outgoing()) == [(1, Authenticated("alice", Close(bytes(16))))]
        r.send(1, Closed(bytes(16), ()))
        assert i.receive(r.outgoing()) == [(1, Authenticated("fw1", Closed(bytes(16), ())))]
        assert (i.state, r.state) == (State.OPEN, State.OPEN)


def test_data_keys_belong_to_end_to_end_connections_that_stand() -> None:
    pair = Pair(purpose=Purpose.END_TO_END, context=Context.recursive(2, SESSION, "fw1"))
    initiator, responder = Connection(pair.start()), Connection(pair.await_())
    for side in (initiator, responder):
        with pytest.raises(ProtocolError, match="no data keys"):
            side.seal_keys(KEY_ID)
    for _ in range(2):
        responder.receive(initiator.outgoing())
        initiator.receive(responder.outgoing())
    keys = initiator.seal_keys(KEY_ID)
    assert keys == responder.seal_keys(KEY_ID)
    assert len({keys.open_key, keys.seal_key, keys.open_iv + bytes(20), keys.seal_iv + bytes(20)}) == 4
    assert keys.open_key.hex() not in repr(keys)
    other, _ = pair.connect()
    assert other.seal_keys(KEY_ID) != keys, "another connection, another key"
    fails(responder, frame(bytes(30)))
    with pytest.raises(ProtocolError, match="no data keys"):
        responder.seal_keys(KEY_ID)
    for purpose in (Purpose.CLIENT_HOP, Purpose.RELAY_HOP, Purpose.CONTROL):
        for side in Pair(purpose=purpose).connect():
            with pytest.raises(ProtocolError, match="no data keys"):
                side.seal_keys(KEY_ID)
