"""RENEW: the next relay first, then the kernel here; the answer carries the smallest lease (docs/design.md §5).

A renewal is also when counters arrive, so silence is found out here. A relay further on that has lost the session ends it here.
"""

from __future__ import annotations

from functools import partial

from chainrelay.datapath.mapping import Counters, Failed, Outcome
from chainrelay.datapath.mapping import Renew as Prolong
from chainrelay.errors import Code, Refusal
from chainrelay.limits import LEASE_GRACE
from chainrelay.session import closing
from chainrelay.session.answers import GONE, read_answer
from chainrelay.session.book import Book
from chainrelay.session.events import Answered, AskFailed, NextHop
from chainrelay.session.record import Phase
from chainrelay.session.session import Session, Waiting
from chainrelay.session.transitions import Input, State
from chainrelay.wire.messages import Renew, Renewed

LIVING = (State.RESERVED, State.BINDING, State.INSTALLING, State.OPEN)


def renew(book: Book, session: Session, waiting: Waiting, wanted: int) -> None:
    """A partner's RENEW. Raises Refusal."""
    if session.state is State.LINGERING:
        raise Refusal(Code.LEASE_ENDED, "the lease ended before this renewal; open a new session, and renew at a third of the lease")
    if session.state is State.RESERVED and session.lacks_key:
        raise Refusal(Code.SEAL_KEY_MISSING, "the session is sealed and this relay has no key; send REKEY on an end-to-end connection")
    if session.unconfirmed:
        raise Refusal(Code.WRONG_STATE, "the session waits for the client to confirm it; complete the loop, or close it")
    if not book.may(session, Input.RENEW):
        raise Refusal(Code.WRONG_STATE, f"the session is {session.state.value}; renew it when it is open")
    lease = book.policy.leases.grant(wanted, book.now - session.created)
    if lease < 1:
        why = Refusal(Code.TOO_OLD, f"the session has reached the limit of {book.policy.leases.absolute} s; open a new one")
        session.renewers.append(waiting)
        closing.end(book, session, why)
        return
    book.move(session, Input.RENEW)
    session.renewers.append(waiting)
    if len(session.renewers) > 1:
        return  # one is under way already
    if (hop := session.delegate) is not None:
        book.ask(hop, Renew(session.id, lease), partial(renewed_further, book, session, hop, lease))
    else:
        prolong(book, session, lease)


def renewed_further(book: Book, session: Session, hop: NextHop, lease: int, event: Answered | AskFailed) -> None:
    """The next relay's answer to RENEW."""
    answer = read_answer(event, hop, Renewed, session.id)
    if session.state not in LIVING:
        if isinstance(answer, Renewed):
            closing.close_further(book, session)  # it prolonged what has ended here meanwhile
    elif isinstance(answer, Refusal):
        if answer.code in GONE:
            session.asked = False
            closing.end(book, session, answer)
        else:
            book.reply_error(session.renewers, answer)
    else:
        prolong(book, session, min(lease, max(answer.lease, 1)))


def prolong(book: Book, session: Session, lease: int) -> None:
    """The lease here; with rules in the kernel it is theirs too."""
    if session.mapping is None:
        prolonged(book, session, lease)
        return
    session.prolonging = True
    book.apply(Prolong(session.mapping, lease + LEASE_GRACE), partial(applied, book, session, lease))


def applied(book: Book, session: Session, lease: int, outcome: Outcome) -> None:
    """The kernel has prolonged, and told what it counted since."""
    session.prolonging = False
    if not isinstance(outcome, Failed):
        account(book, session, outcome.counters)
    if session.state is not State.OPEN:
        return
    idle = book.policy.leases.idle
    if isinstance(outcome, Failed):
        why = not_prolonged(outcome)
        book.note_refusal(session.principal, session.id, session.request.user, why)
        book.reply_error(session.renewers, why)
    elif idle and book.now - session.active >= idle:
        closing.end(book, session, Refusal(Code.IDLE, f"no datagram for {idle} s, the limit of this relay; open a new session"))
    else:
        prolonged(book, session, lease)


def not_prolonged(outcome: Failed) -> Refusal:
    """Why a session goes on to its end as it is."""
    if outcome.keyless:
        text = f"this relay has lost the session's data keys ({outcome.why}); send REKEY on a new end-to-end connection, then renew"
        return Refusal(Code.SEAL_KEY_MISSING, text)
    code = Code.DATAPATH_FULL if outcome.full else Code.DATAPATH_FAILED
    return Refusal(code, f"this relay's kernel did not prolong the rules: {outcome.why}; renew again before the lease ends")


def prolonged(book: Book, session: Session, lease: int) -> None:
    """It holds: the answer goes back."""
    session.lease, session.expires = lease, book.now + lease
    book.set_deadline(session, session.expires)
    book.remember(session, Phase.OPEN if session.installed else Phase.RESERVED)
    book.reply(session.renewers, Renewed(session.id, lease))


def account(book: Book, session: Session, counters: Counters) -> None:
    """Add what the kernel counted."""
    if counters.to_server_packets or counters.to_client_packets:
        session.counters += counters
        session.active = book.now
