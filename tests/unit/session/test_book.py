"""The book's own part: deadlines that are replaced, and claims on pairs of partners."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from chainrelay.session.book import Book
from chainrelay.session.session import Session
from chainrelay.session.tables import DIRECT, Allow
from chainrelay.wire.endpoint import Endpoint
from playbook import ALICE, FIRST, P1, an_open

SERIALS = count(1)


def session(number: int, port: int = P1.port, components: int = 1) -> Session:
    request = an_open(session=number.to_bytes(16, "big"), partner=Endpoint(P1.address, port), components=components)
    return Session(next(SERIALS), ALICE, request, DIRECT, Allow("*"), 0.0, 120)


@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 50)), st.integers(0, 8)), max_size=60))
def test_a_session_is_due_once_at_its_last_deadline(script: list[tuple[int, int | None, int]]) -> None:
    book = Book("fw1", FIRST)
    sessions = [session(number) for number in range(4)]
    for one in sessions:
        book.add(one)
    wanted: dict[int, float] = {}
    for which, ahead, passed in script:
        book.now += passed
        due = set()
        while (ended := book.due()) is not None:
            due.add(sessions.index(ended))
        assert due == {number for number, at in wanted.items() if at <= book.now}
        wanted = {number: at for number, at in wanted.items() if at > book.now}
        if ahead is None:
            sessions[which].deadline = None
            wanted.pop(which, None)
        else:
            book.set_deadline(sessions[which], book.now + ahead)
            wanted[which] = book.now + ahead
        following = book.next_deadline()
        assert not wanted or (following is not None and following <= min(wanted.values()))


def test_claims_are_exclusive_in_both_directions_and_per_component() -> None:
    book, server = Book("fw1", FIRST), Endpoint.parse("10.9.0.9:6000")
    one, other = session(1, 5000, 2), session(2, 5001)
    assert book.claim(one, server)
    assert not book.claim(other, server.next(1))
    assert book.claim(other, server)
    book.release_claims(one)
    assert book.claim(session(3, 5001), server.next(1))
    itself = session(4, 5000)
    assert not book.claim(itself, itself.request.partner)
