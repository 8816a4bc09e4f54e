"""A connection between two relays that share no key: EXTEND one way, EXTENDED and ERROR back, and nothing else.

It vouches for nothing; what it carries is authenticated end to end by the client and the relay that answers. Until one such
handshake has succeeded on it (`prove`), frames are as small as a stranger's and its owner counts it among the half-open ones.
No socket and no clock, as in connection.py, whose place it takes in net/.
"""

from __future__ import annotations

from chainrelay.errors import Code, ProtocolError
from chainrelay.limits import FRAME_AFTER_AUTHENTICATION, FRAME_BEFORE_AUTHENTICATION
from chainrelay.wire import codec
from chainrelay.wire.authenticated import Claimed
from chainrelay.wire.frame import HEADER, FrameReader, frame
from chainrelay.wire.messages import ControlMessage, Error, Extend, Extended, Message
from chainrelay.wire.states import State


class BareConnection:
    """One side of it. `asking`: the side that opened it, which needs no proof from itself."""

    peer = ""
    kid = ""

    def __init__(self, *, asking: bool) -> None:
        self._expected: tuple[type[Message], ...] = (Extended, Error) if asking else (Extend,)
        self._reader = FrameReader(FRAME_AFTER_AUTHENTICATION if asking else FRAME_BEFORE_AUTHENTICATION)
        self._out: list[bytes] = []
        self._state = State.OPEN if asking else State.AWAITING_HELLO

    @property
    def state(self) -> State:
        """OPEN at the side that asks, and at the other one after `prove`."""
        return self._state

    def prove(self) -> None:
        """An end-to-end handshake inside has succeeded: whoever sits there carries for a client that is known here."""
        if self._state is State.AWAITING_HELLO:
            self._state = State.OPEN
            self._reader.limit = FRAME_AFTER_AUTHENTICATION

    def receive(self, data: bytes) -> list[tuple[int, Claimed[Message]]]:
        """Request numbers and messages that are complete now. Raises ProtocolError once; the connection is closed then."""
        if self._state is State.CLOSED:
            raise ProtocolError("the connection is closed", Code.UNEXPECTED)
        try:
            return [self._take(body) for body in self._reader.feed(data)]
        except ProtocolError:
            self._state = State.CLOSED
            self._out.clear()
            raise

    def send(self, number: int, message: Message | ControlMessage) -> None:
        """Puts a message into `outgoing`. Raises ProtocolError if it must not travel."""
        self._out.append(frame(codec.encode(number, message)))

    def outgoing(self) -> bytes:
        """What is to be sent now; each octet is given once."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _take(self, body: bytes) -> tuple[int, Claimed[Message]]:
        number, message = codec.decode(body)
        if not isinstance(message, self._expected):
            raise ProtocolError(f"{type(message).__name__.upper()} on a bare connection", Code.UNEXPECTED)
        return number, Claimed(message)


def is_bare(data: bytes) -> bool | None:
    """Whether a connection that begins with `data` is bare: its first body is a map, a handshake's an array.

    None: too short to tell. A length that no stranger may send is told at once, so that it is refused as soon as it is there.
    """
    if len(data) >= HEADER and not 0 < int.from_bytes(data[:HEADER], "big") <= FRAME_BEFORE_AUTHENTICATION:
        return False
    return None if len(data) <= HEADER else data[HEADER] >> 5 == 5  # RFC 8949 §3.1: major type 5
