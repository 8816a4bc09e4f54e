"""BIND: a reserved session learns its server's port (RTSP and SIP announce P5 before P6 is known).

Refused before anything was done, the session stays RESERVED; once the next relay was asked, a failure ends it everywhere.
"""

from __future__ import annotations

from functools import partial

from chainrelay.errors import Code, Refusal
from chainrelay.session import closing
from chainrelay.session.answers import read_answer
from chainrelay.session.book import Book
from chainrelay.session.events import Answered, AskFailed, NextHop
from chainrelay.session.opening import claim, install
from chainrelay.session.session import Session, Waiting
from chainrelay.session.transitions import Input, State
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import Bind, Bound


def bind(book: Book, session: Session, waiting: Waiting, server: Target) -> None:
    """A partner's BIND. Raises Refusal, which leaves the session as it was."""
    if session.bound == server and session.state is State.OPEN:
        book.reply([waiting], Bound(session.id, session.mtu))
    elif session.bound == server and session.state in (State.BINDING, State.INSTALLING):
        session.binders.append(waiting)
    elif session.state is not State.RESERVED:
        text = "BIND fits a session that was opened without a server port, once; open another session for another server"
        raise Refusal(Code.WRONG_STATE, text)
    elif not 1 <= server.port <= 65536 - session.request.components:
        raise Refusal(Code.MALFORMED, f"BIND names port {server.port}; it must be the server's port")
    elif session.delegate is not None:
        bind_further(book, session, session.delegate, waiting, server)
    elif isinstance(session.via, NextHop):
        bind_between(book, session, session.via, waiting, server)
    else:
        bind_here(book, session, waiting, server)


def bind_here(book: Book, session: Session, waiting: Waiting, server: Target) -> None:
    """The last relay. The exit is exclusive toward the address that OPEN led to, so the server must be that one."""
    address = session.server_address
    assert address is not None
    if server.host not in (address, session.request.server.host):
        text = f"the session is reserved toward {session.request.server.host} ({address}), not {server.host}; open another one"
        raise Refusal(Code.WRONG_STATE, text)
    if session.request.server.port not in (0, server.port):
        raise Refusal(Code.WRONG_STATE, f"the session was opened toward port {session.request.server.port}, not {server.port}")
    if session.lacks_key:
        raise Refusal(Code.WRONG_STATE, "the session is sealed and has no key yet; send REKEY on an end-to-end connection first")
    book.policy.permit(session.link, session.request, address, server.port)
    claim(book, session, Endpoint(address, server.port))
    session.bound = server
    session.binders.append(waiting)
    book.move(session, Input.BIND_HERE)
    install(book, session)


def bind_between(book: Book, session: Session, hop: NextHop, waiting: Waiting, server: Target) -> None:
    """A relay before the last in the iterative way: the client confirms what the next relay said (M13)."""
    if session.offered is None or server != Target(session.offered.address, session.offered.port):
        text = f"{hop.peer} told this relay {session.offered or 'no endpoint'}, the client has heard {server} from it"
        raise Refusal(Code.ANSWER_DENIED, text)
    claim(book, session, session.offered)
    session.bound = server
    session.binders.append(waiting)
    book.move(session, Input.BIND_HERE)
    install(book, session)


def bind_further(book: Book, session: Session, hop: NextHop, waiting: Waiting, server: Target) -> None:
    """A relay before the last: the same route, and permitted; an address may stand for the name that OPEN gave."""
    request = session.request
    if server.host != request.server.host and not isinstance(request.server.host, str):
        raise Refusal(Code.WRONG_STATE, f"the session is reserved toward {request.server.host}, not {server.host}; open another one")
    if server.host != request.server.host and book.policy.route(book.me, server.host, request.path, request.hops_left) != hop:
        raise Refusal(Code.WRONG_STATE, f"the route to {server.host} is not by {hop.peer}, as the session is; open another one")
    book.policy.permit(session.link, request, server.host, server.port)
    session.bound = server
    session.binders.append(waiting)
    book.move(session, Input.BIND_PASSED_ON)
    book.ask(hop, Bind(session.id, server), partial(bound_further, book, session, hop))


def bound_further(book: Book, session: Session, hop: NextHop, event: Answered | AskFailed) -> None:
    """The next relay's answer to BIND."""
    if session.state is not State.BINDING:
        return  # ended meanwhile, and the next relay was told
    answer = read_answer(event, hop, Bound, session.id)
    if isinstance(answer, Refusal):
        closing.fail(book, session, answer)
        return
    session.mtu = min(session.mtu, answer.mtu)
    book.move(session, Input.BOUND)
    install(book, session)
