"""EXTEND at the relay that passes it on (docs/design.md §13): octets between the client and the next relay, not read here.

Only for a session of the asker's own, only along the route of it, and only with what this relay itself would say of the session. Of
the answer one thing is kept, in the iterative way: the next relay's endpoint, until the client's BIND confirms it. In the recursive
way EXTEND carries the handshake for a sealed session's key to the last relay, through all others (docs/design.md §15). The other end
of such a connection is net/ends.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from chainrelay.errors import Code, Refusal
from chainrelay.limits import EXTEND_OCTETS, EXTENDS_AT_ONCE
from chainrelay.session.answers import read_answer
from chainrelay.session.book import Book
from chainrelay.session.events import Answered, AskFailed, NextHop
from chainrelay.session.renewing import LIVING
from chainrelay.session.session import Session, Waiting
from chainrelay.session.transitions import State
from chainrelay.wire.authenticated import Claimed
from chainrelay.wire.messages import Extend, Extended


def extend(book: Book, session: Session, waiting: Waiting, request: Extend) -> None:
    """A client's EXTEND, or in the recursive way the relay before's. Raises Refusal; the session stays as it is."""
    if not session.iterative and not session.request.sealed:
        raise Refusal(Code.WRONG_STATE, "the session is recursive: its relays ask each other")
    if not session.answered or session.state not in LIVING:
        raise Refusal(Code.WRONG_STATE, f"the session is {session.state.value}; extend it when its ports are assigned")
    if not isinstance(session.via, NextHop):
        raise Refusal(Code.NO_ROUTE, f"{book.me} is the last relay for this destination; there is none further on")
    if session.iterative:
        check_next(book, session, session.via, request)
    else:
        check_further(book, session, session.via, request)
    if len(request.octets) > EXTEND_OCTETS:
        raise Refusal(Code.MALFORMED, f"EXTEND carries {len(request.octets)} octets; {EXTEND_OCTETS} are allowed")
    if session.extending >= EXTENDS_AT_ONCE:
        raise Refusal(Code.RATE_LIMIT, f"{EXTENDS_AT_ONCE} EXTENDs of this session wait for an answer; wait for one")
    session.extending += 1
    place = len(session.request.path) + 1
    if not session.iterative:
        assert session.server_side is not None
        request = replace(request, partner=book.policy.announced(session.server_side))
    book.ask(session.via, request, partial(extended, book, session, session.via, waiting), place=place)


def check_next(book: Book, session: Session, hop: NextHop, request: Extend) -> None:
    """Iterative: it is for the next relay, and says what this one would say itself. Raises Refusal."""
    if request.relay != hop.peer:
        raise Refusal(Code.NO_ROUTE, f"the route to {session.target.host} leads to {hop.peer}, not to {request.relay}")
    if (request.hop, request.previous, request.partner) != (len(session.request.path) + 2, book.me, session.exit):
        text = f"EXTEND says hop {request.hop} after {request.previous}, sending from {request.partner}, which is not so here"
        raise Refusal(Code.UNEXPECTED, text)


def check_further(book: Book, session: Session, hop: NextHop, request: Extend) -> None:
    """Recursive: it is for the last relay, which this one need not know. What it says of the next one must be so. Raises Refusal."""
    place, passed = len(session.request.path) + 1, (*session.request.path, book.me)
    fits = place < request.hop and request.relay not in passed and request.previous not in session.request.path
    to_next = {request.relay == hop.peer, request.hop == place + 1, request.previous == book.me}
    if not fits or len(to_next) != 1:
        text = f"EXTEND for {request.relay} says hop {request.hop} after {request.previous or 'nobody'}, which is not so here"
        raise Refusal(Code.UNEXPECTED, text)


def extended(book: Book, session: Session, hop: NextHop, waiting: Waiting, event: Answered | AskFailed) -> None:
    """The next relay's answer goes to the client as it is; what it says of its endpoint is kept aside."""
    session.extending -= 1
    answer = read_answer(event, hop, Extended, session.id)
    try:
        if isinstance(answer, Refusal):
            raise answer
        if len(answer.octets) > EXTEND_OCTETS:
            raise Refusal(Code.MALFORMED, f"{hop.peer} answered with {len(answer.octets)} octets; {EXTEND_OCTETS} are allowed")
        if not session.iterative:
            if isinstance(event, Answered) and isinstance(event.message, Claimed):
                raise Refusal(Code.NEXT_HOP_AUTHENTICATION, f"{hop.peer} has not authenticated; its answer does not count")
            answer = replace(answer, client_side=None)  # what the relays tell each other of P4 went with OPENED
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
