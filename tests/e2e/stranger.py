"""Whoever speaks to an agent in his own way, octet by octet: strangers, insiders that misbehave, a relay that lies.

    Line      a TCP connection from a host, whose octets the test chooses; what comes back is told, and how it ended
    Insider   a partner that authenticated properly over a Line, and may now send what it likes
    Impostor  listens where a relay's agent would, holds its keys, and answers as the test says

Everything is built from the wire layer itself; sockets are opened inside the lab's namespaces.
"""

from __future__ import annotations

import base64
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.errors import ProtocolError
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Address, Endpoint, Target
from chainrelay.wire.frame import frame
from chainrelay.wire.handshake import Initiator, Responder
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import Answer, ControlMessage, Message, Open, Protocol, Request, Way
from chainrelay.wire.primitives import Ephemeral
from chainrelay.wire.states import State
from lab.configuration import KID, USER
from lab.rulesets import CONTROL_PORT

if TYPE_CHECKING:
    from e2e.chain import Chain
    from lab.host import Namespace
    from lab.row import Firewall

PATIENCE = 8.0  # seconds; an agent gives a handshake 5
Ending = tuple[bytes, str]
"""What came back, and how the connection ended: "closed", "reset" or "still open"."""


class NotAcceptedError(AssertionError):
    """The connection ended before it was authenticated."""


class Line:
    """A TCP connection from `host` to `at`."""

    def __init__(self, host: Namespace, at: Endpoint, source: Address | None = None) -> None:
        local = (str(source), 0) if source is not None else None
        with host.enter():
            self.socket = socket.create_connection((str(at.address), at.port), PATIENCE, source_address=local)
        self._held = b""  # what came behind the last frame

    def send(self, data: bytes) -> None:
        """Send; that the other side has closed meanwhile shows in `ending`."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return

    def receive(self, timeout: float = PATIENCE) -> bytes:
        """What comes next; empty when it was closed or reset. TimeoutError when nothing happens."""
        self.socket.settimeout(timeout)
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""

    def body(self) -> bytes:
        """The body of the next frame; empty when the connection ended before it was whole."""
        while len(self._held) < 4 or len(self._held) < 4 + int.from_bytes(self._held[:4], "big"):
            more = self.receive()
            if not more:
                return b""
            self._held += more
        end = 4 + int.from_bytes(self._held[:4], "big")
        body, self._held = self._held[4:end], self._held[end:]
        return body

    def ending(self, within: float = PATIENCE) -> Ending:
        """Wait for the end, and close."""
        told, until = self._held, time.monotonic() + within
        try:
            while time.monotonic() < until:
                self.socket.settimeout(max(0.001, until - time.monotonic()))
                data = self.socket.recv(65536)
                if not data:
                    return told, "closed"
                told += data
        except ConnectionResetError:
            return told, "reset"
        except TimeoutError:
            pass
        finally:
            self.close()
        return told, "still open"

    def ended(self) -> bool:
        """Whether the other side has ended it by now."""
        return bool(select.select([self.socket], [], [], 0)[0]) and self.receive(0.1) == b""

    def close(self) -> None:
        """Close at once, in the middle of whatever is under way. Idempotent."""
        if self.socket.fileno() < 0:
            return
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Insider:
    """`me`, authenticated at `peer`. Raises NotAcceptedError when the handshake fails."""

    def __init__(
        self,
        host: Namespace,
        at: Endpoint,
        me: str,
        peer: str,
        key: PairKey,
        purpose: Purpose = Purpose.CLIENT_HOP,
        source: Address | None = None,
    ) -> None:
        self.line = Line(host, at, source)
        self.wire = Connection(initiator(me, peer, key, purpose))
        self._received: list[tuple[int, Any]] = []
        self._number = 0
        self.line.send(self.wire.outgoing())
        while self.wire.state is not State.OPEN:
            data = self.line.receive()
            if not data:
                self.line.close()
                raise NotAcceptedError(f"{peer} did not accept {me}")
            self._take(data)

    @property
    def address(self) -> Address:
        """Ours, of the connection."""
        return Endpoint.parse(f"{self.line.socket.getsockname()[0]}:1").address

    def ask(self, message: Request, timeout: float = 15.0) -> Answer:
        """The answer to a request. ConnectionError when the relay ended the connection instead."""
        self._number += 1
        self.wire.send(self._number, message)
        return self._answer(timeout)

    def send_record(self, text: bytes) -> None:
        """Any octets as a valid record: a message as only an insider can spoil it."""
        channel = self.wire._channel
        assert channel is not None
        self.line.send(channel._seal(text))

    def survives(self, within: float = 0.5) -> bool:
        """Whether the connection is still open after that time without an answer."""
        try:
            return bool(self.line.receive(within))
        except TimeoutError:
            return True

    def close(self) -> None:
        """Drop the connection."""
        self.line.close()

    def _answer(self, timeout: float) -> Answer:
        self.line.send(self.wire.outgoing())
        until = time.monotonic() + timeout
        while True:
            for number, message in self._received:
                if number == self._number:
                    self._received.clear()
                    return message  # type: ignore[no-any-return]  # a responder sends answers only
            data = self.line.receive(max(0.001, until - time.monotonic()))
            if not data:
                raise ConnectionError("the relay ended the connection")
            self._take(data)

    def _take(self, data: bytes) -> None:
        self._received += [(number, each.message) for number, each in self.wire.receive(data)]
        self.line.send(self.wire.outgoing())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Answering = Callable[[Request], "Answer | bytes | None"]


class Impostor:
    """Holds a relay's keys and listens at its place. `answering` gives an answer, the octets of one, or None for silence."""

    def __init__(self, host: Namespace, at: Endpoint, me: str, keys: dict[str, PairKey], answering: Answering) -> None:
        self.asked: list[Request] = []
        self.connections = 0
        self._me, self._keys, self._answering = me, keys, answering
        self._open: list[socket.socket] = []
        with host.enter():
            self._listener = socket.create_server(
                (str(at.address), at.port), family=socket.AF_INET if at.family == 4 else socket.AF_INET6
            )
        self._thread = threading.Thread(target=self._serve, name=f"impostor of {me}", daemon=True)
        self._thread.start()

    def count(self, kind: type[Request]) -> int:
        """How many requests of a type have come."""
        return sum(isinstance(each, kind) for each in self.asked)

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            each.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(accepted)
            threading.Thread(target=self._talk, args=(accepted,), daemon=True).start()

    def _talk(self, accepted: socket.socket) -> None:
        wire = Connection(
            Responder(
                self._me,
                find_key=lambda peer, _kid: self._keys.get(peer),
                expected_purpose=lambda _peer: Purpose.RELAY_HOP,
                nonce=secrets.token_bytes(32),
                ephemeral=ephemeral,
            )
        )
        try:
            while data := accepted.recv(65536):
                for number, message in wire.receive(data):
                    self._answer(wire, number, message.message)
                accepted.sendall(wire.outgoing())
        except (OSError, ProtocolError):
            accepted.close()

    def _answer(self, wire: Connection, number: int, message: Message | ControlMessage) -> None:
        assert isinstance(message, Request)
        self.asked.append(message)
        answer = self._answering(message)
        if isinstance(answer, bytes):
            assert wire._channel is not None
            wire._out.append(wire._channel._seal(answer))
        elif answer is not None:
            wire.send(number, answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ephemeral() -> Ephemeral:
    """A fresh X25519 key pair."""
    return Ephemeral(X25519PrivateKey.generate())


def initiator(me: str, peer: str, key: PairKey, purpose: Purpose = Purpose.CLIENT_HOP) -> Initiator:
    """With fresh random values."""
    return Initiator(me, peer, key, purpose, nonce=secrets.token_bytes(32), ephemeral=ephemeral())


def hello(me: str, peer: str, key: PairKey, purpose: Purpose = Purpose.CLIENT_HOP) -> bytes:
    """The body of a fresh M1."""
    return initiator(me, peer, key, purpose).hello()


def pair_key(chain: Chain, one: str, other: str) -> PairKey:
    """The key that two neighbours of a chain share."""
    file = chain.relays.configuration.folder / f"{'-'.join(sorted((one, other)))}.key"
    return PairKey(KID, base64.b64decode(file.read_text()))


def control(firewall: Firewall, family: int = 4) -> Endpoint:
    """Where a relay's agent listens."""
    return Endpoint(firewall.bound(family), CONTROL_PORT)


def alice(chain: Chain, family: int = 4, source: Address | None = None) -> Insider:
    """The client's id with its own key, at relay 1."""
    first = chain.firewalls[0]
    return Insider(chain.row.client, control(first, family), USER, first.name, pair_key(chain, USER, first.name), source=source)


def neighbour(chain: Chain, number: int) -> Insider:
    """Relay `number` (from 1) as it speaks to the next one, by its key and from its place."""
    here, there = chain.firewalls[number - 1], chain.firewalls[number]
    return Insider(
        here.host, control(there), here.name, there.name, pair_key(chain, here.name, there.name), Purpose.RELAY_HOP
    )


def an_open(chain: Chain, family: int = 4, port: int = 40000, **changes: Any) -> Open:
    """The OPEN that the client would send; `changes` are fields."""
    partner = changes.pop("partner", Endpoint(chain.row.client_end.address(family), port))
    usual = Open(
        session=secrets.token_bytes(16),
        protocol=Protocol.UDP,
        way=Way.RECURSIVE,
        sealed=False,
        components=1,
        partner=partner,
        server=Target(chain.row.server_end.address(family), 5004),
        user=USER,
        origin=partner,
        lease=30,
        path=(),
        hops_left=8,
    )
    return replace(usual, **changes)


def framed(body: bytes) -> bytes:
    """A frame, of any length."""
    return frame(body) if body and len(body) <= 65536 else len(body).to_bytes(4, "big") + body
