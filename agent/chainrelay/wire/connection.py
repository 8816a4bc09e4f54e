"""One control connection without its socket: octets in, messages out, and octets to send. Both roles.

The caller moves octets: what `receive` is given came from the partner, what `outgoing` gives goes to him. Any error
closes the connection; then nothing more goes out, not even a reason. Timeouts, rates and sockets are net/'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chainrelay.errors import Code, ProtocolError
from chainrelay.limits import FRAME_AFTER_AUTHENTICATION, FRAME_BEFORE_AUTHENTICATION
from chainrelay.wire import codec
from chainrelay.wire.channel import Channel
from chainrelay.wire.frame import FrameReader, frame
from chainrelay.wire.handshake import Initiator, Responder
from chainrelay.wire.keys import Purpose
from chainrelay.wire.messages import Answer, ControlMessage, Done, Message, Offer, Peer, Request
from chainrelay.wire.primitives import SEAL_OVERHEAD
from chainrelay.wire.sealed import IV_LENGTH, SealKeys
from chainrelay.wire.states import TRANSITIONS, Input, State

if TYPE_CHECKING:
    from chainrelay.wire.authenticated import Authenticated

_FIRST_OCTETS: Final = {0x8E: Input.M1, 0x85: Input.M2, 0x83: Input.M3}  # CBOR arrays of 14, 5 and 3 items


class Connection:
    """A connection over `handshake`, whose role it takes. An initiator's M1 is outgoing at once."""

    def __init__(self, handshake: Initiator | Responder) -> None:
        self._handshake = handshake
        self._reader = FrameReader(FRAME_BEFORE_AUTHENTICATION)
        self._out: list[bytes] = []
        self._messages: list[bytes] = []  # encoded, for the next record
        self._channel: Channel | None = None
        self._state = State.AWAITING_HELLO
        if isinstance(handshake, Initiator):
            self._state = State.HELLO_SENT
            self._out.append(frame(handshake.hello()))

    @property
    def state(self) -> State:
        """Where it stands. Messages may be sent in `State.OPEN`, end to end (to save a round trip) with M3 as well."""
        return self._state

    @property
    def peer(self) -> str:
        """The partner's id: authenticated in `State.OPEN`, empty before."""
        return self._handshake.peer if self._state is State.OPEN else ""

    @property
    def kid(self) -> str:
        """The id of the key that authenticated the partner; empty before `State.OPEN`."""
        return self._handshake.kid if self._state is State.OPEN else ""

    def seal_keys(self, key_id: bytes) -> SealKeys:
        """The data keys of this connection (docs/protocol.md §13): one set, whatever name it is given. Raises ProtocolError."""
        if self._handshake.purpose is not Purpose.END_TO_END or self._channel is None or self._state is State.CLOSED:
            raise ProtocolError(f"no data keys: {self._state.value}", Code.UNEXPECTED)
        key = self._handshake.key
        return SealKeys(
            key_id, key(b"data i>r"), key(b"iv i>r")[:IV_LENGTH], key(b"data r>i"), key(b"iv r>i")[:IV_LENGTH]
        )

    def receive(self, data: bytes) -> list[tuple[int, Authenticated[Message | ControlMessage]]]:
        """Takes octets from the partner and returns request numbers and messages that are complete now.

        Raises ProtocolError (AuthenticationError among them) once; the connection is closed then.
        """
        if self._state is State.CLOSED:
            raise ProtocolError("the connection is closed", Code.UNEXPECTED)
        try:
            return [message for body in self._reader.feed(data) for message in self._take(body)]
        except ProtocolError:
            self._state = TRANSITIONS[self._state, Input.FAULT]
            self._out.clear()
            self._messages.clear()
            raise

    def send(self, number: int, message: Message | ControlMessage) -> None:
        """Puts a message into `outgoing`. Raises ProtocolError in another state or if it must not travel."""
        if self._state is not State.OPEN and (self._state, self._handshake.purpose) != (State.PROOF_SENT, Purpose.END_TO_END):
            raise ProtocolError(f"nothing can be sent: {self._state.value}", Code.UNEXPECTED)
        self._messages.append(codec.encode(number, message))

    def outgoing(self) -> bytes:
        """What is to be sent now, messages sealed together; each octet is given once. Raises ProtocolError for a used up key."""
        if self._channel is not None and self._messages:
            self._out.append(self._channel.seal(*self._messages))
            self._messages.clear()
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _take(self, body: bytes) -> list[tuple[int, Authenticated[Message | ControlMessage]]]:
        arrived = self._input(body)
        following = TRANSITIONS.get((self._state, arrived))
        if following is None:
            raise ProtocolError(f"{arrived.value} in state {self._state.value!r}", Code.UNEXPECTED)
        messages = self._act(arrived, body)
        self._state = following
        return messages

    def _input(self, body: bytes) -> Input:
        if self._channel is not None:
            return Input.READY if len(body) == SEAL_OVERHEAD else Input.RECORD
        return _FIRST_OCTETS.get(body[0], Input.FAULT)

    def _act(self, arrived: Input, body: bytes) -> list[tuple[int, Authenticated[Message | ControlMessage]]]:
        match arrived, self._handshake, self._channel:
            case Input.RECORD, _, Channel() as channel:
                messages = channel.open(body)
                for _, message in messages:
                    self._check_direction(message.message)
                return messages
            case Input.READY, _, Channel() as channel:
                channel.open_ready(body)
            case Input.M1, Responder() as responder, None:
                self._out.append(frame(responder.answer(body)))
            case Input.M2, Initiator() as initiator, None:
                self._out.append(frame(initiator.answer(body)))
                self._establish(initiator.channel())
            case Input.M3, Responder() as responder, None:
                responder.finish(body)
                self._establish(responder.channel())
                self._out.append(responder.channel().seal_ready())
            case _:
                raise ProtocolError("not a message of the handshake")
        return []

    def _establish(self, channel: Channel) -> None:
        self._channel = channel
        self._reader.limit = FRAME_AFTER_AUTHENTICATION

    def _check_direction(self, message: Message | ControlMessage) -> None:
        """The initiator sends requests, the responder answers; on the control connection PEER, OFFER, and both DONE."""
        asked = isinstance(self._handshake, Responder)
        if self._handshake.purpose is Purpose.CONTROL:
            fits = isinstance(message, Done | (Peer if asked else Offer))
        else:
            fits = isinstance(message, Request if asked else Answer)
        if not fits:
            raise ProtocolError(f"{type(message).__name__.upper()} from the wrong side or place", Code.UNEXPECTED)


class PlainConnection:
    """The client–server control connection without a key: OFFER, PEER and DONE as frames, nobody authenticated.

    What comes out is a bare `ControlMessage`, never `Authenticated`.
    """

    def __init__(self) -> None:
        self._reader = FrameReader(FRAME_BEFORE_AUTHENTICATION)

    def receive(self, data: bytes) -> list[tuple[int, ControlMessage]]:
        """Request numbers and messages that are complete now. Raises ProtocolError; cut the connection then."""
        messages: list[tuple[int, ControlMessage]] = []
        for body in self._reader.feed(data):
            number, message = codec.decode(body)
            if not isinstance(message, ControlMessage):
                raise ProtocolError(f"{type(message).__name__.upper()} on the control connection", Code.UNEXPECTED)
            messages.append((number, message))
        return messages

    @staticmethod
    def send(number: int, message: ControlMessage) -> bytes:
        """The frame of a message."""
        return frame(codec.encode(number, message))
