"""A restart: the journal's records and the kernel's flows become sessions again, or come to their end (docs/design.md §14).

Keep what is alive, put back what the kernel has lost, go on with what was half done, remove what is orphaned; then ask the next
relays whether they still know them. Flows that no record explains are left to their leases, and their ports with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial

from chainrelay.datapath.mapping import Failed, Flow, LiveFlow, Mapping, Outcome, Renew
from chainrelay.errors import Code, Refusal
from chainrelay.limits import LEASE_GRACE
from chainrelay.session import closing
from chainrelay.session.answers import GONE, read_answer
from chainrelay.session.book import Book, server_address
from chainrelay.session.events import Answered, AskFailed, NextHop, Note
from chainrelay.session.opening import ask_next
from chainrelay.session.record import Phase, Record
from chainrelay.session.reloading import recheck
from chainrelay.session.session import Session
from chainrelay.session.tables import DIRECT, Allow
from chainrelay.session.transitions import State
from chainrelay.wire.messages import Protocol, Status, StatusReport

Arriving = tuple[Protocol, int, int, int, int]
"""A tuple as it arrives, as numbers: addresses are slow to hash."""


def adopt(book: Book, records: Iterable[Record], flows: Iterable[LiveFlow]) -> None:
    """All of it. Ports are taken before anything is asked or told."""
    alive = {arriving(flow): flow for flow in flows}
    sessions = [(revive(book, record), record) for record in records]
    counted: Counter[str] = Counter()
    for session, record in sessions:
        counted[take_up(book, session, record, alive)] += 1
    for flow in alive.values():
        book.pool.occupy(flow.destination, flow.source.address, book.now + flow.expires + book.policy.rest)
        book.unknown_until = max(book.unknown_until, book.now + flow.expires)
    if sessions or alive:
        fields = {**{name: counted[name] for name in ("kept", "put_back", "gone_on", "removed")}, "unknown_flows": len(alive)}
        book.effects.append(Note("adopted", tuple(fields.items())))


def arriving(flow: LiveFlow | Flow) -> Arriving:
    """The key by which the kernel's flow and the record's meet."""
    source, destination = flow.source, flow.destination
    return flow.protocol, int(source.address), source.port, int(destination.address), destination.port


def revive(book: Book, record: Record) -> Session:
    """The session as it was, with its ports and its partners taken; its state is not set yet."""
    request = record.request
    via, row = record.next_hop or DIRECT, Allow(request.user)  # the row that permits it is looked up again
    session = Session(next(book.serials), record.link, request, via, row, record.created, record.lease)
    session.client_side, session.server_side, session.server_address = record.client_side, record.server_side, record.server_address
    session.exit, session.path, session.bound = record.exit, record.path, record.bound
    session.mtu, session.counters, session.sealer = record.mtu, record.counters, record.sealer
    session.expires, session.active = record.expires, book.now
    session.remembered, session.asked = True, session.delegate is not None
    book.add(session)
    for own, partner in ((session.client_side, request.partner.address), (session.server_side, server_address(session))):
        for offset in range(request.components):
            book.pool.occupy(own.next(offset), partner)
    if record.server_partner is not None and book.claim(session, record.server_partner):
        session.mapping = Mapping(
            request.session,
            request.protocol,
            request.components,
            request.partner,
            record.client_side,
            record.server_side,
            record.server_partner,
            sealed=session.sealing,
        )
        session.installed = record.phase in (Phase.OPEN, Phase.CLOSING)
    return session


def take_up(book: Book, session: Session, record: Record, alive: dict[Arriving, LiveFlow]) -> str:
    """Set its state and order what follows. Returns what was done; its flows are taken out of `alive`."""
    flows = [flow for pair in session.mapping.flows() for flow in pair] if session.mapping is not None else []
    ours = [key for key in map(arriving, flows) if key in alive and alive[key].sealed == session.sealing]
    here = [alive.pop(key) for key in ours]
    session.state = State.OPEN if session.installed else State.RESERVED
    session.answered = record.phase is not Phase.ASKED
    if record.phase is Phase.CLOSING:
        return remove(book, session, Refusal(Code.UNKNOWN_SESSION, "it was being closed when this relay stopped"))
    try:
        recheck(book, session, set(), counted=True)
    except Refusal as why:
        return remove(book, session, Refusal(Code.REVOKED, f"the relay's configuration no longer permits this session: {why.text}"))
    if session.sealing and not book.seals:
        text = "this relay can't open and seal any more: it takes the XDP fast path"
        return remove(book, session, Refusal(Code.SEAL_NOT_AVAILABLE, text))
    hop = session.delegate
    if record.phase is Phase.ASKED and hop is not None:
        session.state = State.ASKING
        ask_next(book, session, hop)
        return "gone_on"
    whole = bool(flows) and len(here) == len(flows)
    if whole:
        session.expires = book.now + min(flow.expires for flow in here) - LEASE_GRACE
    if session.expires <= book.now:
        return remove(book, session, Refusal(Code.LEASE_ENDED, "the lease ended while this relay was not running"))
    book.set_deadline(session, session.expires)
    if session.mapping is not None and not whole:
        put_back(book, session, session.mapping)
    if hop is not None:
        book.ask(hop, Status(session.id), partial(known_further, book, session, hop))
    return "put_back" if flows and not whole else "kept"


def remove(book: Book, session: Session, why: Refusal) -> str:
    """End it here and further on."""
    closing.end(book, session, why)
    return "removed"


def known_further(book: Book, session: Session, hop: NextHop, event: Answered | AskFailed) -> None:
    """The next relay's answer to STATUS: only that it does not know the session is of interest."""
    answer = read_answer(event, hop, StatusReport, session.id)
    if isinstance(answer, Refusal) and answer.code in GONE and session.state in (State.OPEN, State.RESERVED):
        session.asked = False
        closing.end(book, session, answer)


def put_all_back(book: Book) -> None:
    """The kernel has lost everything: every session that forwards is told again."""
    standing = [session for session in book.sessions.values() if session.state is State.OPEN and session.mapping is not None]
    book.effects.append(Note("rules-lost", (("sessions", len(standing)),), refusal=False))
    for session in standing:
        assert session.mapping is not None
        put_back(book, session, session.mapping)


def put_back(book: Book, session: Session, mapping: Mapping) -> None:
    """Renew puts back what is not there, for what is left of the lease."""
    left = max(session.expires - book.now, 0.0) + LEASE_GRACE
    book.apply(Renew(mapping, left), partial(was_put_back, book, session))


def was_put_back(book: Book, session: Session, outcome: Outcome) -> None:
    """If it was not, the next renewal tries again; until then nothing is forwarded. Without its data keys a renewal won't help: the
    client hears so from it, and gives others."""
    if isinstance(outcome, Failed):
        code, how = (Code.SEAL_KEY_MISSING, "give a new key") if outcome.keyless else (Code.DATAPATH_FAILED, "renew")
        why = Refusal(code, f"this relay's kernel did not take the session back: {outcome.why}; {how} to try again")
        book.note_refusal(session.principal, session.id, session.request.user, why)
