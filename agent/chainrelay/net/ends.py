"""The far end of end-to-end connections: clients that reach this relay inside EXTEND (docs/design.md §13, §15).

Each is a wire/connection.py whose octets come in EXTEND from the relay before this one, or at hop 1 from the client itself, and go
back in EXTENDED. What a client says on it reaches the engine as on any link; the link's `through` says by whom it came. The data keys
of a connection go to the engine with REKEY, and to nobody else. Handshakes are capped, in all and per
neighbour. On a bare link on which no client has authenticated yet, whatever is wrong cuts it in silence: a stranger may sit there.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chainrelay.errors import AuthenticationError, Code, ProtocolError, Refusal
from chainrelay.limits import END_TO_END_HALF_OPEN, END_TO_END_PER_LINK, END_TO_END_PER_SECOND, HANDSHAKE_TIMEOUT
from chainrelay.net.connection import Heard
from chainrelay.net.listener import Listener, RateByPrefix
from chainrelay.session.events import Link, Through
from chainrelay.session.tables import Kind, PeerTable
from chainrelay.wire.connection import Connection
from chainrelay.wire.handshake import Responder
from chainrelay.wire.keys import Context, Purpose
from chainrelay.wire.messages import Answer, Assigned, Closed, Error, Extend, Extended, Rekey, Request, Way
from chainrelay.wire.sealed import SealKeys
from chainrelay.wire.states import State

log = logging.getLogger(__name__)

SWEEP = 30.0  # seconds between looks for connections whose session has ended here

Key = tuple[int, bytes, int]
"""The link that carries it, the session, the client's number for it."""


@dataclass(slots=True)
class End:
    """One end-to-end connection."""

    key: Key
    carrier: Link
    through: Through
    wire: Connection
    link: Link | None = None
    """As the engine sees the client; None before it has authenticated."""
    asked: tuple[int, int] | None = None
    """Request numbers of what waits for the engine: the client's, and the EXTEND's around it."""


class OnRequest(Protocol):
    """Where a client's request goes."""

    def __call__(self, link: Link, number: int, message: Heard, seal: SealKeys | None) -> None:
        """`seal`: the connection's data keys, with REKEY."""


class Ends:
    """All of one agent's. The engine's word on sessions: `holds(session, principal)` whether one stands, `sealed_way(session,
    principal)` in which way a sealed one was opened."""

    def __init__(
        self,
        me: str,
        peers: Callable[[], PeerTable],
        listener: Listener,
        holds: Callable[[bytes, str], bool],
        sealed_way: Callable[[bytes, str], Way | None],
        on_request: OnRequest,
    ) -> None:
        self._me, self._peers, self._listener = me, peers, listener
        self._holds, self._sealed_way, self._on_request = holds, sealed_way, on_request
        self._ends: dict[Key, End] = {}
        self._by_link: dict[int, End] = {}
        self._latest: dict[tuple[int, bytes, str], End] = {}
        """By carrier, session and client: the one that authenticated last."""
        self._proved: set[int] = set()
        """Bare links on which a client has authenticated."""
        self._half_open: Counter[int] = Counter()
        self._hellos = RateByPrefix(END_TO_END_PER_SECOND)
        self._young: deque[tuple[float, End]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._swept = 0.0

    def receive(self, carrier: Link, number: int, extend: Extend) -> None:
        """EXTEND for us. Answered once, now or when the engine has answered what is inside, or the carrier is cut."""
        try:
            self._receive(carrier, number, extend)
        except (Refusal, ProtocolError) as why:
            if not carrier.principal and carrier.number not in self._proved:
                self._listener.cut_link(carrier.number, why)
                return
            log.warning("end to end by %s, session %s: %s", carrier.principal or carrier.remote, extend.session.hex(), why)
            refusal = why if isinstance(why, Refusal) else self._refusal(why)
            self._listener.send(carrier.number, number, Error(refusal.code, self._me, refusal.text))

    def reply(self, link: int, number: int, message: Answer) -> bool:
        """The engine's answer, if `link` is one of ours. Dropped when the client has another request by now."""
        end = self._by_link.get(link)
        if end is None:
            return False
        if end.asked is not None and end.asked[0] == number:
            outer, end.asked = end.asked[1], None
            end.wire.send(number, message)
            self._answer(end, outer, message.client_side if isinstance(message, Assigned) else None)
            if isinstance(message, Closed):
                self._drop(end)
        return True

    def carrier_lost(self, link: int) -> None:
        """The relay before us is not connected any more; sessions stay."""
        self._proved.discard(link)
        for end in [each for each in self._ends.values() if each.carrier.number == link]:
            self._drop(end)

    def cut(self, principal: str) -> None:
        """Close the connections of a client whose key was revoked, and those that a neighbour carried."""
        for end in list(self._ends.values()):
            if principal in (end.carrier.principal, end.link.principal if end.link else ""):
                self._drop(end)

    def close(self) -> None:
        """No more timers."""
        if self._timer is not None:
            self._timer.cancel()

    # ------------------------------------------------------------------------------

    def _receive(self, carrier: Link, number: int, extend: Extend) -> None:
        key = carrier.number, extend.session, extend.connection
        through = self._through(carrier, extend)
        end = self._ends.get(key) or self._begin(key, carrier, extend, through)
        if through != end.through:
            raise Refusal(Code.UNEXPECTED, "hop, previous relay and partner stay the same within one end-to-end connection")
        if end.asked is not None:
            raise Refusal(Code.UNEXPECTED, "the request before this one is not answered yet")
        try:
            messages = end.wire.receive(extend.octets)
            if len(messages) > 1:
                raise ProtocolError("more than one request in one EXTEND", Code.UNEXPECTED)
        except ProtocolError as fault:
            self._drop(end)
            if end.link is None and not isinstance(fault, AuthenticationError):
                text = "there is no such end-to-end connection of this session here (any more); begin another one, with M1"
                raise Refusal(Code.UNEXPECTED, text) from fault
            raise
        if end.link is None and end.wire.state is State.OPEN:
            self._established(end)
        if not messages:
            self._answer(end, number, None)
            return
        assert end.link is not None
        inner, message = messages[0]
        request = message.message
        if not isinstance(request, Request) or request.session != extend.session:
            # one session's data key in another one would begin its counters anew
            text = "an end-to-end connection carries requests, about the session of its handshake alone"
            end.wire.send(inner, Error(Code.UNEXPECTED, self._me, text))
            self._answer(end, number, None)
            return
        end.asked = inner, number
        seal = end.wire.seal_keys(request.key_id) if isinstance(request, Rekey) else None
        self._on_request(end.link, inner, message, seal)

    def _begin(self, key: Key, carrier: Link, extend: Extend, through: Through) -> End:
        if extend.relay != self._me:
            raise Refusal(Code.NO_ROUTE, f"this relay is {self._me}, not {extend.relay}")
        if self._half_open[carrier.number] >= END_TO_END_PER_LINK or self._half_open.total() >= END_TO_END_HALF_OPEN:
            raise Refusal(Code.RATE_LIMIT, "too many end-to-end handshakes are under way here; try again in a second")
        now = asyncio.get_running_loop().time()
        if not self._hellos.allow(f"{carrier.number} {extend.session.hex()}", now):
            raise Refusal(Code.RATE_LIMIT, "too many end-to-end handshakes for one session; try again in a second")
        place = Context.recursive if through.way is Way.RECURSIVE else Context.iterative
        responder = Responder(
            self._me,
            find_key=self._peers().find_key,
            expected_purpose=self._purpose_of,
            context=place(through.hop, extend.session, through.previous),
            nonce=os.urandom(32),
            ephemeral=self._listener.keys.take,
        )
        end = self._ends[key] = End(key, carrier, through, Connection(responder))
        self._half_open[carrier.number] += 1
        self._young.append((now + HANDSHAKE_TIMEOUT, end))
        self._plan()
        return end

    def _through(self, carrier: Link, extend: Extend) -> Through:
        """What the relay before us says, or the client itself. Raises Refusal unless it is who it says, or nobody here knows better."""
        way = self._sealed_way(extend.session, carrier.principal) if carrier.principal else None
        if carrier.principal and not self._peers().is_relay(carrier.principal):
            if way is None:
                raise Refusal(Code.UNKNOWN_SESSION, "no sealed session of yours here: EXTEND to relay 1 itself is for its key alone")
            if (extend.hop, extend.previous) != (1, ""):
                raise Refusal(Code.UNEXPECTED, f"on the client's own connection {self._me} is hop 1, after nobody")
            return Through("", True, 1, extend.partner, way)
        if extend.hop == 1 or not extend.previous:
            raise Refusal(Code.UNEXPECTED, "what a relay passes on is for hop 2 or a later one, and names the relay before it")
        if carrier.principal not in ("", extend.previous):
            raise Refusal(Code.UNEXPECTED, f"{carrier.principal} passed on what names {extend.previous} as the relay before this one")
        if not carrier.principal and self._peers().current_key(extend.previous) is not None:
            self._proved.discard(carrier.number)  # cut it: with a key of its own by now it comes back with that
            text = f"{extend.previous} has a key here, so it must use it; the connection was opened without one"
            raise Refusal(Code.NEXT_HOP_AUTHENTICATION, text)
        return Through(extend.previous, bool(carrier.principal), extend.hop, extend.partner, way or Way.ITERATIVE)

    def _purpose_of(self, peer: str) -> Purpose | None:
        row = self._peers().get(peer)
        return Purpose.END_TO_END if row is not None and row.kind is Kind.CLIENT else None

    def _established(self, end: End) -> None:
        """The client has authenticated. An earlier connection of its for the same session is of no more use."""
        carrier, session, _ = end.key
        self._settle(end)
        end.link = Link(next(self._listener.numbers), end.wire.peer, end.carrier.remote, end.carrier.local, end.through)
        client = carrier, session, end.link.principal
        if (earlier := self._latest.get(client)) is not None:
            self._drop(earlier)
        self._latest[client] = end
        self._by_link[end.link.number] = end
        if not end.carrier.principal:
            self._proved.add(carrier)
            self._listener.prove(carrier)

    def _answer(self, end: End, number: int, client_side: object) -> None:
        octets = end.wire.outgoing()
        self._listener.send(end.carrier.number, number, Extended(end.key[1], client_side, octets))  # type: ignore[arg-type]

    def _refusal(self, fault: ProtocolError) -> Refusal:
        """In words, without a hint to whoever tries keys."""
        if isinstance(fault, AuthenticationError):
            text = "the end-to-end handshake or record did not verify: have both sides the same key? This relay's log has the reason"
            return Refusal(Code.NEXT_HOP_AUTHENTICATION, text)
        return Refusal(fault.code, str(fault))

    def _settle(self, end: End) -> None:
        self._half_open[end.carrier.number] -= 1
        if not self._half_open[end.carrier.number]:
            del self._half_open[end.carrier.number]

    def _drop(self, end: End) -> None:
        if self._ends.get(end.key) is not end:
            return
        del self._ends[end.key]
        if end.link is None:
            self._settle(end)
        else:
            del self._by_link[end.link.number]
            del self._latest[end.carrier.number, end.key[1], end.link.principal]

    # time ---------------------------------------------------------------------------

    def _plan(self) -> None:
        if self._timer is None and self._ends:
            self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT / 2, self._sweep)

    def _sweep(self) -> None:
        """Handshakes that came to nothing; now and then those whose session has ended without CLOSE."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._young and self._young[0][0] <= now:
            self._forget_idle(self._young.popleft()[1])
        if now - self._swept >= SWEEP:
            self._swept = now
            young = {id(end) for _, end in self._young}
            for end in [each for each in self._ends.values() if id(each) not in young]:
                self._forget_idle(end)
        self._plan()

    def _forget_idle(self, end: End) -> None:
        owner = end.carrier if end.through.way is Way.RECURSIVE else end.link
        if end.link is None or owner is None or not self._holds(end.key[1], owner.principal):
            self._drop(end)
