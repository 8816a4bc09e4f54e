"""The client's half of the control connection, kept alive: hear OFFER once, say PEER whenever it changes or the connection was lost.

`dial` (client.py) brings a connection, through the chain or direct; everything after that is here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chainrelay.client.control import ControlStream
from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.limits import OFFER_TIMEOUT, RECONNECT_FIRST, RECONNECT_LAST
from chainrelay.wire.messages import Done, Offer, Peer

if TYPE_CHECKING:
    from chainrelay.client.session import Session


UNOFFERED: Final = (
    "Check that `chainrelay offer` listens at that address and port; if it does, whether it allows this client (--allow), or asks for a "
    "key (--server-id ID here): its log says so."
)
UNACCEPTED: Final = "Ask its administrator: --allow-exit permits other exits, --allow-id other clients; its log has the reason."


@dataclass(frozen=True, slots=True)
class Line:
    """One connection to the server and the TCP session that carries it."""

    stream: ControlStream
    session: Session

    async def close(self) -> None:
        """Close both."""
        self.stream.close()
        await self.session.close()


class Rendezvous:
    """What the client and the server tell each other about one session. `on_forgotten`: the server no longer knows it."""

    def __init__(self, server: str, dial: Callable[[], Awaitable[Line]]) -> None:
        self._server, self._dial = server, dial
        self._line: Line | None = None
        self._offer: Offer | None = None
        self._peer: Peer | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._senders: set[asyncio.Task[None]] = set()
        self.on_forgotten: Callable[[Refusal], None] = lambda _refusal: None
        self.finished = asyncio.Event()
        """Set when the server has said DONE."""

    async def start(self) -> Offer:
        """Connect and wait for the server's OFFER (M1). Raises Refusal."""
        self._line, self._offer = await self._connect()
        return self._offer

    async def tell(self, peer: Peer) -> None:
        """Say PEER (M7), have it confirmed, and watch the connection from now on: after a loss it is said again. Raises Refusal."""
        assert self._line is not None
        self._peer = peer
        self._check(await self._say(self._line, peer))
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def tell_again(self, peer: Peer) -> None:
        """The exit has moved. A failure shows in the watcher, which connects again and says it then."""
        self._peer = peer
        sender = asyncio.get_running_loop().create_task(self._send(peer))
        self._senders.add(sender)
        sender.add_done_callback(self._senders.discard)

    async def close(self) -> None:
        """Say DONE and close."""
        tasks = [*self._senders, *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._send(Done())
        if self._line is not None:
            await self._line.close()
            self._line = None

    # ----------------------------------------------------------------------------

    async def _connect(self) -> tuple[Line, Offer]:
        line = await self._dial()
        try:
            return line, await self._hear(line, "made no offer", UNOFFERED)
        except BaseException:
            await line.close()
            raise

    async def _say(self, line: Line, peer: Peer) -> Offer:
        try:
            await line.stream.send(peer)
        except OSError as fault:
            raise Refusal(Code.NEXT_HOP_UNREACHABLE, f"the control connection to {self._server} broke: {fault}") from fault
        return await self._hear(line, f"did not accept {peer.exit} as this client's exit", UNACCEPTED)

    async def _hear(self, line: Line, failed: str, mend: str) -> Offer:
        """The OFFER that is due; `failed` says in words what its absence means, `mend` what to do then."""
        try:
            async with asyncio.timeout(OFFER_TIMEOUT):
                message = await line.stream.receive()
        except TimeoutError as late:
            raise Refusal(Code.NEXT_HOP_TIMEOUT, f"{self._server} {failed} within {OFFER_TIMEOUT:g} s", mend=mend) from late
        except ProtocolError as fault:
            text = f"{self._server} does not speak the control protocol ({fault}); check its port, and whether it asks for a key"
            raise Refusal(Code.UNEXPECTED, text) from fault
        match message:
            case Offer():
                return message
            case Done():
                raise Refusal(Code.PORTS_EXHAUSTED, f"{self._server} serves as many clients as it has ports for; try again later")
            case Peer():
                raise Refusal(Code.UNEXPECTED, f"{self._server} talks like a client; is its address right?")
            case None:
                raise Refusal(Code.ACCESS_DENIED, f"{self._server} {failed} and closed", mend=mend)

    def _check(self, confirmed: Offer) -> None:
        if confirmed != self._offer:
            text = f"{self._server} has forgotten this session and offers {confirmed.server} now; open a new one"
            raise Refusal(Code.UNKNOWN_SESSION, text)

    async def _send(self, message: Peer | Done) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):
                await self._line.stream.send(message)

    async def _watch(self) -> None:
        """Read until the connection breaks, then connect again; after the server's DONE there is no need to."""
        while True:
            if self._line is None:
                try:
                    self._line = await self._return()
                except Refusal as refusal:
                    self.on_forgotten(refusal)
                    return
            line = self._line
            try:
                message = await line.stream.receive()
            except ProtocolError:
                message = None
            if isinstance(message, Done):
                self.finished.set()
            elif message is None:
                self._line = None
                await line.close()
                if self.finished.is_set():
                    return

    async def _return(self) -> Line:
        """A new connection on which the server has recognised the session. Raises Refusal when it never will."""
        assert self._peer is not None
        pause = RECONNECT_FIRST
        while True:
            try:
                line, _ = await self._connect()  # this OFFER is for a new client; PEER tells that we are none
                try:
                    confirmed = await self._say(line, self._peer)
                    self._check(confirmed)
                except BaseException:
                    await line.close()
                    raise
            except Refusal as refusal:
                if refusal.code is Code.UNKNOWN_SESSION:
                    raise
            else:
                return line
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECONNECT_LAST)
