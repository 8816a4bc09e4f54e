"""A leg's life against a relay that follows a script: renewal, loss of the link, forgetting, ends, clean failures."""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Address

import pytest

from chainrelay.client import leg as leg_module
from chainrelay.client.leg import FORGOTTEN, PASSING, DirectLeg, RelayedLeg
from chainrelay.errors import Code, Refusal
from chainrelay.limits import MAX_HOPS
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import (
    Answer,
    Bind,
    Bound,
    Close,
    Closed,
    Extend,
    HopCounters,
    Open,
    Opened,
    Protocol,
    Rekey,
    Renew,
    Renewed,
    Request,
    Status,
    StatusReport,
    Way,
)
from unit.client.fake_relay import run, until

P1 = Endpoint(IPv4Address("10.0.0.5"), 40000)
P6 = Target(IPv4Address("10.3.0.2"), 5004)


def wanted(protocol: Protocol = Protocol.UDP) -> Open:
    return Open(os.urandom(16), protocol, Way.RECURSIVE, False, 1, P1, P6, "alice", P1, 0, (), MAX_HOPS)


class Script:
    """Answers everything well, but first what `say` lists for a type. `port` is the entry's, so that a re-OPEN can move it."""

    def __init__(self, lease: int = 120) -> None:
        self.lease, self.port, self.heard = lease, 20000, 1
        self.asked: list[Request] = []
        self.say: dict[type[Request], list[Refusal | Answer]] = {}

    async def request(self, message: Request, timeout: float = 5) -> Authenticated[Answer]:  # noqa: ARG002
        self.asked.append(message)
        if waiting := self.say.get(type(message)):
            said = waiting.pop(0)
            if isinstance(said, Refusal):
                raise said
            return Authenticated("fw1", said)
        entry, leave = Endpoint(IPv4Address("10.0.1.1"), self.port), Endpoint(IPv4Address("10.3.0.1"), self.port)
        match message:
            case Open():
                answer: Answer = Opened(message.session, entry, leave, self.lease, 1400, True, ("fw1",))
            case Bind():
                answer = Bound(message.session, 1300)
            case Renew():
                answer = Renewed(message.session, self.lease)
            case Status():
                answer = StatusReport(message.session, 1, ())
            case Close():
                answer = Closed(message.session, (HopCounters("fw1", 0, 0, 0, 0),) * self.heard)
            case Extend() | Rekey():
                raise AssertionError("a leg extends nothing; the loop does")
        return Authenticated("fw1", answer)

    def kinds(self) -> list[type[Request]]:
        return [type(message) for message in self.asked]


def accept(_opened: Opened) -> None:
    """Any answer will do."""


def refusal(code: Code) -> Refusal:
    return Refusal(code, "said by the script", "fw2")


def test_it_renews_at_a_third_of_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_module, "LEASE_SHORTEST", 0.1)

    async def scenario() -> None:
        script = Script(lease=0)
        leg = RelayedLeg(script, wanted(), accept)
        begin = asyncio.get_running_loop().time()
        await leg.open()
        await until(lambda: script.kinds().count(Renew) == 3)
        assert asyncio.get_running_loop().time() - begin >= 3 * 0.1 / 3
        await leg.close()
        asked = len(script.asked)
        await asyncio.sleep(0.1)
        assert len(script.asked) == asked, "nothing is renewed after CLOSE"
        assert script.kinds()[-1] is Close

    run(scenario())


@pytest.mark.parametrize("code", sorted(PASSING - {Code.NO_ROUTE}))
def test_what_may_pass_is_tried_again(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_module, "RENEW_RETRY", 0.01)

    async def scenario() -> None:
        script, ended = Script(), list[Refusal]()
        leg = RelayedLeg(script, wanted(), accept, on_ended=ended.append)
        await leg.open()
        script.say[Renew] = [refusal(code)] * 3
        leg.look_now()
        await until(lambda: script.kinds().count(Renew) == 4)
        assert script.kinds().count(Open) == 1
        assert ended == []
        await leg.close()

    run(scenario())


@pytest.mark.parametrize("code", sorted(FORGOTTEN))
def test_a_forgotten_session_is_opened_again_under_its_id(code: Code) -> None:
    async def scenario() -> None:
        script, moves = Script(), list[int]()
        leg = RelayedLeg(script, wanted(), accept, on_moved=lambda: moves.append(leg.entry.port))
        await leg.open()
        script.say[Renew] = [refusal(code)]
        leg.look_now()
        await until(lambda: script.kinds().count(Open) == 2)
        assert moves == [], "the same endpoints as before are no move"
        script.port = 20002
        script.say[Renew] = [refusal(code)]
        leg.look_now()
        await until(lambda: moves == [20002])
        assert script.kinds() == [Open, Renew, Close, Open, Renew, Close, Open]
        assert {message.session for message in script.asked} == {leg.id}
        await leg.close()

    run(scenario())


def test_a_bound_session_is_opened_again_with_the_server_it_was_bound_to() -> None:
    async def scenario() -> None:
        script = Script()
        leg = RelayedLeg(script, wanted(), accept)
        await leg.open()
        await leg.bind(Target(IPv4Address("10.3.0.2"), 7000))
        assert leg.mtu == 1300
        script.say[Renew] = [refusal(Code.UNKNOWN_SESSION)]
        leg.look_now()
        await until(lambda: script.kinds().count(Open) == 2)
        last = script.asked[-1]
        assert isinstance(last, Open)
        assert last.server.port == 7000
        await leg.close()

    run(scenario())


def test_opening_again_goes_on_until_the_chain_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_module, "RENEW_RETRY", 0.01)

    async def scenario() -> None:
        script, moves = Script(), list[int]()
        leg = RelayedLeg(script, wanted(), accept, on_moved=lambda: moves.append(1))
        await leg.open()
        script.port = 20002
        script.say[Renew] = [refusal(Code.UNKNOWN_SESSION)] * 3
        script.say[Open] = [refusal(Code.NEXT_HOP_UNREACHABLE), refusal(Code.SESSION_ID_TAKEN)]
        leg.look_now()
        await until(lambda: moves == [1])
        await leg.close()

    run(scenario())


@pytest.mark.parametrize("code", [Code.REVOKED, Code.TOO_OLD, Code.IDLE, Code.ACCESS_DENIED])
def test_what_is_final_ends_it(code: Code) -> None:
    async def scenario() -> None:
        script, ended = Script(), list[Refusal]()
        leg = RelayedLeg(script, wanted(), accept, on_ended=ended.append)
        await leg.open()
        script.say[Renew] = [refusal(code)]
        leg.look_now()
        await until(lambda: len(ended) == 1)
        assert ended[0].code is code
        await leg.close()

    run(scenario())


def test_a_tcp_leg_is_not_opened_again() -> None:
    async def scenario() -> None:
        script, ended = Script(), list[Refusal]()
        leg = RelayedLeg(script, wanted(Protocol.TCP), accept, on_ended=ended.append)
        await leg.open()
        script.say[Renew] = [refusal(Code.UNKNOWN_SESSION)]
        leg.look_now()
        await until(lambda: len(ended) == 1)
        assert script.kinds().count(Open) == 1
        await leg.close()

    run(scenario())


@pytest.mark.parametrize(
    ("code", "closes"), [(Code.NEXT_HOP_TIMEOUT, 1), (Code.ACCESS_DENIED, 0), (Code.NEXT_HOP_UNREACHABLE, 0)]
)
def test_an_open_without_answer_is_closed_as_it_may_have_happened(code: Code, closes: int) -> None:
    async def scenario() -> None:
        script = Script()
        script.say[Open] = [refusal(code)]
        with pytest.raises(Refusal):
            await RelayedLeg(script, wanted(), accept).open()
        assert script.kinds().count(Close) == closes

    run(scenario())


def test_an_open_that_is_cancelled_is_closed() -> None:
    async def scenario() -> None:
        script = Script()
        answered = script.request

        async def slow(message: Request, timeout: float = 5) -> Authenticated[Answer]:
            if isinstance(message, Open):
                await asyncio.sleep(60)
            return await answered(message, timeout)

        script.request = slow  # type: ignore[method-assign]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(RelayedLeg(script, wanted(), accept).open(), 0.05)
        assert script.kinds() == [Close]

    run(scenario())


@pytest.mark.parametrize("wrong", [Renewed(bytes(16), 5), Opened(bytes(16), P1, P1, 5, 1400, True, ())])
def test_an_answer_to_something_else_is_no_answer(wrong: Answer) -> None:
    async def scenario() -> None:
        script = Script()
        script.say[Open] = [wrong]
        with pytest.raises(Refusal) as caught:
            await RelayedLeg(script, wanted(), accept).open()
        assert caught.value.code is Code.UNEXPECTED

    run(scenario())


def test_an_answer_that_is_not_permitted_is_given_back() -> None:
    def deny(_opened: Opened) -> None:
        raise refusal(Code.ANSWER_DENIED)

    async def scenario() -> None:
        script = Script()
        leg = RelayedLeg(script, wanted(), deny)
        with pytest.raises(Refusal):
            await leg.open()
        assert script.kinds() == [Open, Close]
        with pytest.raises(Refusal, match="not open"):
            _ = leg.entry

    run(scenario())


def test_closing_does_not_need_an_answer() -> None:
    async def scenario() -> None:
        script = Script()
        leg = RelayedLeg(script, wanted(), accept)
        await leg.open()
        script.say[Close] = [refusal(Code.NEXT_HOP_UNREACHABLE)]
        assert await leg.close() == ()

    run(scenario())


def test_a_direct_leg_does_not_change_its_family() -> None:
    async def scenario() -> None:
        leg = DirectLeg(bytes(16), P1, Endpoint(IPv4Address("10.3.0.2"), 0), 1472)
        with pytest.raises(Refusal) as caught:
            await leg.bind(Target.parse("[::1]:5004"))
        assert caught.value.code is Code.MIXED_FAMILIES
        assert leg.exit == P1

    run(scenario())


def test_a_close_that_nobody_heard_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until somebody does, in the hands of whoever keeps the link; what is refused for good is not."""
    monkeypatch.setattr(leg_module, "RENEW_RETRY", 0.01)

    async def scenario() -> None:
        for say, times in (([Code.NEXT_HOP_UNREACHABLE] * 3, 4), ([Code.NEXT_HOP_TIMEOUT, Code.UNKNOWN_SESSION], 2)):
            script = Script()
            leg, kept = RelayedLeg(script, wanted(), lambda _opened: None), set[asyncio.Task[None]]()
            leg.later = lambda work, kept=kept: kept.add(asyncio.ensure_future(work))
            await leg.open()
            script.say[Close] = [Refusal(code, "away") for code in say]
            assert await leg.close() == ()
            await asyncio.gather(*kept)
            assert [type(each) for each in script.asked].count(Close) == times

    run(scenario())


def test_a_close_is_not_said_for_longer_than_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_module, "RENEW_RETRY", 0.01)

    async def scenario() -> None:
        script = Script(lease=1)
        leg, kept = RelayedLeg(script, wanted(), lambda _opened: None), set[asyncio.Task[None]]()
        leg.later = lambda work: kept.add(asyncio.ensure_future(work))
        await leg.open()
        script.say[Close] = [Refusal(Code.NEXT_HOP_UNREACHABLE, "away")] * 10_000
        await leg.close()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*kept)
        assert 0.9 < asyncio.get_running_loop().time() - began < 3

    run(scenario())
