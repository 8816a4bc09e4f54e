"""A leg: what one session has between the client and the server, relayed or direct, and its lease.

`RelayedLeg` speaks OPEN, BIND, RENEW, STATUS and CLOSE with relay 1 over a link that many legs share. It renews by itself; when
a relay has forgotten the session it opens it again under the same id and says so when endpoints moved; while nobody answers it
tells that as well. `DirectLeg` has the same face where no relay is needed (M2). Neither has a socket, reads tables or knows the
client-server control connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from chainrelay.client import direct
from chainrelay.client.trouble import Trouble, Watch, now
from chainrelay.errors import Code, Refusal
from chainrelay.limits import (
    ASK_TIMEOUT,
    ASK_TIMEOUT_PER_HOP,
    LEASE_SHORTEST,
    MAX_HOPS,
    RECONNECT_LAST,
    RENEW_FRACTION,
    RENEW_RETRY,
)
from chainrelay.wire import messages
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import Answer, Bind, Bound, Close, Closed, HopCounters, Open, Opened, Renew, Renewed, Status, StatusReport
from chainrelay.wire.sealed import SEALED_OVERHEAD

PATIENCE = ASK_TIMEOUT + ASK_TIMEOUT_PER_HOP * MAX_HOPS
"""Seconds for an answer of the whole chain: a relay that waits for the next one speaks up before this ends."""

FORGOTTEN = frozenset({Code.UNKNOWN_SESSION, Code.LEASE_ENDED})
"""The session is gone at some relay; opening it again is right."""

PASSING = frozenset({
    Code.NEXT_HOP_UNREACHABLE, Code.NEXT_HOP_TIMEOUT, Code.NEXT_HOP_AUTHENTICATION, Code.NO_ROUTE, Code.NAME_NOT_RESOLVED,
    Code.SESSION_ID_TAKEN, Code.ENDPOINT_IN_USE, Code.WRONG_STATE, Code.PORTS_EXHAUSTED, Code.SESSION_LIMIT, Code.RATE_LIMIT,
    Code.DATAPATH_FAILED, Code.DATAPATH_FULL, Code.DRAINING, Code.INTERNAL,
})  # fmt: skip
"""May be better in a moment: a standing session tries again. Anything else ends it."""

A = TypeVar("A", Opened, Bound, Renewed, Closed, StatusReport)


class Told(Protocol):
    """An answer, from whomever."""

    @property
    def message(self) -> Answer:
        """What it says."""


class Asker(Protocol):
    """What a leg needs: the link to relay 1, which asks further (net/neighbours.py: Neighbour), or the client's loop (walk.py)."""

    async def request(self, message: messages.Request, timeout: float = ...) -> Told:
        """Ask the chain; raises Refusal."""


class Rekeying(Protocol):
    """What a sealed session's leg needs besides: the same loop, or recursive.py."""

    def due_in(self) -> float:
        """Seconds until another key is wanted."""

    async def rekey(self) -> None:
        """Make another key with the last relay. Raises Refusal; the one before is in force then."""


class Leg(Protocol):
    """The common face of both kinds."""

    @property
    def id(self) -> bytes:
        """The session's id: 16 random bytes, the same in every relay's log."""

    @property
    def local(self) -> Endpoint:
        """P1."""

    @property
    def entry(self) -> Endpoint:
        """P2: where the client sends."""

    @property
    def exit(self) -> Endpoint:
        """P5: what the server sees and answers to."""

    @property
    def mtu(self) -> int:
        """Largest datagram payload in bytes."""

    @property
    def path(self) -> tuple[str, ...]:
        """The relays passed, the first one first; without authentication of each (recursive way) a claim."""

    async def bind(self, server: Target) -> None:
        """Name the server's endpoint of a reserved leg."""

    async def counters(self) -> tuple[HopCounters, ...]:
        """Per relay, nearest first."""

    async def close(self) -> tuple[HopCounters, ...]:
        """End it at every hop; the last counters."""

    @property
    def lingers(self) -> float:
        """After `close`: seconds until the last lease ends of a chain that did not hear of it; 0 when nothing stands."""


@dataclass(slots=True)
class DirectLeg:
    """No relay between: the client sends to P6 itself and the server sees P1."""

    lingers = 0.0
    id: bytes
    local: Endpoint
    entry: Endpoint
    """P6; port 0 until `bind` of a reserved one."""
    mtu: int

    @property
    def exit(self) -> Endpoint:
        """P1, there being no relay."""
        return self.local

    @property
    def path(self) -> tuple[str, ...]:
        """Nobody."""
        return ()

    async def bind(self, server: Target) -> None:
        """Name the server's endpoint. Raises Refusal."""
        found = await direct.locate(server.host)
        if found.address.version != self.local.family:
            raise Refusal(Code.MIXED_FAMILIES, f"{server} is not of the address family of {self.local}")
        self.entry, self.mtu = Endpoint(found.address, server.port), direct.payload(found)

    async def counters(self) -> tuple[HopCounters, ...]:
        """No relay counts."""
        return ()

    async def close(self) -> tuple[HopCounters, ...]:
        """Nothing stands anywhere."""
        return ()


class RelayedLeg:
    """A session at relay 1 and beyond, from OPEN to CLOSE.

    `check` judges every OPENED (M16) and raises Refusal. `on_moved` is told when opening again gave other endpoints,
    `on_ended` when the session is over for good, `on_trouble` when it can't be renewed, when its leases have ended on that, and, with
    None, when all is well again (after `on_moved`). What these raise goes to the loop's exception handler. A TCP leg is not opened
    again: its connection would not survive it.
    `rekeying` is a sealed session's; the first key is made by whoever answers OPEN.
    """

    def __init__(
        self,
        link: Asker,
        wanted: Open,
        check: Callable[[Opened], None],
        *,
        rekeying: Rekeying | None = None,
        on_moved: Callable[[], None] = lambda: None,
        on_ended: Callable[[Refusal], None] = lambda _refusal: None,
        on_trouble: Callable[[Trouble | None], None] = lambda _trouble: None,
    ) -> None:
        self._link, self._wanted, self._check, self._rekeying = link, wanted, check, rekeying
        self.on_moved, self.on_ended, self.on_trouble = on_moved, on_ended, on_trouble
        self._opened: Opened | None = None
        self._lease = wanted.lease
        self._watch = Watch(lambda trouble: _safely(lambda: self.on_trouble(trouble)))
        self._unheard = False
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.later: Callable[[Coroutine[Any, Any, None]], None] | None = None
        """Who goes on with what `close` has left undone."""

    @property
    def id(self) -> bytes:
        """The session's id."""
        return self._wanted.session

    @property
    def local(self) -> Endpoint:
        """P1."""
        return self._wanted.partner

    @property
    def entry(self) -> Endpoint:
        """P2."""
        return self._answer.client_side

    @property
    def exit(self) -> Endpoint:
        """P5."""
        return self._answer.exit

    @property
    def mtu(self) -> int:
        """Largest datagram payload in bytes; what sealing takes is off already."""
        return max(0, self._answer.mtu - (SEALED_OVERHEAD if self._wanted.sealed else 0))

    @property
    def path(self) -> tuple[str, ...]:
        """The relays passed."""
        return self._answer.path

    @property
    def _answer(self) -> Opened:
        if self._opened is None:
            raise Refusal(Code.WRONG_STATE, "the session is not open")
        return self._opened

    @property
    def lingers(self) -> float:
        """Seconds that a session may still stand whose CLOSE nobody heard."""
        return self._watch.left() if self._unheard else 0.0

    async def open(self) -> None:
        """OPEN, and renew from now on. Raises Refusal; nothing is left then."""
        await self._open()
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def bind(self, server: Target) -> None:
        """BIND: the rules exist at every hop when this returns. Raises Refusal."""
        bound = await self._ask(Bind(self.id, server), Bound)
        self._wanted = replace(self._wanted, server=server)
        self._opened = replace(self._answer, mtu=bound.mtu)

    async def counters(self) -> tuple[HopCounters, ...]:
        """STATUS: per relay, nearest first. Raises Refusal."""
        return (await self._ask(Status(self.id), StatusReport)).counters

    def look_now(self) -> None:
        """Renew without waiting for the third of the lease: the link was lost, a relay may have restarted."""
        self._wake.set()

    async def close(self) -> tuple[HopCounters, ...]:
        """CLOSE; the last counters. They are empty when the chain does not answer: then CLOSE is said again as long as its leases
        last, where there is somebody to do so (`later`)."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        self._watch.stop()
        try:
            counters = (await self._ask(Close(self.id), Closed, ASK_TIMEOUT)).counters
            self._unheard = len(counters) < len(self.path)  # a relay could not reach the next one
            return counters
        except Refusal as refusal:
            self._unheard = refusal.code in PASSING
            if self._unheard and self.later is not None:
                self.later(self._close_later())
            return ()

    # ----------------------------------------------------------------------------

    async def _ask(self, message: messages.Request, kind: type[A], timeout: float = PATIENCE) -> A:
        answer = (await self._link.request(message, timeout)).message
        if not isinstance(answer, kind) or answer.session != self.id:
            raise Refusal(Code.UNEXPECTED, f"relay 1 answered {type(message).__name__} with something else; see its log")
        return answer

    async def _open(self) -> None:
        asked = now()
        try:
            opened = await self._ask(self._wanted, Opened)
            self._check(opened)
        except (Refusal, asyncio.CancelledError) as fault:
            if not isinstance(fault, Refusal) or fault.code in (Code.NEXT_HOP_TIMEOUT, Code.ANSWER_DENIED, Code.UNEXPECTED):
                await asyncio.shield(self._forget())  # the chain may have it although we don't
            raise
        self._opened, self._lease = opened, opened.lease
        self._watch.stands(opened.lease, asked)

    async def _close_later(self) -> None:
        """A relay was away: until it is back, or has let go of the session by itself."""
        pause = RENEW_RETRY
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._lease):
                while True:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, RECONNECT_LAST)
                    try:
                        await self._ask(Close(self.id), Closed, ASK_TIMEOUT)
                    except Refusal as refusal:
                        if refusal.code in PASSING:
                            continue
                    return

    async def _forget(self) -> None:
        with contextlib.suppress(Refusal):
            await self._link.request(Close(self.id), ASK_TIMEOUT)

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(self._lease, LEASE_SHORTEST) * RENEW_FRACTION, self._key_due_in())):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._renew()
            except Refusal as refusal:
                _safely(partial(self.on_ended, refusal))
                return
            finally:
                self._watch.stop()
            self._watch.over()

    async def _renew(self) -> None:
        """Renew or open again, and rekey when it is time to, as often as it takes. Raises Refusal when nothing will ever work."""
        pause = RENEW_RETRY
        keyless = False
        while True:
            self._watch.asking()
            try:
                if keyless:
                    await self._rekey()
                    keyless = False
                asked = now()
                self._lease = (await self._ask(Renew(self.id, self._wanted.lease), Renewed)).lease
                self._watch.stands(self._lease, asked)
                if not self._key_due_in():
                    await self._rekey()
                return
            except Refusal as refusal:
                if refusal.code is Code.SEAL_KEY_MISSING and self._rekeying is not None:
                    keyless = True
                    if pause == RENEW_RETRY:  # at once, but no more than once
                        pause *= 2
                        continue
                elif refusal.code in FORGOTTEN and self._wanted.protocol is messages.Protocol.UDP:
                    if await self._open_again():
                        return
                elif refusal.code in PASSING:
                    self._watch.failed(refusal)
                else:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECONNECT_LAST)

    def _key_due_in(self) -> float:
        return math.inf if self._rekeying is None else self._rekeying.due_in()

    async def _rekey(self) -> None:
        """Another key. Raises Refusal: of what an end-to-end connection can suffer only what no other attempt will mend."""
        if self._rekeying is None:
            return
        try:
            await self._rekeying.rekey()
        except Refusal as refusal:
            if refusal.code is Code.UNEXPECTED:  # the connection broke on its way; the next one is another
                raise Refusal(Code.NEXT_HOP_UNREACHABLE, refusal.text, refusal.hop) from refusal
            if refusal.code is Code.ANSWER_DENIED:  # somebody lies about a session that stands
                await self._forget()
            raise

    async def _open_again(self) -> bool:
        await self._forget()  # a relay before the forgetful one still has its half, and would answer OPEN from memory
        before = self._answer
        try:
            await self._open()
        except Refusal as refusal:
            if refusal.code in PASSING:
                self._watch.gone()
                self._watch.failed(refusal)
                return False
            raise
        if (self.entry, self.exit) != (before.client_side, before.exit):
            _safely(self.on_moved)
        return True


def _safely(call: Callable[[], None]) -> None:
    """A callback of our user's, who is told of his own mistakes: a session is kept whatever becomes of it."""
    try:
        call()
    except Exception as fault:  # noqa: BLE001 - whatever somebody else's code may raise
        told = {"message": "a session's callback failed; the session is kept", "exception": fault}
        asyncio.get_running_loop().call_exception_handler(told)
