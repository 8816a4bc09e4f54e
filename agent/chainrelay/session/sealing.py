"""REKEY at the last relay of a sealed session (docs/design.md §15): the client's data key goes to the kernel, and never anywhere else.

It comes on an end-to-end connection, so from the client itself. In the iterative way the session is the client's own; in the recursive
way it belongs to the relay before, which passed the connection on, and the client must speak for the session's user. One connection
has one key: asked again it is the same answer, and a key that was replaced never comes back, since its counters would begin anew.
"""

from __future__ import annotations

from functools import partial

from chainrelay.datapath.mapping import Failed, Install, Outcome
from chainrelay.datapath.mapping import Rekey as Seal
from chainrelay.errors import Code, Refusal
from chainrelay.limits import LEASE_GRACE
from chainrelay.session.book import Book
from chainrelay.session.events import Link
from chainrelay.session.record import Phase
from chainrelay.session.session import Key, Session, Waiting
from chainrelay.session.transitions import Input, State
from chainrelay.wire.messages import Rekey, Rekeyed, Way
from chainrelay.wire.sealed import SealKeys


def rekey(book: Book, link: Link, waiting: Waiting, message: Rekey, keys: SealKeys | None) -> None:
    """A client's REKEY. Raises Refusal; the session and its key stay as they are."""
    session, key = whose(book, link, message), Key(link.number, message.key_id)
    if keys is None:
        raise Refusal(Code.UNEXPECTED, "this connection has no data keys")
    if key == session.key:
        book.reply([waiting], rekeyed(book, session, key))
    elif key == session.next_key:
        session.rekeyers.append(waiting)
    elif not session.answered or not book.may(session, Input.REKEY):
        raise Refusal(Code.WRONG_STATE, f"the session is {session.state.value}; give it a key when it is reserved or open")
    else:
        check_order(session, key)
        book.move(session, Input.REKEY)
        session.sealer = link.principal
        take(book, session, waiting, key, keys)


def whose(book: Book, link: Link, message: Rekey) -> Session:
    """The session of which a client speaks on an end-to-end connection. Raises Refusal unless it fits what the relay before says."""
    through = link.through
    if through is None:
        raise Refusal(Code.UNEXPECTED, "REKEY travels on an end-to-end connection with the last relay, inside EXTEND")
    session = book.sessions.get(message.session)
    owner = through.previous if through.way is Way.RECURSIVE and through.hop > 1 else link.principal
    if session is None or session.principal != owner or session.request.way is not through.way or session.state is State.CLOSING:
        raise Refusal(Code.UNKNOWN_SESSION, "no such session of yours here; it has ended, or this relay has restarted")
    request = session.request
    if not session.sealing:
        text = "this relay is not the last one" if request.sealed else "the session is not sealed"
        raise Refusal(Code.WRONG_STATE, f"{text}; REKEY is for the last relay of a sealed session")
    if (through.hop, through.previous) != (len(request.path) + 1, "".join(request.path[-1:])):
        came = " > ".join(request.path) or "nobody"
        text = f"EXTEND says hop {through.hop} after {through.previous or 'nobody'}; the session came by {came}"
        raise Refusal(Code.UNEXPECTED, text)
    if through.partner != request.partner:
        text = f"EXTEND says that the session is sent from {through.partner}, OPEN said {request.partner}"
        raise Refusal(Code.NOT_PARTNERS_ADDRESS, text)
    book.policy.check_sealer(link.principal, request.user)
    if session.sealer not in ("", link.principal):
        raise Refusal(Code.USER_NOT_ALLOWED, "another client gave this session its key, so it gives the next one as well")
    return session


def check_order(session: Session, key: Key) -> None:
    """Raises Refusal unless this is a new key after the one in force."""
    last = session.next_key or session.key
    if last is not None and key.link <= last.link:
        which = "this end-to-end connection has" if key.link == last.link else "a later end-to-end connection has"
        raise Refusal(Code.WRONG_STATE, f"{which} given the session its key; a new key takes a new connection")
    if session.next_key is not None:
        raise Refusal(Code.WRONG_STATE, "another key is on its way to the kernel; ask again in a moment")
    if session.state is State.OPEN and key.id in (session.used_id, session.key.id if session.key else b""):
        raise Refusal(Code.WRONG_STATE, "datagrams under a key of this id may be under way; take the next epoch and fresh random bits")


def take(book: Book, session: Session, waiting: Waiting, key: Key, keys: SealKeys) -> None:
    """To the kernel if it has the session, otherwise aside until BIND."""
    if session.state is State.RESERVED:
        lacked, session.key, session.keys = session.lacks_key, key, keys
        if lacked and not session.unconfirmed:  # what was granted runs from here; until now it was the time to give a key
            session.expires = max(session.expires, book.now + session.lease)
            book.set_deadline(session, session.expires)
        book.remember(session, Phase.RESERVED)
        tell(book, session, [waiting], key)
        return
    assert session.mapping is not None
    session.next_key = key
    session.rekeyers.append(waiting)
    book.apply(Seal(session.mapping, keys), partial(sealed, book, session, keys))


def sealed(book: Book, session: Session, keys: SealKeys, outcome: Outcome) -> None:
    """The kernel seals by the new key, or it has lost the session with the old one: then it is told anew."""
    if session.state is State.OPEN and isinstance(outcome, Failed) and outcome.keyless:
        assert session.mapping is not None
        left = max(session.expires - book.now, 0.0) + LEASE_GRACE
        book.apply(Install(session.mapping, left, keys), partial(settled, book, session))
    else:
        settled(book, session, outcome)


def settled(book: Book, session: Session, outcome: Outcome) -> None:
    """The last word of the kernel."""
    key, session.next_key = session.next_key, None
    if session.state is not State.OPEN or key is None:
        return  # ended meanwhile, and whoever waited was told
    if isinstance(outcome, Failed):
        code = Code.DATAPATH_FULL if outcome.full else Code.DATAPATH_FAILED
        why = Refusal(code, f"this relay's kernel did not take the key: {outcome.why}; the one before stays in force")
        book.note_refusal(session.principal, session.id, session.request.user, why)
        book.reply_error(session.rekeyers, why)
        return
    session.used_id, session.key = session.key.id if session.key is not None else b"", key
    book.remember(session, Phase.OPEN)
    tell(book, session, session.rekeyers, key)


def tell(book: Book, session: Session, waiting: list[Waiting], key: Key) -> None:
    """REKEYED, and a line for the log: of the key its id and no more."""
    book.note("rekeyed", session, client=session.sealer, key_id=key.id.hex())
    book.reply(waiting, rekeyed(book, session, key))


def rekeyed(book: Book, session: Session, key: Key) -> Rekeyed:
    """The answer: this relay's own word on its endpoints."""
    assert session.client_side is not None and session.exit is not None
    return Rekeyed(session.id, key.id, session.request.partner, book.policy.announced(session.client_side), session.exit)
