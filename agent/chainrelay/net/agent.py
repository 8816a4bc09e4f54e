"""The shell around the engine: takes events to it, carries its effects out. All of the agent's I/O meets here, none of its rules.

    listener ──Requested──▶            ──Reply──▶ listener
    ends ──────Requested──▶            ──Reply──▶ ends        (the iterative way: clients inside EXTEND)
    neighbours ─Answered──▶   engine   ──Ask────▶ neighbours
    locator ────Located───▶            ──Locate─▶ locator
    datapath ───Applied───▶            ──Apply──▶ datapath
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import assert_never

from chainrelay.config.agent import AgentConfig
from chainrelay.datapath.backend import Backend
from chainrelay.datapath.mapping import LiveFlow, Outcome
from chainrelay.errors import Code, DatapathError, Refusal
from chainrelay.limits import ASK_TIMEOUT, ASK_TIMEOUT_HOPS, ASK_TIMEOUT_PER_HOP, RULES_CHECK, RULES_CHECK_SHARE
from chainrelay.net.connection import Heard
from chainrelay.net.datapath import DatapathQueue, Journal
from chainrelay.net.ends import Ends
from chainrelay.net.listener import Listener
from chainrelay.net.locate import Found, Locator
from chainrelay.net.neighbours import Neighbour, Reply
from chainrelay.net.notes import NoteLog
from chainrelay.session.engine import Engine
from chainrelay.session.events import (
    Answered,
    Applied,
    Apply,
    Ask,
    AskFailed,
    Effect,
    Event,
    Forget,
    Link,
    Locate,
    Located,
    NextHop,
    Note,
    Remember,
    Requested,
    RulesLost,
    Tick,
)
from chainrelay.session.events import Reply as ReplyEffect
from chainrelay.session.record import Record
from chainrelay.session.tables import PeerTable
from chainrelay.wire.authenticated import Claimed
from chainrelay.wire.endpoint import Address
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import Answer, Error, Extend, Open, Request, Way
from chainrelay.wire.sealed import SealKeys

log = logging.getLogger(__name__)


class Relay:
    """A running agent, made inside its event loop. `start` binds, `stop` leaves the sessions to their leases."""

    def __init__(self, config: AgentConfig, engine: Engine, backend: Backend, journal: Journal | None = None) -> None:
        self.config, self.engine, self._backend = config, engine, backend
        self._stopping = False
        self._watcher: asyncio.Task[None] | None = None
        self._now = asyncio.get_running_loop().time
        self._events: deque[Event] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._neighbours: dict[NextHop, Neighbour] = {}
        self._locator = Locator()
        self._notes = NoteLog()
        self.datapath = DatapathQueue(backend, self._applied, journal)
        self.listener = Listener(
            config.id, self._find_key, self._purpose_of, self._requested, self._link_closed,
            handshakes_per_second=config.handshakes_per_second,
        )
        self.ends = Ends(config.id, self._peers, self.listener, engine.holds, engine.sealed_way, self._requested)

    async def start(self) -> None:
        """Listen, and look after the kernel's rules. Raises ConfigError when an endpoint can't be bound."""
        await self.listener.listen(self.config.listen)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def adopt(self, records: Iterable[Record], flows: Iterable[LiveFlow]) -> None:
        """Take over an earlier run's sessions. Before `start`."""
        self._perform(self.engine.adopt(records, flows, self._now()))
        self._set_timer()

    async def stop(self) -> None:
        """Close connections; what the kernel was told stays until its lease ends.

        From here on the engine hears nothing: that its neighbours' connections close is no reason to end what the next run adopts.
        """
        self._stopping = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.listener.close()
        self.ends.close()
        for neighbour in self._neighbours.values():
            await neighbour.close()
        await self.datapath.drain()
        if self._timer is not None:
            self._timer.cancel()
        self._locator.close()
        self.datapath.close()

    def reconfigure(self, config: AgentConfig) -> None:
        """Take over new tables; sessions stay, except those that the new tables no longer allow."""
        gone = self.config.policy.peers.ids() - config.policy.peers.ids()
        self.config = config
        self._perform(self.engine.reconfigure(config.policy, self._now()))
        for principal in gone:
            self.listener.cut(principal)
            self.ends.cut(principal)

    def drain(self) -> None:
        """Take no new sessions until the next start; those that stand go on."""
        self._perform(self.engine.drain(self._now()))

    def end_all(self) -> None:
        """Drain, and end every session, here and further on; the kernel has let go when `engine.sessions()` is empty."""
        self._perform(self.engine.teardown(self._now()))
        self._set_timer()

    # events in -------------------------------------------------------------

    def _requested(self, link: Link, number: int, message: Heard, seal: SealKeys | None = None) -> None:
        if isinstance(message.message, Extend) and self._ends_here(link, message.message):
            self.ends.receive(link, number, message.message)
        elif isinstance(message.message, Request):
            assert not isinstance(message, Claimed), "bare connections carry nothing but EXTEND"
            self._take(Requested(link, number, message, seal))  # type: ignore[arg-type]  # narrowed by the isinstance above
        else:
            text = "only requests may be sent to a relay"
            self.listener.send(link.number, number, Error(Code.UNEXPECTED, self.config.id, text))

    def _ends_here(self, link: Link, extend: Extend) -> bool:
        """Whether what an EXTEND carries is for this relay itself, and not to be passed on.

        A client's leads on, unless it names us (a sealed session's key, hop 1); a neighbour's ends here, unless its session is recursive.
        """
        if link.through is not None:
            return False
        if link.principal and not self._peers().is_relay(link.principal):
            return extend.relay == self.config.id
        return extend.relay == self.config.id or self.engine.sealed_way(extend.session, link.principal) is not Way.RECURSIVE

    def _link_closed(self, link: Link) -> None:
        """Sessions outlive their link; nothing to tell the engine."""
        self.ends.carrier_lost(link.number)
        log.debug("link %d closed", link.number)

    def _answered(self, token: int, reply: Reply, remote: Address | None) -> None:
        if isinstance(reply, Refusal) or remote is None:
            why = reply if isinstance(reply, Refusal) else Refusal(Code.NEXT_HOP_UNREACHABLE, "connection lost")
            self._take(AskFailed(token, why))
        else:
            self._take(Answered(token, remote, reply))

    def _located(self, token: int, found: Found) -> None:
        self._take(Located(token, *found))

    def _applied(self, token: int, outcome: Outcome) -> None:
        self._take(Applied(token, outcome))

    def _tick(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self._take(Tick())

    def _take(self, event: Event) -> None:
        """One event after the other: an effect that is answered at once must not re-enter the engine."""
        if self._stopping:
            return
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._handle(self._events.popleft())
        finally:
            self._busy = False
        self._set_timer()

    def _handle(self, event: Event) -> None:
        try:
            effects = self.engine.handle(event, self._now())
        except Exception:
            # A fault of ours in one session must not end everybody else's; it is loud in the log and answered as INTERNAL.
            log.exception("the engine failed on %r", event)
            if isinstance(event, Requested):
                error = Error(Code.INTERNAL, self.config.id, "internal error, see the relay's log")
                self._reply(event.link.number, event.request, error)
            return
        self._perform(effects)

    # effects out -----------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case ReplyEffect(link, request, message):
                    self._reply(link, request, message)
                case Apply(token, operation):
                    self.datapath.submit(token, operation)
                case Locate(token, host):
                    self._locator.locate(host, partial(self._located, token))
                case Ask(token, hop, message, place):
                    self._neighbour(hop).ask(message, partial(self._answered, token), ask_timeout(message, place))
                case Note():
                    self._notes.write(effect, self._now())
                case Remember() | Forget():
                    self.datapath.remember(effect)
                case _:
                    assert_never(effect)

    def _reply(self, link: int, request: int, message: Answer) -> None:
        if not self.ends.reply(link, request, message):
            self.listener.send(link, request, message)

    def _neighbour(self, hop: NextHop) -> Neighbour:
        neighbour = self._neighbours.get(hop)
        if neighbour is None:
            keys = partial(self._current_key, hop.peer)
            neighbour = self._neighbours[hop] = Neighbour(self.config.id, hop, keys, Purpose.RELAY_HOP, bare=True)
        return neighbour

    def _set_timer(self) -> None:
        due = self.engine.next_deadline()
        if due is None or due >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    async def _watch(self) -> None:
        """Notice when somebody has removed our rules (`nft flush ruleset`), and put them and the sessions back. Once the leases have ended
        of flows that nobody knows any more, clear away what they leave behind."""
        pause = RULES_CHECK
        unknown = self.engine.unknown_until
        while True:
            await asyncio.sleep(pause)
            try:
                if unknown and self._now() > unknown:
                    unknown = 0.0
                    await self.datapath.call(self._backend.setup)
                intact, took = await self.datapath.call(self._look)
                pause = max(RULES_CHECK, took / RULES_CHECK_SHARE)
                if intact:
                    continue
                log.warning("our rules are gone (was the whole ruleset flushed?); putting them back with all sessions")
                self._take(RulesLost())
                await self.datapath.drain()
                await self.datapath.call(self._backend.setup)
                self.engine.can_seal(await self.datapath.call(self._backend.seals))
            except DatapathError as fault:
                log.error("the kernel's rules can't be looked after: %s", fault)

    def _look(self) -> tuple[bool, float]:
        """Whether our rules stand, and how long it took to see; in the datapath's thread."""
        began = self._now()
        return self._backend.intact(), self._now() - began

    # what the tables say ---------------------------------------------------

    def _peers(self) -> PeerTable:
        return self.config.policy.peers

    def _find_key(self, peer: str, kid: str) -> PairKey | None:
        return self.config.policy.peers.find_key(peer, kid)

    def _current_key(self, peer: str) -> PairKey | None:
        return self.config.policy.peers.current_key(peer)

    def _purpose_of(self, peer: str) -> Purpose:
        return Purpose.RELAY_HOP if self.config.policy.peers.is_relay(peer) else Purpose.CLIENT_HOP


def ask_timeout(message: Request, place: int | None = None) -> float:
    """Seconds that the next relay gets for its answer. How far on this relay is, `place` or OPEN tells (its path includes us)."""
    if place is None:
        place = len(message.path) if isinstance(message, Open) else ASK_TIMEOUT_HOPS
    return ASK_TIMEOUT + ASK_TIMEOUT_PER_HOP * max(0, ASK_TIMEOUT_HOPS - place)
