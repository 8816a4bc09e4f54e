"""A new policy while sessions stand: they stay, except those that it no longer permits."""

from __future__ import annotations

from chainrelay.errors import Code, Refusal
from chainrelay.session import closing
from chainrelay.session.book import Book, server_address
from chainrelay.session.events import NextHop
from chainrelay.session.policy import Policy
from chainrelay.session.ports import PortPool
from chainrelay.session.quotas import Quotas
from chainrelay.session.session import Session
from chainrelay.session.transitions import State
from chainrelay.wire.endpoint import Address

ENDING = (State.CLOSING, State.LINGERING)


def reconfigure(book: Book, policy: Policy) -> None:
    """Put `policy` in force."""
    before = book.policy
    book.policy, book.quotas = policy, Quotas(policy)
    if (before.pool, before.rest, before.avoid) != (policy.pool, policy.rest, policy.avoid):
        book.pool = repool(book, policy)
    revoked = {peer for peer in before.peers.ids() if keys(before, peer) and not keys(before, peer) & keys(policy, peer)}
    for session in list(book.sessions.values()):
        book.quotas.count(session.principal)
        session.row_counted, counted = False, session.row_counted
        try:
            if session.state not in ENDING:
                recheck(book, session, revoked, counted=counted)
        except Refusal as why:
            text = f"the relay's new configuration ends this session: {why.text}"
            closing.end(book, session, Refusal(Code.REVOKED, text))


def keys(policy: Policy, peer: str) -> frozenset[bytes]:
    """The secrets shared with a partner."""
    row = policy.peers.get(peer)
    return frozenset(key.secret for key in row.keys) if row else frozenset()


def recheck(book: Book, session: Session, revoked: set[str], *, counted: bool) -> None:
    """Whether a standing session could be opened today. Raises Refusal."""
    if session.principal in revoked:
        raise Refusal(Code.REVOKED, f"the keys of {session.principal} were revoked")
    book.policy.check_principal(session.link, session.request)
    if session.sealer:
        if session.sealer in revoked:
            raise Refusal(Code.REVOKED, f"the keys of {session.sealer}, who sealed the session, were revoked")
        book.policy.check_sealer(session.sealer, session.request.user)
    session.row = book.policy.permit(session.link, session.request, known_host(session), session.target.port)
    if counted:
        book.quotas.count_row(session.row, session.request.user)
        session.row_counted = True


def known_host(session: Session) -> Address | str | None:
    """The destination as this relay knows it."""
    if isinstance(session.via, NextHop):
        return session.target.host
    host = session.request.server.host
    return session.server_address or (None if isinstance(host, str) else host)


def repool(book: Book, policy: Policy) -> PortPool:
    """A pool with the new range in which the standing sessions' ports are taken. What rested in the old one rests no longer."""
    pool = PortPool(policy.pool, policy.rest, policy.avoid)
    for session in book.sessions.values():
        sides = ((session.client_side, session.request.partner.address), (session.server_side, server_address(session)))
        for own, partner in sides:
            if own is not None:
                for offset in range(session.request.components):
                    pool.occupy(own.next(offset), partner)
    return pool
