"""The shell around one connection: few writes per turn, cut when nobody reads, told once when it is lost."""

from __future__ import annotations

import asyncio
import os

import pytest

from chainrelay.errors import ProtocolError
from chainrelay.limits import MESSAGES_PER_WRITE, UNREAD_ANSWERS
from chainrelay.net.connection import ControlConnection
from chainrelay.wire.endpoint import parse_address
from chainrelay.wire.messages import Status, StatusReport
from wirelab import Pair


class Pipe(asyncio.Transport):
    """A transport that keeps what is written; `stuck` octets stay in its buffer."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("10.0.0.1", 1), "peername": ("::ffff:10.0.0.2", 2), "socket": None})
        self.writes: list[bytes] = []
        self.stuck = 0
        self.protocol: ControlConnection | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        assert self.protocol is not None
        self.protocol.connection_lost(None)


def test_many_answers_leave_while_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chainrelay.net.connection.watch_idle", lambda _socket: None)

    async def run() -> None:
        initiator, responder = Pair().connect()
        connection = ControlConnection(
            responder, on_open=lambda _: None, on_message=lambda _, _number, _message: None, on_lost=lambda _, _why: None
        )
        pipe = Pipe()
        connection.connection_made(pipe)
        for number in range(2 * MESSAGES_PER_WRITE + 3):
            connection.send(number, StatusReport(bytes(16), 1, ()))
        assert len(pipe.writes) == 2
        await asyncio.sleep(0)
        assert [len(initiator.receive(data)) for data in pipe.writes] == [MESSAGES_PER_WRITE, MESSAGES_PER_WRITE, 3]

    asyncio.run(run())


def test_a_turn_of_the_loop_is_one_write_and_who_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chainrelay.net.connection.watch_idle", lambda _socket: None)
    lost: list[Exception | None] = []

    async def run() -> None:
        initiator, responder = Pair().connect()
        connection = ControlConnection(
            responder,
            on_open=lambda _connection: None,
            on_message=lambda here, number, asked: here.send(number, StatusReport(asked.message.session, 1, ())),  # type: ignore[union-attr]
            on_lost=lambda _connection, why: lost.append(why),
        )
        pipe = Pipe()
        pipe.protocol = connection
        connection.connection_made(pipe)
        assert connection.remote == parse_address("10.0.0.2"), "an IPv4-mapped address is IPv4"
        for number in range(5):
            initiator.send(number, Status(os.urandom(16)))
        connection.data_received(initiator.outgoing())
        assert pipe.writes == []
        await asyncio.sleep(0)
        assert len(pipe.writes) == 1
        pipe.stuck = UNREAD_ANSWERS + 1
        initiator.send(9, Status(os.urandom(16)))
        connection.data_received(initiator.outgoing())
        await asyncio.sleep(0)

    asyncio.run(run())
    assert len(lost) == 1
    assert isinstance(lost[0], ProtocolError)


def test_an_answer_after_a_fault_is_dropped_and_disturbs_nobody() -> None:
    """The partner broke the protocol while others wait for answers of the same batch: sending must not raise there."""
    _, responder = Pair().connect()
    lost: list[str] = []
    connection = ControlConnection(
        responder, on_open=lambda _: None, on_message=lambda *_: None, on_lost=lambda _, why: lost.append(str(why))
    )
    connection.data_received(b"\0\0\0\x01\xff")
    connection.send(1, StatusReport(os.urandom(16), 1, ()))
    assert responder.outgoing() == b""
    connection.connection_lost(None)
    assert len(lost) == 1
    assert "does not verify" in lost[0]
