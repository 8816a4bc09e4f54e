"""EXTEND at the relay that passes it on (docs/design.md §13): octets between the client and the next relay, not read here.

Only for a session of the asker's own, only to the relay that the route table names for it, and only with what this relay itself
would say of the session. Of the answer one thing is kept: the next relay's endpoint, until the client's BIND confirms it. The
other end of such a connection is net/ends.py.
"""

from __future__ import annotations

from functools import partial

from chainrelay.errors import Code, Refusal
from chainrelay.limits import EXTEND_OCTETS, EXTENDS_AT_ONCE
from chainrelay.session.answers import read_answer
from chainrelay.session.book import Book
from chainrelay.session.events import Answered, AskFailed, NextHop
from chainrelay.session.renewing import LIVING
from chainrelay.session.session import Session, Waiting
from chainrelay.session.transitions import State
from chainrelay.wire.messages import Extend, Extended


def extend(book: Book, session: Session, waiting: Waiting, request: Extend) -> None:
    """A client's EXTEND. Raises Refusal; the session stays as it is."""
    if not session.iterative:
        raise Refusal(Code.WRONG_STATE, "the session is recursive: its relays ask each other")
    if not session.answered or session.state not in LIVING:
        raise Refusal(Code.WRONG_STATE, f"the session is {session.state.value}; extend it when its ports are assigned")
    if not isinstance(session.via, NextHop):
        raise Refusal(Code.NO_ROUTE, f"{book.me} is the last relay for this destination; there is none further on")
    if request.relay != session.via.peer:
        text = f"the route to {session.target.host} leads to {session.via.peer}, not to {request.relay}"
        raise Refusal(Code.NO_ROUTE, text)
    if (request.hop, request.previous, request.partner) != (len(session.request.path) + 2, book.me, session.exit):
        text = f"EXTEND says hop {request.hop} after {request.previous}, sending from {request.partner}, which is not so here"
        raise Refusal(Code.UNEXPECTED, text)
    if len(request.octets) > EXTEND_OCTETS:
        raise Refusal(Code.MALFORMED, f"EXTEND carries {len(request.octets)} octets; {EXTEND_OCTETS} are allowed")
    if session.extending >= EXTENDS_AT_ONCE:
        raise Refusal(Code.RATE_LIMIT, f"{EXTENDS_AT_ONCE} EXTENDs of this session wait for an answer; wait for one")
    session.extending += 1
    book.ask(session.via, request, partial(extended, book, session, session.via, waiting))


def extended(book: Book, session: Session, hop: NextHop, waiting: Waiting, event: Answered | AskFailed) -> None:
    """The next relay's answer goes to the client as it is; what it says of its endpoint is kept aside."""
    session.extending -= 1
    answer = read_answer(event, hop, Extended, session.id)
    try:
        if isinstance(answer, Refusal):
            raise answer
        if len(answer.octets) > EXTEND_OCTETS:
            raise Refusal(Code.MALFORMED, f"{hop.peer} answered with {len(answer.octets)} octets; {EXTEND_OCTETS} are allowed")
        if answer.client_side is not None and session.state is State.RESERVED:
            assert isinstance(event, Answered) and session.server_side is not None
            ours = session.link.local, session.server_side.address
            book.policy.check_ends(hop.peer, event.remote, answer.client_side, None, session.request, *ours)
            session.offered = answer.client_side
    except Refusal as why:
        book.note_refusal(session.principal, session.id, session.request.user, why)
        book.reply_error([waiting], why)
        return
    book.reply([waiting], answer)
