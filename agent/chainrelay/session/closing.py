"""The end of a session: by its owner (CLOSE), by a failure while it is set up, or by this relay (lease, idle, revoked).

CLOSE goes on to the next relay and to the kernel at once; its answer waits for both, for their counters. In the other
cases nobody waits for the next relay: it is told, and its own lease ends the session there if word does not arrive. Ports,
claims and counts return when the kernel has let go, not before.
"""

from __future__ import annotations

from functools import partial

from chainrelay.datapath.mapping import Counters, Failed, Outcome, Remove
from chainrelay.errors import Code, Refusal
from chainrelay.limits import REMOVE_RETRY, TCP_LINGER
from chainrelay.session.answers import read_answer
from chainrelay.session.book import Book
from chainrelay.session.events import Answered, AskFailed, NextHop
from chainrelay.session.record import Phase
from chainrelay.session.session import Session, Waiting
from chainrelay.session.transitions import Input, State
from chainrelay.wire.messages import Close, Closed, HopCounters


def close(book: Book, session: Session, waiting: Waiting) -> None:
    """A partner's CLOSE. A second one joins the first."""
    session.closers.append(waiting)
    if session.state is State.CLOSING:
        return
    begin(book, session, Input.CLOSE, Refusal(Code.UNKNOWN_SESSION, "the session was closed by its owner meanwhile"))
    if session.asked and isinstance(session.via, NextHop):
        session.pending += 1
        book.ask(session.via, Close(session.id), partial(closed_further, book, session, session.via))
    finish_when_done(book, session)


def fail(book: Book, session: Session, why: Refusal) -> None:
    """A step of setting up failed: nothing stays, here or further on, and whoever asked is told."""
    book.note_refusal(session.principal, session.id, session.request.user, why)
    begin(book, session, Input.REFUSED, why)
    close_further(book, session)
    finish_when_done(book, session)


def end(book: Book, session: Session, why: Refusal) -> None:
    """This relay ends the session."""
    book.note("ended", session, code=why.code.word, hop=why.hop or book.me, why=why.text)
    begin(book, session, Input.ENDED, why)
    close_further(book, session)
    finish_when_done(book, session)


def begin(book: Book, session: Session, what: Input, why: Refusal) -> None:
    """From any state to CLOSING: everybody who waits for something else hears why, the rules go."""
    for waiting in (session.openers, session.binders, session.renewers, session.rekeyers):
        book.reply_error(waiting, why)
    session.keys = None
    book.move(session, what)
    session.deadline = None
    session.pending = 0
    if session.remembered:
        book.remember(session, Phase.CLOSING, first=session.installed)
    if session.installed:
        session.pending += 1
        remove(book, session)


def close_further(book: Book, session: Session) -> None:
    """Tell the next relay, without waiting for it; unless the id belongs to a later session by now."""
    if session.asked and isinstance(session.via, NextHop) and book.sessions.get(session.id, session) is session:
        book.ask(session.via, Close(session.id), ignore)


def ignore(_event: Answered | AskFailed) -> None:
    """Nobody waits for this answer any more."""


# due ---------------------------------------------------------------------------


def due(book: Book, session: Session) -> None:
    """A deadline has come: the lease's, the lingering's, or a removal is to be tried again."""
    if session.state is State.CLOSING:
        remove(book, session)
    elif session.state is State.LINGERING:
        begin(book, session, Input.LINGERED, Refusal(Code.LEASE_ENDED, "the lease ended"))
        close_further(book, session)
    elif session.state is State.OPEN and session.is_tcp:
        linger(book, session)
    else:
        text = "the lease ended without a renewal"
        if session.unconfirmed:
            text = "the client gave no data key" if session.lacks_key else "the client did not complete its loop through the relays"
        end(book, session, Refusal(Code.LEASE_ENDED, text))


def linger(book: Book, session: Session) -> None:
    """A TCP session's lease ended: forwarding stops, its next segment is answered with a reset for a while."""
    assert session.mapping is not None
    why = Refusal(Code.LEASE_ENDED, "the lease ended without a renewal")
    book.reply_error(session.renewers, why)
    book.note("ended", session, code="lease-ended", hop=book.me, why=why.text)
    book.move(session, Input.LEASE_ENDED_TCP)
    book.set_deadline(session, book.now + TCP_LINGER)
    if session.remembered:
        book.remember(session, Phase.CLOSING, first=True)
    book.apply(Remove(session.mapping, linger=True), partial(lingers, session))


def lingers(session: Session, outcome: Outcome) -> None:
    """The rules are gone; if they are not, the removal after lingering takes care of it."""
    if not isinstance(outcome, Failed):
        session.counters += outcome.counters


# removed -----------------------------------------------------------------------


def remove(book: Book, session: Session) -> None:
    """Have the kernel forget the session."""
    assert session.mapping is not None
    book.apply(Remove(session.mapping), partial(removed, book, session))


def removed(book: Book, session: Session, outcome: Outcome) -> None:
    """The kernel has let go, or it is asked again in a while."""
    if isinstance(outcome, Failed):
        why = Refusal(Code.DATAPATH_FAILED, f"this relay's kernel did not remove the rules yet: {outcome.why}; it is tried again")
        book.note_refusal(session.principal, session.id, session.request.user, why)
        book.reply_error(session.closers, why)
        book.set_deadline(session, book.now + REMOVE_RETRY)
        return
    session.counters += outcome.counters
    session.pending -= 1
    finish_when_done(book, session)


def closed_further(book: Book, session: Session, hop: NextHop, event: Answered | AskFailed) -> None:
    """The next relay's counters, or none when it could not be reached."""
    answer = read_answer(event, hop, Closed, session.id)
    if isinstance(answer, Closed):
        session.further = answer.counters
    session.pending -= 1
    finish_when_done(book, session)


def finish_when_done(book: Book, session: Session) -> None:
    """CLOSED, when nothing has yet to come back."""
    if session.pending:
        return
    book.move(session, Input.REMOVED)
    book.forget(session)
    book.reply(session.closers, Closed(session.id, (own_counters(book, session), *session.further)))
    if session.answered:
        counters = session.counters
        book.note(
            "closed",
            session,
            to_server=f"{counters.to_server_packets}/{counters.to_server_bytes}",
            to_client=f"{counters.to_client_packets}/{counters.to_client_bytes}",
        )


def own_counters(book: Book, session: Session, counters: Counters | None = None) -> HopCounters:
    """This relay's line among the counters."""
    own = counters or session.counters
    return HopCounters(book.me, own.to_server_packets, own.to_server_bytes, own.to_client_packets, own.to_client_bytes)
