"""STATUS: counters of every hop without touching the lease, and the port table that an administrator lists (M22)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil

from chainrelay.datapath.mapping import Failed, Outcome, Renew
from chainrelay.errors import Code, Refusal
from chainrelay.limits import LEASE_GRACE
from chainrelay.session.answers import read_answer
from chainrelay.session.book import Book
from chainrelay.session.closing import own_counters
from chainrelay.session.events import Answered, AskFailed, NextHop
from chainrelay.session.renewing import LIVING, account
from chainrelay.session.session import PortTableRow, Session, Waiting
from chainrelay.session.transitions import State
from chainrelay.wire.messages import HopCounters, Status, StatusReport


@dataclass(slots=True)
class Report:
    """An answer in the making."""

    waiting: Waiting
    pending: int = 0
    lease: int | None = None
    further: tuple[HopCounters, ...] = ()


def report(book: Book, session: Session, waiting: Waiting) -> None:
    """A partner's STATUS. Raises Refusal. A hop that can't be reached is missing from the answer."""
    if not session.answered or session.state not in LIVING:
        raise Refusal(Code.WRONG_STATE, f"the session is {session.state.value}; ask when it is open")
    making = Report(waiting)
    if session.state is State.OPEN and session.mapping is not None and not session.prolonging:
        # The kernel tells its counters when it renews: for exactly what is left, nothing changes.
        making.pending += 1
        left = max(session.expires - book.now, 0.0) + LEASE_GRACE
        book.apply(Renew(session.mapping, left), partial(counted, book, session, making))
    if (hop := session.delegate) is not None:
        making.pending += 1
        book.ask(hop, Status(session.id), partial(reported_further, book, session, hop, making))
    tell_when_done(book, session, making)


def counted(book: Book, session: Session, making: Report, outcome: Outcome) -> None:
    """Our kernel's part."""
    if not isinstance(outcome, Failed):
        account(book, session, outcome.counters)
    making.pending -= 1
    tell_when_done(book, session, making)


def reported_further(book: Book, session: Session, hop: NextHop, making: Report, event: Answered | AskFailed) -> None:
    """The next relay's part."""
    answer = read_answer(event, hop, StatusReport, session.id)
    if isinstance(answer, StatusReport):
        making.further, making.lease = answer.counters, answer.lease
    making.pending -= 1
    tell_when_done(book, session, making)


def tell_when_done(book: Book, session: Session, making: Report) -> None:
    """The answer, when all parts are there."""
    if making.pending:
        return
    own = max(0, ceil(session.expires - book.now))
    lease = own if making.lease is None else min(own, making.lease)
    book.reply([making.waiting], StatusReport(session.id, lease, (own_counters(book, session), *making.further)))


def port_table(book: Book, now: float) -> list[PortTableRow]:
    """Every session."""
    return [
        PortTableRow(
            session.id,
            session.principal,
            session.request.user,
            session.request.protocol,
            session.request.components,
            session.state,
            session.request.partner,
            session.client_side,
            session.server_side,
            session.server_partner,
            session.exit,
            session.via.peer if isinstance(session.via, NextHop) else "",
            max(0.0, session.expires - now) if session.answered else 0.0,
            now - session.created,
            session.counters,
        )
        for session in book.sessions.values()
    ]
