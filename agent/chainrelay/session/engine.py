"""The engine: events in, effects out. `handle` is the table of contents of a relay's behaviour.

    OPEN   → opening.py      BIND   → binding.py     RENEW → renewing.py
    CLOSE  → closing.py      STATUS → reporting.py   EXTEND → extending.py
    REKEY  → sealing.py
    a new configuration → reloading.py               a restart → adopting.py

Every step of a session is a row of transitions.py; what is allowed is asked of policy.py, quotas.py and ports.py; the state is in
book.py. No clock, no I/O: the caller brings `now` (seconds, never backwards) and carries the effects out, datapath operations
in their order. Every Ask, Locate and Apply must be answered by exactly one event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from chainrelay.datapath.mapping import LiveFlow
from chainrelay.errors import Code, Refusal
from chainrelay.session import adopting, binding, closing, extending, opening, reloading, renewing, reporting, sealing
from chainrelay.session.book import Book
from chainrelay.session.events import Answered, Applied, AskFailed, Effect, Event, Located, Requested, RulesLost, Tick
from chainrelay.session.policy import Policy
from chainrelay.session.record import Record
from chainrelay.session.session import PortTableRow, Session
from chainrelay.session.transitions import State
from chainrelay.wire.messages import Bind, Close, Error, Extend, Open, Rekey, Renew, Status, Way


class Engine:
    """A relay's sessions. `me` is its id; `seals`: whether its datapath can open and seal."""

    def __init__(self, me: str, policy: Policy, *, seals: bool = False) -> None:
        self._book = Book(me, policy, seals=seals)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What follows from an event. An answer to an order that is not known is dropped."""
        book = self._begin(now)
        match event:
            case Requested():
                self._requested(event)
            case Located(token):
                if (locating := book.locating.pop(token, None)) is not None:
                    locating(event)
            case Answered(token) | AskFailed(token):
                if (asking := book.asking.pop(token, None)) is not None:
                    asking(event)
            case Applied(token, outcome):
                if (applying := book.applying.pop(token, None)) is not None:
                    applying(outcome)
            case RulesLost():
                adopting.put_all_back(book)
            case Tick():
                while (session := book.due()) is not None:
                    closing.due(book, session)
            case _:
                assert_never(event)
        return book.effects

    def next_deadline(self) -> float | None:
        """When a Tick is useful at the latest; None = not before another event."""
        return self._book.next_deadline()

    def reconfigure(self, policy: Policy, now: float) -> list[Effect]:
        """Put a new policy in force; sessions that it does not permit end."""
        book = self._begin(now)
        reloading.reconfigure(book, policy)
        return book.effects

    def drain(self, now: float) -> list[Effect]:
        """Take no new sessions from now on; those that stand go on."""
        book = self._begin(now)
        book.draining = True
        return book.effects

    def teardown(self, now: float) -> list[Effect]:
        """End every session, here and further on. It is done when `sessions` is empty."""
        book = self._begin(now)
        book.draining = True
        for session in list(book.sessions.values()):
            if session.state is not State.CLOSING:
                closing.end(book, session, Refusal(Code.DRAINING, "this relay is being taken down"))
        return book.effects

    def adopt(self, records: Iterable[Record], flows: Iterable[LiveFlow], now: float) -> list[Effect]:
        """Take over what the journal says and the kernel holds (docs/design.md §14). Before any request, once."""
        book = self._begin(now)
        adopting.adopt(book, records, flows)
        return book.effects

    def holds(self, session: bytes, principal: str) -> bool:
        """Whether there is a session of that id, and whose it is."""
        found = self._book.sessions.get(session)
        return found is not None and found.principal == principal

    def can_seal(self, seals: bool) -> None:
        """The datapath was set up anew. Sessions that stand find out by themselves."""
        self._book.seals = seals

    def sealed_way(self, session: bytes, principal: str) -> Way | None:
        """How a sealed session of that principal was opened; None if there is none."""
        found = self._book.sessions.get(session)
        return found.request.way if found is not None and found.principal == principal and found.request.sealed else None

    def sessions(self, now: float | None = None) -> list[PortTableRow]:
        """The port table (M22), as of `now` (default: the last event)."""
        return reporting.port_table(self._book, self._book.now if now is None else now)

    @property
    def unknown_until(self) -> float:
        """When the last flow ends that no record explained; 0: there was none."""
        return self._book.unknown_until

    @property
    def draining(self) -> bool:
        """Whether it takes no new sessions."""
        return self._book.draining

    @property
    def ports_in_use(self) -> int:
        """Ports that belong to sessions or to what `avoid` found."""
        return self._book.pool.in_use

    def _begin(self, now: float) -> Book:
        self._book.now = now
        self._book.effects = []
        return self._book

    def _requested(self, event: Requested) -> None:
        request, principal = event.message.message, event.link.principal
        try:
            self._dispatch(event)
        except Refusal as why:
            user = request.user if isinstance(request, Open) else ""
            self._book.note_refusal(principal, request.session, user, why)
            error = Error(why.code, why.hop or self._book.me, why.text)
            self._book.reply([(event.link.number, event.request)], error)

    def _dispatch(self, event: Requested) -> None:
        book, request, waiting = self._book, event.message.message, (event.link.number, event.request)
        through = event.link.through
        if through is not None and through.for_key and not isinstance(request, Rekey):
            raise Refusal(Code.UNEXPECTED, "this end-to-end connection is for the data key alone; ask for the session as it was opened")
        match request:
            case Open():
                opening.open_session(book, event.link, event.request, request)
            case Bind(_, server):
                binding.bind(book, self._own(event), waiting, server)
            case Renew(_, lease):
                renewing.renew(book, self._own(event), waiting, lease)
            case Close():
                closing.close(book, self._own(event, closing_too=True), waiting)
            case Status():
                reporting.report(book, self._own(event), waiting)
            case Extend():
                extending.extend(book, self._own(event), waiting, request)
            case Rekey():
                sealing.rekey(book, event.link, waiting, request, event.seal)
            case _:
                assert_never(request)

    def _own(self, event: Requested, *, closing_too: bool = False) -> Session:
        """The partner's own session. Raises Refusal: somebody else's is as unknown as one that does not exist."""
        session = self._book.sessions.get(event.message.message.session)
        if (
            session is None
            or session.principal != event.message.principal
            or (session.state is State.CLOSING and not closing_too)
        ):
            raise Refusal(Code.UNKNOWN_SESSION, "no such session of yours here; it has ended, or this relay has restarted")
        return session
