"""The engine as a whole: unknown tokens, deadlines, teardown, what a restart left, and time that does not grow."""

from __future__ import annotations

import time
from ipaddress import ip_address

from chainrelay.datapath.mapping import Counters, Done, Install, LiveFlow, Remove
from chainrelay.errors import Code, Refusal
from chainrelay.limits import PORT_REST
from chainrelay.session.events import Answered, Applied, AskFailed, Candidate, Located, Requested, Tick
from chainrelay.session.prefixes import PortRange
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Close, Protocol
from playbook import ALICE, P1, an_open, an_opened, first, last, play
from standing import opened, opened_last


def test_answers_that_nobody_waits_for_are_dropped() -> None:
    engine = first()
    for event in (
        Located(99, ()),
        Answered(99, P1.address, Authenticated("fw2", an_opened())),
        AskFailed(99, Refusal(Code.NEXT_HOP_TIMEOUT, "")),
        Applied(99, Done(Counters())),
        Tick(),
    ):
        assert engine.handle(event, 0.0) == []
    assert engine.next_deadline() is None


def test_an_answer_counts_once() -> None:
    playing = play(last()).fw1_opens().locates("10.9.0.9").located("10.9.0.9", token=1).applies(Install).done()
    playing.located("10.9.0.9", token=1).done().holds(2, 1)


def test_the_deadline_is_the_lease() -> None:
    playing = opened_last()
    assert playing.engine.next_deadline() == playing.now + 120


def test_teardown_ends_everything_here_and_further_on() -> None:
    playing = opened()
    playing.takes(playing.engine.teardown(playing.now)).applies(Remove).asks(Close).done()
    playing.takes(playing.engine.teardown(playing.now)).done().applied().done().holds(0, 0)
    playing.opens().refuses(Code.DRAINING).done()
    lingering = opened(Protocol.TCP).passes(121).applies(Remove)
    lingering.takes(lingering.engine.teardown(lingering.now)).applies(Remove).asks(Close).applied().applied().done().holds(0, 0)


def test_what_the_kernel_held_before_a_restart_is_left_alone() -> None:
    engine = last(pool=PortRange(20000, 20000))
    flow = LiveFlow(Protocol.UDP, Endpoint.parse("10.0.2.1:20000"), Endpoint.parse("10.0.2.2:20000"), 60.0, 0, 0)
    engine.adopt((), [flow], 1000.0)
    playing = play(engine).fw1_opens().locates("10.9.0.9").located("10.9.0.9").refuses(Code.PORTS_EXHAUSTED)
    playing.passes(60 + PORT_REST).fw1_opens().locates("10.9.0.9").located("10.9.0.9").refuses(Code.PORTS_EXHAUSTED)
    playing.passes(PORT_REST).fw1_opens().locates("10.9.0.9").located("10.9.0.9").applies(Install)


def test_time_per_session_does_not_grow() -> None:
    """Opens, closes and deadlines with 0 and with 8,000 sessions standing; and nothing is kept of those that closed."""
    engine = last(pool=PortRange(1024, 65535), sessions_per_principal=10**6, opens_per_second=1e9)
    found = (Candidate(ip_address("10.9.0.9"), ip_address("10.3.0.2"), 1500),)
    now, number = 1000.0, 0

    def one(*, closes: bool) -> None:
        nonlocal now, number
        now, number = now + 0.005, number + 1
        session, here = number.to_bytes(16, "big"), Endpoint(P1.address, 1 + number % 65000)
        locate = engine.handle(Requested(ALICE, number, Authenticated("alice", an_open(session=session, partner=here, origin=here))), now)
        apply = engine.handle(Located(locate[-1].token, found), now)  # type: ignore[union-attr]
        engine.handle(Applied(apply[-1].token, Done(Counters())), now)  # type: ignore[union-attr]
        engine.next_deadline()
        if closes:
            remove = engine.handle(Requested(ALICE, number, Authenticated("alice", Close(session))), now)
            engine.handle(Applied(remove[-1].token, Done(Counters())), now)  # type: ignore[union-attr]

    def timed(count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            one(closes=True)
        return time.process_time() - began

    timed(500)
    before = min(timed(500) for _ in range(3))
    for _ in range(8_000):
        one(closes=False)
    assert len(engine.sessions()) == 8_000
    assert min(timed(500) for _ in range(3)) < 2 * before
    assert len(engine._book._deadlines) < 3 * 8_000
