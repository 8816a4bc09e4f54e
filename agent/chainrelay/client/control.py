"""The client-server control connection (M1, M7): OFFER, PEER, DONE over asyncio streams, and nothing about ports or programs.

Order: the server sends OFFER (its P6), the client PEER (its P5, again whenever that moves), which the server confirms by its OFFER;
either DONE. Plain frames, or
the records of an authenticated connection of purpose `CONTROL` where both sides have a key (M15). rendezvous.py keeps the
client's half alive, offer.py is the server's half.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.limits import HANDSHAKE_TIMEOUT
from chainrelay.net.connection import watch_idle
from chainrelay.session.tables import PeerTable
from chainrelay.wire.connection import Connection, PlainConnection
from chainrelay.wire.endpoint import Endpoint, parse_address
from chainrelay.wire.handshake import NONCE_LENGTH, Initiator, Responder
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import ControlMessage, Done, Offer, Peer
from chainrelay.wire.primitives import Ephemeral

READ = 4096
NUMBER = 0  # of every message: nothing here is matched by numbers (docs/protocol.md)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this side is, and whose keys it knows (M20)."""

    me: str
    peers: PeerTable


class _Wire(Protocol):
    """Octets to messages and back, plain or authenticated."""

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent."""

    def receive(self, data: bytes) -> list[tuple[str, object]]:
        """(principal, message) of every whole frame. Raises ProtocolError."""

    def send(self, message: ControlMessage) -> None:
        """Queue a message."""

    def outgoing(self) -> bytes:
        """What is to be written."""


class _Plain:
    is_open = True

    def __init__(self) -> None:
        self._connection = PlainConnection()
        self._out = b""

    def receive(self, data: bytes) -> list[tuple[str, object]]:
        return [("", message) for _, message in self._connection.receive(data)]

    def send(self, message: ControlMessage) -> None:
        self._out += self._connection.send(NUMBER, message)

    def outgoing(self) -> bytes:
        out, self._out = self._out, b""
        return out


class _Authenticated:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def is_open(self) -> bool:
        return self._connection.peer != ""

    def receive(self, data: bytes) -> list[tuple[str, object]]:
        return [(each.principal, each.message) for _, each in self._connection.receive(data)]

    def send(self, message: ControlMessage) -> None:
        self._connection.send(NUMBER, message)

    def outgoing(self) -> bytes:
        return self._connection.outgoing()


class ControlStream:
    """One control connection, whole messages in and out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: _Wire) -> None:
        self._reader, self._writer, self._wire = reader, writer, wire
        self._received: list[ControlMessage] = []
        self.principal = ""
        """The partner's authenticated id, known from its first message on; empty on a plain connection."""
        self.local, self.remote = (_endpoint(writer.get_extra_info(name)) for name in ("sockname", "peername"))
        watch_idle(writer.get_extra_info("socket"))

    async def start(self) -> None:
        """The handshake, if there is one. Raises ProtocolError and TimeoutError."""
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            await self._flush()
            while not self._wire.is_open:
                if not await self._read():
                    raise ProtocolError("closed during the handshake")
                await self._flush()

    async def receive(self) -> ControlMessage | None:
        """The next message, or None when the partner has closed. Raises ProtocolError."""
        while not self._received:
            if not await self._read():
                return None
        return self._received.pop(0)

    async def send(self, message: ControlMessage) -> None:
        """Send a message. Raises OSError when the connection is gone."""
        self._wire.send(message)
        await self._flush()

    def close(self) -> None:
        """Send what is queued and close."""
        self._writer.close()

    def abort(self) -> None:
        """Cut at once, in silence."""
        self._writer.transport.abort()

    async def _read(self) -> bool:
        try:
            data = await self._reader.read(READ)
        except OSError:
            return False
        for principal, message in self._wire.receive(data):
            if not isinstance(message, Offer | Peer | Done):
                raise ProtocolError(f"{type(message).__name__} on a control connection", Code.UNEXPECTED)
            self.principal = principal
            self._received.append(message)
        return bool(data)

    async def _flush(self) -> None:
        if out := self._wire.outgoing():
            self._writer.write(out)
            await self._writer.drain()


def key_of_server(peers: PeerTable, server: str) -> PairKey:
    """Raises Refusal when there is none."""
    key = peers.current_key(server)
    if key is None:
        mend = f'Add a [[peer]] with id = "{server}" and the key that it has too (`chainrelay key new` makes one).'
        raise Refusal(Code.NEXT_HOP_AUTHENTICATION, f"no key for the server {server} in peers.toml", mend=mend)
    return key


def to_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, identity: Identity | None, server: str) -> ControlStream:
    """The client's end. With an identity, both sides prove that they hold the key of server id `server`. Raises Refusal."""
    if identity is None:
        return ControlStream(reader, writer, _Plain())
    try:
        key = key_of_server(identity.peers, server)
    except Refusal:
        writer.transport.abort()
        raise
    initiator = Initiator(identity.me, server, key, Purpose.CONTROL, nonce=os.urandom(NONCE_LENGTH), ephemeral=_ephemeral())
    return ControlStream(reader, writer, _Authenticated(Connection(initiator)))


def to_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, identity: Identity | None) -> ControlStream:
    """The server's end. With an identity, only clients that stand in its peer table get past `start`."""
    if identity is None:
        return ControlStream(reader, writer, _Plain())
    responder = Responder(
        identity.me,
        find_key=identity.peers.find_key,
        expected_purpose=lambda _peer: Purpose.CONTROL,
        nonce=os.urandom(NONCE_LENGTH),
        ephemeral=_ephemeral,
    )
    return ControlStream(reader, writer, _Authenticated(Connection(responder)))


def _ephemeral() -> Ephemeral:
    return Ephemeral(X25519PrivateKey.generate())


def _endpoint(name: tuple[str, int]) -> Endpoint:
    return Endpoint(parse_address(name[0].partition("%")[0]), name[1])
