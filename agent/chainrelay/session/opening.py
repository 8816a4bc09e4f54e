"""OPEN: admit → locate → assign ports → ask the next relay → check its answer → install → OPENED (M3–M5, M10).

At the last relay the middle part falls away. Whatever fails on the way ends the whole session (closing.fail): all or nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil

from chainrelay.datapath.mapping import Failed, Install, Mapping, Outcome
from chainrelay.errors import Code, Refusal
from chainrelay.limits import CONFIRM_TIMEOUT, IP_UDP_HEADERS, LEASE_GRACE, SEAL_TEXT
from chainrelay.session import closing
from chainrelay.session.answers import read_answer
from chainrelay.session.book import Book
from chainrelay.session.events import Answered, AskFailed, Candidate, Link, Located, NextHop
from chainrelay.session.record import Phase
from chainrelay.session.session import Session
from chainrelay.session.tables import Allow
from chainrelay.session.transitions import Input, State
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Assigned, Bound, Error, Open, Opened
from chainrelay.wire.sealed import SEALED_OVERHEAD


def open_session(book: Book, link: Link, number: int, request: Open) -> None:
    """A partner's OPEN. Raises Refusal when it ends here and now."""
    session = book.sessions.get(request.session)
    if session is not None:
        open_again(book, session, link, number, request)
        return
    if book.draining:
        raise Refusal(Code.DRAINING, "this relay takes no new sessions at present; try later or another relay")
    via, row = book.policy.admit(book.me, link, request)
    if request.sealed and not isinstance(via, NextHop) and not book.seals:
        text = f"{book.me} is the last relay for this destination and can't open and seal: it takes the XDP fast path"
        raise Refusal(Code.SEAL_NOT_AVAILABLE, text)
    book.quotas.admit(link.principal, book.now)
    session = Session(next(book.serials), link, request, via, row, book.now, book.policy.leases.grant(request.lease, 0.0))
    book.add(session)
    book.move(session, Input.OPEN)
    session.openers.append((link.number, number))
    host = via.at.address if isinstance(via, NextHop) else request.server.host
    book.locate(host, partial(located, book, session))


def open_again(book: Book, session: Session, link: Link, number: int, request: Open) -> None:
    """The id is known: a retry joins or gets the same answer, anything else is refused."""
    if session.principal != link.principal or content(session.request) != content(request):
        raise Refusal(Code.SESSION_ID_TAKEN, "this session id is taken by another session; take 16 fresh random octets")
    if session.state in (State.CLOSING, State.LINGERING):
        raise Refusal(Code.WRONG_STATE, "this session has ended and is being removed; open a new one with a fresh id")
    if session.answered:
        book.reply([(link.number, number)], opened(book, session))
    else:
        session.openers.append((link.number, number))


def content(request: Open) -> tuple[object, ...]:
    """What makes two OPENs the same: all but the lease and the way here."""
    one = request
    return (one.protocol, one.way, one.sealed, one.components, one.partner, one.server, one.user, one.origin)


# located -----------------------------------------------------------------------


def located(book: Book, session: Session, event: Located) -> None:
    """The next relay or the server has been looked up."""
    if session.state is not State.LOCATING:
        return  # closed meanwhile; nothing is held for it
    try:
        if event.why is not None:
            raise event.why
        if isinstance(session.via, NextHop):
            go_on(book, session, session.via, event.candidates)
        else:
            end_here(book, session, event.candidates)
    except Refusal as why:
        closing.fail(book, session, why)


def go_on(book: Book, session: Session, hop: NextHop, candidates: tuple[Candidate, ...]) -> None:
    """At a relay before the last: ports for both sides, then OPEN to the next, or back to the client who will ask it."""
    candidate, _ = choose(book, session, candidates, f"the next relay {hop.peer}, address")
    count_row(book, session, session.row)
    assign(book, session, candidate)
    if session.iterative:
        assert session.server_side is not None
        session.exit = book.policy.announced(session.server_side)
        book.move(session, Input.ASSIGNED)
        stand(book, session)
        return
    book.move(session, Input.NEXT_RELAY_LOCATED)
    ask_next(book, session, hop)


def ask_next(book: Book, session: Session, hop: NextHop) -> None:
    """OPEN to the next relay; the same again after a restart (adopting.py). The state is ASKING already."""
    assert session.server_side is not None
    request = session.request
    message = Open(
        request.session,
        request.protocol,
        request.way,
        request.sealed,
        request.components,
        book.policy.announced(session.server_side),
        request.server,
        request.user,
        request.origin,
        session.lease,
        (*request.path, book.me),
        request.hops_left - 1,
    )
    session.asked = True
    book.remember(session, Phase.ASKED)
    book.ask(hop, message, partial(answered, book, session, hop))


def end_here(book: Book, session: Session, candidates: tuple[Candidate, ...]) -> None:
    """At the last relay: the server's address is known, and with it whether it is permitted."""
    candidate, row = choose(book, session, candidates, "the server's address")
    count_row(book, session, row)
    session.server_address, session.path = candidate.address, (*session.request.path, book.me)
    assign(book, session, candidate)
    assert session.server_side is not None
    session.exit = book.policy.announced(session.server_side)
    port = session.request.server.port
    if session.iterative:
        book.move(session, Input.ASSIGNED)
        stand(book, session)
        return
    if port == 0:
        book.move(session, Input.SERVER_LOCATED_PORT_OPEN)
        stand(book, session)
        return
    claim(book, session, Endpoint(candidate.address, port))
    book.move(session, Input.SERVER_LOCATED)
    install(book, session)


def choose(book: Book, session: Session, candidates: tuple[Candidate, ...], what: str) -> tuple[Candidate, Allow]:
    """The first candidate of the session's family that may be a target. Raises the first one's Refusal when none may."""
    family = session.request.partner.family
    why: Refusal | None = None
    for candidate in candidates:
        if candidate.address.version != family:
            continue
        try:
            book.policy.check_target(what, candidate.address, session.link.local, candidate.source)
            if isinstance(session.via, NextHop):
                return candidate, session.row
            return candidate, book.policy.permit(session.link, session.request, candidate.address, session.request.server.port)
        except Refusal as refusal:
            why = why or refusal
    if why is not None:
        raise why
    found = ", ".join(str(candidate.address) for candidate in candidates)
    text = f"the client's side speaks IPv{family}, on the way on there is only {found}; use one family throughout"
    raise Refusal(Code.MIXED_FAMILIES, text)


def assign(book: Book, session: Session, candidate: Candidate) -> None:
    """A port toward either side (M4), and what fits through toward the next one."""
    request, policy = session.request, book.policy
    toward_client = policy.client_side_addresses(session.link, request.partner.family)
    session.client_side = book.pool.assign(toward_client, request.partner.address, request.components, book.now)
    toward_server = policy.server_side_addresses(candidate)
    session.server_side = book.pool.assign(toward_server, candidate.address, request.components, book.now)
    session.mtu = candidate.mtu - IP_UDP_HEADERS[request.partner.family]
    if session.sealing:
        session.mtu = min(session.mtu, SEAL_TEXT + SEALED_OVERHEAD)


def count_row(book: Book, session: Session, row: Allow) -> None:
    """The session stands on this access row from now on. Raises Refusal when the row's limits are reached."""
    book.quotas.admit_row(row, session.request.user, book.now)
    book.quotas.count_row(row, session.request.user)
    session.row, session.row_counted = row, True


def claim(book: Book, session: Session, server_partner: Endpoint) -> None:
    """Both partners are known. Raises Refusal when another session has the same two: the kernel could not tell them apart."""
    if not book.claim(session, server_partner):
        text = f"another session stands between {session.request.partner} and {server_partner}; use another local port"
        raise Refusal(Code.ENDPOINT_IN_USE, text)


# answered ------------------------------------------------------------------------


def answered(book: Book, session: Session, hop: NextHop, event: Answered | AskFailed) -> None:
    """The next relay's answer to OPEN, or that none will come."""
    answer = read_answer(event, hop, Opened, session.id)
    if session.state is not State.ASKING:
        if isinstance(answer, Opened):
            closing.close_further(book, session)  # it opened what has been closed here meanwhile
        return
    try:
        if isinstance(answer, Refusal):
            session.asked = may_hold(event)
            raise answer
        assert isinstance(event, Answered) and session.server_side is not None
        ours = session.link.local, session.server_side.address
        asked = replace(session.request, path=(*session.request.path, book.me))
        book.policy.check_answer(hop, event.remote, answer, asked, *ours)
        claim(book, session, answer.client_side)
    except Refusal as why:
        closing.fail(book, session, why)
        return
    session.exit, session.path = answer.exit, answer.path
    session.lease = min(session.lease, max(answer.lease, 1))
    session.mtu = min(session.mtu, answer.mtu)
    if session.request.server.port == 0:
        book.move(session, Input.OPENED_PORT_OPEN)
        stand(book, session)
    else:
        book.move(session, Input.OPENED)
        install(book, session)


def may_hold(event: Answered | AskFailed) -> bool:
    """Whether the next relay may hold a session by our id although it did not open one: after silence, and after an
    ERROR of which that is the reason (a session left from before) or which left things half done."""
    if isinstance(event, Answered) and isinstance(event.message.message, Error):
        return event.message.message.code in (Code.SESSION_ID_TAKEN, Code.WRONG_STATE, Code.INTERNAL)
    return True


# installed -------------------------------------------------------------------------


def install(book: Book, session: Session) -> None:
    """Everything is known: rules for the kernel. The state is INSTALLING already."""
    request = session.request
    assert session.client_side and session.server_side and session.server_partner
    session.mapping = Mapping(
        request.session,
        request.protocol,
        request.components,
        request.partner,
        session.client_side,
        session.server_side,
        session.server_partner,
        sealed=session.sealing,
    )
    session.installed = True
    if session.iterative:  # what was granted runs from here; until now it was the time to confirm
        session.expires = max(session.expires, book.now + session.lease)
        book.set_deadline(session, session.expires)
    elif not session.answered:  # BIND does not prolong
        session.expires = book.now + session.lease
    book.remember(session, Phase.OPEN, first=True)
    lease = session.expires - book.now
    book.apply(Install(session.mapping, max(lease, 0) + LEASE_GRACE, session.keys), partial(installed, book, session))


def installed(book: Book, session: Session, outcome: Outcome) -> None:
    """The kernel has the rules, or not."""
    session.keys = None
    if session.state is not State.INSTALLING:
        return  # closed meanwhile: its removal was ordered after the installation
    if isinstance(outcome, Failed):
        session.installed = False
        code = Code.DATAPATH_FULL if outcome.full else Code.DATAPATH_FAILED
        closing.fail(book, session, Refusal(code, f"this relay's kernel did not take the rules: {outcome.why}"))
        return
    book.move(session, Input.INSTALLED)
    if session.answered:
        book.note("bound", session, server=session.target, server_partner=session.server_partner)
        book.reply(session.binders, Bound(session.id, session.mtu))
        return
    stand(book, session)


def stand(book: Book, session: Session) -> None:
    """The session exists for its owner: OPENED goes back, the lease runs."""
    session.answered = True
    lease = min(session.lease, CONFIRM_TIMEOUT) if session.unconfirmed else session.lease
    session.expires, session.active = book.now + lease, book.now
    book.set_deadline(session, session.expires)
    if not session.installed:
        book.remember(session, Phase.RESERVED, first=True)
    book.reply(session.openers, opened(book, session))
    hop, through = session.via.peer if isinstance(session.via, NextHop) else "", session.link.through
    previous = {} if through is None else {"previous": through.previous if through.keyed else f"{through.previous} (claimed)"}
    book.note(
        "opened" if session.installed else "reserved",
        session,
        partner=session.request.partner,
        client_side=session.client_side,
        server_side=session.server_side,
        server_partner=session.server_partner or session.server_address,
        exit=session.exit,
        next=hop,
        **previous,
    )


def opened(book: Book, session: Session) -> Opened | Assigned:
    """The answer, the same each time but for the lease that is left."""
    assert session.client_side is not None and session.exit is not None
    left = session.lease if session.unconfirmed else max(1, ceil(session.expires - book.now))
    client_side = book.policy.announced(session.client_side)
    if session.iterative:
        following = session.via.peer if isinstance(session.via, NextHop) else ""
        return Assigned(session.id, session.request.partner, client_side, session.exit, following, left, session.mtu)
    return Opened(session.id, client_side, session.exit, left, session.mtu, complete=True, path=session.path)
