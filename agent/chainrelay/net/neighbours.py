"""Connections that we open: to the next relay, and from the client to relay 1. One per neighbour carries all sessions.

Requests wait for the connection, are numbered on it (M6), and are asked again after a reconnect until their time is up: every
request of the protocol is idempotent. Who lost its time or its connection gets a Refusal with the reason; nothing is guessed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.errors import AuthenticationError, Code, ProtocolError, Refusal
from chainrelay.limits import ASK_TIMEOUT, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, RECONNECT_FIRST, RECONNECT_LAST
from chainrelay.net.connection import ControlConnection, Heard
from chainrelay.session.events import NextHop
from chainrelay.wire.authenticated import Authenticated, Claimed
from chainrelay.wire.bare import BareConnection
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Address
from chainrelay.wire.handshake import Initiator
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import Answer, Error, Extend, Request
from chainrelay.wire.primitives import Ephemeral

Reply = Authenticated[Answer] | Claimed[Answer] | Refusal
OnReply = Callable[[Reply, Address | None], None]

log = logging.getLogger(__name__)

SWEEP = 0.25  # how late a time-out may be noticed, in seconds


@dataclass(slots=True)
class _Waiting:
    message: Request
    deadline: float
    done: OnReply


class Neighbour:
    """The connection to one neighbour. Opened by the first request, re-opened by the next one after a loss.

    `keys` is asked at every handshake, so a rotated key is used from the next connection on. `bare`: without a key the
    connection is opened all the same, for EXTEND alone (docs/design.md §13).
    """

    def __init__(
        self,
        me: str,
        hop: NextHop,
        keys: Callable[[], PairKey | None],
        purpose: Purpose,
        *,
        source: Address | None = None,
        bare: bool = False,
    ) -> None:
        self.me, self.hop, self._keys, self._purpose, self._source = me, hop, keys, purpose, source
        self._bare = bare
        self.local: Address | None = None
        self.remote: Address | None = None
        self.on_lost: Callable[[], None] | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count(1)
        self._connection: ControlConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._pause = 0.0
        """Before the next attempt: doubled by every one that fails or brings no answer, so that we hammer at nobody."""
        self._answered = False
        self._broken = ""
        self._last_failure: Refusal | None = None
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether the next request leaves at once."""
        return self._connection is not None and self._connection.opened

    def ask(self, message: Request, done: OnReply, timeout: float = ASK_TIMEOUT) -> None:
        """Ask; `done(reply, remote address)` is called exactly once, with the answer or the Refusal, within `timeout` seconds."""
        if self._closed:
            done(self._closed_here(), None)
            return
        if self._bare and not isinstance(message, Extend) and self._keys() is None:
            done(self._no_key(), None)
            return
        number = next(self._numbers)
        self._waiting[number] = _Waiting(message, asyncio.get_running_loop().time() + timeout, done)
        if self._connection is not None and self._connection.opened:
            self._connection.send(number, message)
        else:
            self._connect()
        if self._sweeper is None:
            self._plan_sweep()

    async def request(self, message: Request, timeout: float = ASK_TIMEOUT) -> Authenticated[Answer]:
        """The same as a coroutine. An ERROR answer is raised as the Refusal that it carries."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def done(reply: Reply, _remote: Address | None) -> None:
            if not future.done():
                future.set_result(reply)

        self.ask(message, done, timeout)
        reply = await future
        if isinstance(reply, Refusal):
            raise reply
        if isinstance(reply, Claimed):
            raise self._no_key()
        if isinstance(reply.message, Error):
            raise Refusal(reply.message.code, reply.message.text, reply.message.hop or self.hop.peer)
        return reply

    async def connect(self, timeout: float = CONNECT_TIMEOUT) -> None:
        """Open the connection now, to learn `local` and `remote`. Raises Refusal."""
        if self._closed:
            raise self._closed_here()
        if self.connected:
            return
        self._connect()
        assert self._connecting is not None
        failure = self._last_failure
        done, _ = await asyncio.wait([self._connecting], timeout=timeout)
        if self._connection is None or not self._connection.opened:
            if self._last_failure is not failure and self._last_failure is not None:
                raise self._last_failure
            raise self._unreachable(f"no answer within {timeout:g} s" if not done else "the connection was lost at once", None)

    async def close(self) -> None:
        """Close the connection; whoever still waits is refused."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._fail_all(self._closed_here())

    def _closed_here(self) -> Refusal:
        return Refusal(Code.NEXT_HOP_UNREACHABLE, f"the connection to {self.hop.peer} was closed here")

    # connecting ------------------------------------------------------------

    def _connect(self) -> None:
        if self._connecting is None and not self._closed:
            self._connecting = asyncio.get_running_loop().create_task(self._dial())
            self._connecting.add_done_callback(self._dialled)

    def _dialled(self, _task: asyncio.Task[None]) -> None:
        self._connecting = None
        if self._waiting and not self.connected:
            self._connect()  # asked for while the last attempt failed

    async def _dial(self) -> None:
        if self._pause:
            await asyncio.sleep(self._pause)
        asked = list(self._waiting)
        try:
            await self._handshake()
        except (OSError, TimeoutError, ProtocolError, Refusal) as fault:
            self._back_off()
            refusal = self._last_failure = fault if isinstance(fault, Refusal) else self._refusal(fault)
            for number in asked or list(self._waiting):
                if (waiting := self._waiting.pop(number, None)) is not None:
                    waiting.done(refusal, None)
            return
        assert self._connection is not None
        self._answered = False
        for number, waiting in self._waiting.items():
            self._connection.send(number, waiting.message)

    async def _handshake(self) -> None:
        loop = asyncio.get_running_loop()
        key = self._keys()
        if key is None and not self._bare:
            raise self._no_key()
        settled: asyncio.Future[None] = loop.create_future()

        def opened(_connection: ControlConnection) -> None:
            if not settled.done():
                settled.set_result(None)

        def lost(connection: ControlConnection, fault: Exception | None) -> None:
            if not settled.done():
                # a reset says no more than a close: who fails is told nothing
                settled.set_exception(fault if isinstance(fault, ProtocolError) else AuthenticationError("it was closed"))
            self._lost(connection, fault)

        wire = BareConnection(asking=True) if key is None else Connection(self._initiator(key))
        connection = ControlConnection(wire, on_open=opened, on_message=self._received, on_lost=lost)
        at = self.hop.at
        source = (str(self._source), 0) if self._source is not None else None
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await loop.create_connection(lambda: connection, str(at.address), at.port, local_addr=source)
        if key is None:
            connection.opened = True  # nothing to wait for: who sits there is proved by what it answers
            settled.set_result(None)
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await settled
        except TimeoutError as late:
            connection.abort(late)
            raise
        self._connection, self.local, self.remote = connection, connection.local, connection.remote

    def _initiator(self, key: PairKey) -> Initiator:
        ephemeral = Ephemeral(X25519PrivateKey.generate())
        return Initiator(self.me, self.hop.peer, key, self._purpose, nonce=os.urandom(32), ephemeral=ephemeral)

    def _no_key(self) -> Refusal:
        return Refusal(Code.NEXT_HOP_AUTHENTICATION, f"no key for {self.hop.peer} in peers.toml; add one there")

    def _refusal(self, fault: Exception) -> Refusal:
        """The reason in words: a neighbour that does not accept us closes in silence, so its log is where to look."""
        who = f"{self.hop.peer} at {self.hop.at}"
        if isinstance(fault, ProtocolError):
            text = f"{who} ended the handshake ({fault}): check that both sides have the same key and ids; its log has the reason"
            return Refusal(Code.NEXT_HOP_AUTHENTICATION, text)
        if isinstance(fault, TimeoutError):
            return Refusal(Code.NEXT_HOP_TIMEOUT, f"{who} does not answer; is a firewall in the way?")
        number = fault.errno if isinstance(fault, OSError) else None  # asyncio's own text of it says no reason
        return self._unreachable(os.strerror(number) if number else str(fault), fault)

    def _unreachable(self, why: str, cause: Exception | None) -> Refusal:
        advice = "is its agent running, and is that where it listens?"
        refusal = Refusal(Code.NEXT_HOP_UNREACHABLE, f"{self.hop.peer} at {self.hop.at}: {why}; {advice}")
        refusal.__cause__ = cause
        return refusal

    # messages --------------------------------------------------------------

    def _received(self, connection: ControlConnection, number: int, message: Heard) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return  # asked too long ago: whoever asked has been told so
        if not isinstance(message.message, Answer):
            self._waiting[number] = waiting
            connection.abort(ProtocolError("a request where an answer is due", Code.UNEXPECTED))
            return
        self._answered, self._pause, self._broken = True, 0.0, ""
        waiting.done(message, connection.remote)  # type: ignore[arg-type]  # narrowed by the isinstance above

    def _lost(self, connection: ControlConnection, fault: Exception | None) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        if not self._answered:
            self._back_off()
        if isinstance(fault, ProtocolError):
            self._broken = str(fault)
            log.warning("the connection to %s at %s was cut: %s", self.hop.peer, self.hop.at, fault)
        if self.on_lost is not None:
            self.on_lost()
        if isinstance(connection.wire, BareConnection) and not self._answered:
            # who does not accept what is inside of it cuts in silence; asking it the same again would only be cut again
            self._fail_all(self._refusal(AuthenticationError("it was closed")))
        if self._waiting:
            self._connect()

    def _back_off(self) -> None:
        self._pause = min(max(self._pause * 2, RECONNECT_FIRST), RECONNECT_LAST)

    def _plan_sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        late = [number for number, waiting in self._waiting.items() if waiting.deadline <= now]
        why = f"its answers break the protocol ({self._broken})" if self._broken else "is it overloaded, or a relay behind it down?"
        for number in late:
            text = f"{self.hop.peer} at {self.hop.at} did not answer in time; {why}"
            self._waiting.pop(number).done(Refusal(Code.NEXT_HOP_TIMEOUT, text), None)
        if self._waiting and self._sweeper is None:
            self._plan_sweep()

    def _fail_all(self, refusal: Refusal) -> None:
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.done(refusal, None)
