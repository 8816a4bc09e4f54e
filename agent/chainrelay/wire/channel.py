"""Records: what follows a handshake. The only maker of `Authenticated` (an import test keeps it).

A record carries all messages that were ready when it was sealed: the cipher costs as much for ten as for one.
One key and one counter per direction; the counter is the nonce and is not sent, so a record that was dropped, repeated,
moved or turned round does not open. After a record that does not open the channel is of no further use: cut the
connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chainrelay.errors import AuthenticationError, Code, ProtocolError
from chainrelay.limits import FRAME_AFTER_AUTHENTICATION, RECORDS_PER_KEY
from chainrelay.wire import codec
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.frame import frame
from chainrelay.wire.primitives import SEAL_OVERHEAD, RecordCipher

if TYPE_CHECKING:
    from chainrelay.wire.messages import ControlMessage, Message

TEXT_LONGEST: Final = FRAME_AFTER_AUTHENTICATION - SEAL_OVERHEAD


class Channel:
    """Both directions of an authenticated connection with `principal`."""

    def __init__(self, principal: str, *, send: bytes, receive: bytes) -> None:
        self.principal = principal
        self._send, self._receive = RecordCipher(send), RecordCipher(receive)

    def seal(self, *messages: bytes) -> bytes:
        """Encoded messages (codec.encode) as records, as few as they fit in, their frames included.

        Raises ProtocolError for a used up key.
        """
        records: list[bytes] = []
        together: list[bytes] = []
        room = TEXT_LONGEST
        for message in messages:
            if len(message) > room and together:
                records.append(self._seal(b"".join(together)))
                together, room = [], TEXT_LONGEST
            together.append(message)
            room -= len(message)
        records.append(self._seal(b"".join(together)))
        return b"".join(records)

    def open(self, body: bytes) -> list[tuple[int, Authenticated[Message | ControlMessage]]]:
        """Request numbers and messages of a frame's body, at least one.

        Raises AuthenticationError unless it is the partner's next record, ProtocolError if that makes no sense.
        """
        return [(number, Authenticated(self.principal, message)) for number, message in codec.decode_all(self._open(body))]

    def seal_ready(self) -> bytes:
        """READY, the responder's first record: empty. It tells the initiator that M3 was accepted."""
        return self._seal(b"")

    def open_ready(self, body: bytes) -> None:
        """Raises AuthenticationError unless `body` is the partner's next record, ProtocolError unless that is READY."""
        if self._open(body):
            raise ProtocolError("the first record is not READY", Code.UNEXPECTED)

    def _seal(self, octets: bytes) -> bytes:
        if self._send.counter >= RECORDS_PER_KEY:
            raise ProtocolError("the connection's key is used up; connect again")
        return frame(self._send.seal(octets))

    def _open(self, body: bytes) -> bytes:
        if self._receive.counter >= RECORDS_PER_KEY:
            raise ProtocolError("the partner used its key beyond its end")
        try:
            return self._receive.open(body)
        except ValueError as error:
            raise AuthenticationError(f"record {self._receive.counter} of {self.principal} does not verify") from error
