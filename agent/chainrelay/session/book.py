"""The engine's state and its verbs: the sessions, who waits for what, the deadlines, the effects of the event at hand.

The modules that follow a request (opening, binding, renewing, closing, reporting) are functions over this `Book`. An order to the
shell is written together with what is to happen when its answer comes (`then`); an answer that nobody waits for is dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from chainrelay.datapath.mapping import Operation, Outcome
from chainrelay.errors import Refusal
from chainrelay.session.events import (
    Answered,
    Apply,
    Ask,
    AskFailed,
    Effect,
    Forget,
    Locate,
    Located,
    NextHop,
    Note,
    Remember,
    Reply,
)
from chainrelay.session.policy import Policy
from chainrelay.session.ports import PortPool
from chainrelay.session.quotas import Quotas
from chainrelay.session.record import Phase, Record
from chainrelay.session.session import Session, Waiting
from chainrelay.session.transitions import TRANSITIONS, Input
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Answer, Error, Request

Claim = tuple[int, ...]


class Book:
    """Everything that changes. `now` and `effects` belong to the event at hand."""

    def __init__(self, me: str, policy: Policy, *, seals: bool = False) -> None:
        self.me, self.policy, self.seals = me, policy, seals
        self.pool = PortPool(policy.pool, policy.rest, policy.avoid)
        self.quotas = Quotas(policy)
        self.sessions: dict[bytes, Session] = {}
        self.claims: dict[Claim, bytes] = {}
        """Pairs of partners per session: what the kernel's source rewriting is looked up by (docs/design.md §6)."""
        self.draining = False
        self.unknown_until = 0.0
        """When the last flow ends that an earlier run has left and no record explains; 0: there is none."""
        self.now = 0.0
        self.effects: list[Effect] = []
        self.serials = count(1)
        self.locating: dict[int, Callable[[Located], None]] = {}
        self.asking: dict[int, Callable[[Answered | AskFailed], None]] = {}
        self.applying: dict[int, Callable[[Outcome], None]] = {}
        self._tokens = count(1)
        self._deadlines: list[tuple[float, int, bytes]] = []

    # orders ----------------------------------------------------------------

    def locate(self, host: Address | str, then: Callable[[Located], None]) -> None:
        """Have a host looked up."""
        token = next(self._tokens)
        self.locating[token] = then
        self.effects.append(Locate(token, host))

    def ask(
        self, hop: NextHop, message: Request, then: Callable[[Answered | AskFailed], None], *, place: int | None = None
    ) -> None:
        """Ask the next relay."""
        token = next(self._tokens)
        self.asking[token] = then
        self.effects.append(Ask(token, hop, message, place))

    def apply(self, operation: Operation, then: Callable[[Outcome], None]) -> None:
        """Tell the datapath. Operations are carried out in the order in which they are given."""
        token = next(self._tokens)
        self.applying[token] = then
        self.effects.append(Apply(token, operation))

    def reply(self, waiting: list[Waiting], message: Answer) -> None:
        """Answer everybody who waits; the list is empty afterwards."""
        self.effects.extend(Reply(link, number, message) for link, number in waiting)
        waiting.clear()

    def reply_error(self, waiting: list[Waiting], why: Refusal) -> None:
        """Answer everybody who waits with a refusal: its own hop, or ours."""
        if waiting:
            self.reply(waiting, Error(why.code, why.hop or self.me, why.text))

    def note(self, event: str, session: Session, **fields: object) -> None:
        """A line for the log about a session."""
        request = session.request
        about = (("session", request.session.hex()), ("principal", session.link.principal), ("user", request.user))
        self.effects.append(Note(event, (*about, *fields.items())))

    def note_refusal(self, principal: str, session: bytes, user: str, why: Refusal) -> None:
        """A line for the audit trail: who, what, why."""
        fields = (
            ("session", session.hex()),
            ("principal", principal),
            ("user", user),
            ("hop", why.hop or self.me),
            ("code", why.code.word),
            ("why", why.text),
        )
        self.effects.append(Note("refused", fields, refusal=True))

    def remember(self, session: Session, phase: Phase, *, first: bool = False) -> None:
        """Keep in the journal how far the session is. Not while a client is on its loop: it walks it again."""
        if session.unconfirmed or session.client_side is None or session.server_side is None:
            return
        session.remembered = True
        record = Record(
            phase,
            session.request,
            session.link,
            session.via if isinstance(session.via, NextHop) else None,
            session.created,
            session.expires,
            session.lease,
            session.client_side,
            session.server_side,
            session.server_partner,
            session.server_address,
            session.exit,
            session.path,
            session.bound,
            session.mtu,
            session.counters,
            session.sealer,
        )
        self.effects.append(Remember(record, first))

    # sessions ----------------------------------------------------------------

    def add(self, session: Session) -> None:
        """A session begins to exist."""
        self.sessions[session.id] = session
        self.quotas.count(session.principal)

    def forget(self, session: Session) -> None:
        """It is CLOSED: ports, claims and counts return."""
        del self.sessions[session.id]
        if session.remembered:
            self.effects.append(Forget(session.id))
        self.quotas.forget(session.principal, session.row if session.row_counted else None, session.request.user)
        self.release_claims(session)
        components, partner = session.request.components, session.request.partner.address
        if session.client_side is not None:
            self.pool.release(session.client_side, partner, components, self.now)
        if session.server_side is not None:
            self.pool.release(session.server_side, server_address(session), components, self.now)
        session.deadline = None

    def move(self, session: Session, what: Input) -> None:
        """The next state, by the table; a KeyError is a fault of this program."""
        session.state = TRANSITIONS[session.state, what]

    def may(self, session: Session, what: Input) -> bool:
        """Whether the table has a row for this."""
        return (session.state, what) in TRANSITIONS

    def claim(self, session: Session, server_partner: Endpoint) -> bool:
        """Whether nobody else has these two partners. The kernel's source rewriting sees no more than them."""
        wanted = claims_of(session, server_partner)
        if server_partner == session.request.partner or any(key in self.claims for key in wanted):
            return False
        self.claims.update(dict.fromkeys(wanted, session.id))
        session.server_partner, session.claimed = server_partner, True
        return True

    def release_claims(self, session: Session) -> None:
        """The end of `claim`."""
        if session.claimed and session.server_partner is not None:
            for key in claims_of(session, session.server_partner):
                del self.claims[key]
            session.claimed = False

    # deadlines ---------------------------------------------------------------

    def set_deadline(self, session: Session, at: float) -> None:
        """Look at the session again at `at`; replaces what was set before."""
        session.deadline = at
        if session.queued is None or at < session.queued:
            self._queue(session, at)

    def next_deadline(self) -> float | None:
        """When a Tick is useful; possibly earlier than needed, never later."""
        while self._deadlines and self._entry(self._deadlines[0]) is None:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def due(self) -> Session | None:
        """A session whose deadline has come, once."""
        while self._deadlines and self._deadlines[0][0] <= self.now:
            session = self._entry(heapq.heappop(self._deadlines))
            if session is None:
                continue
            session.queued = None
            if session.deadline is None:
                continue
            if session.deadline <= self.now:
                session.deadline = None
                return session
            self._queue(session, session.deadline)
        return None

    def _queue(self, session: Session, at: float) -> None:
        session.queued = at
        heapq.heappush(self._deadlines, (at, session.serial, session.id))
        if len(self._deadlines) > 2 * len(self.sessions) + 1024:  # mostly closed ones: their entries go, amortised
            self._deadlines = [entry for entry in self._deadlines if self._entry(entry) is not None]
            heapq.heapify(self._deadlines)

    def _entry(self, entry: tuple[float, int, bytes]) -> Session | None:
        """The session of a heap entry, unless the entry is out of date."""
        at, serial, session_id = entry
        session = self.sessions.get(session_id)
        return session if session is not None and session.serial == serial and session.queued == at else None


def server_address(session: Session) -> Address:
    """Toward whom the server-side port was assigned: the next relay or the server."""
    return session.via.at.address if isinstance(session.via, NextHop) else session.server_address or session.request.partner.address


def claims_of(session: Session, server_partner: Endpoint) -> list[Claim]:
    """One per component; the same whichever of the two is the client. As numbers: addresses are slow to hash."""
    client = session.request.partner
    one, other = sorted(((int(client.address), client.port), (int(server_partner.address), server_partner.port)))
    fixed = session.request.protocol, client.family, one[0], other[0]
    return [(*fixed, one[1] + offset, other[1] + offset) for offset in range(session.request.components)]
