"""What a leg's user hears of a chain that refuses or is silent, in which order, and what follows from his own mistakes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chainrelay.client import Trouble
from chainrelay.client import leg as leg_module
from chainrelay.client import trouble as trouble_module
from chainrelay.client.leg import RelayedLeg
from chainrelay.errors import Code, Refusal
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.messages import Answer, Close, Open, Renew, Request
from unit.client.fake_relay import run, until
from unit.client.test_leg import Script, accept, refusal, wanted


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hundredths of a second, and kernels that end with the lease."""
    monkeypatch.setattr(leg_module, "RENEW_RETRY", 0.01)
    monkeypatch.setattr(leg_module, "RECONNECT_LAST", 0.02)
    monkeypatch.setattr(trouble_module, "LEASE_GRACE", 0.0)
    monkeypatch.setattr(trouble_module, "RENEW_SILENCE", 0.1)


class Slow(Script):
    """Takes its time for what is asked after OPEN."""

    delay = 0.0

    async def request(self, message: Request, timeout: float = 5) -> Authenticated[Answer]:
        if not isinstance(message, Open):
            await asyncio.sleep(self.delay)
        return await super().request(message, timeout)


def silent(script: Script) -> list[Refusal | Answer]:
    said: list[Refusal | Answer] = [refusal(Code.NEXT_HOP_TIMEOUT)] * 10_000
    script.say[Renew] = said
    return said


def test_it_is_told_once_again_when_the_leases_have_ended_and_when_it_is_over() -> None:
    async def scenario() -> None:
        script, told = Script(lease=1), list[Trouble | None]()
        leg = RelayedLeg(script, wanted(), accept, on_trouble=told.append)
        await leg.open()
        said = silent(script)
        leg.look_now()
        await until(lambda: len(told) == 1)
        assert isinstance(told[0], Trouble)
        assert 0 < told[0].left <= 1
        assert told[0].refusal.code is Code.NEXT_HOP_TIMEOUT
        await until(lambda: len(told) == 2)
        assert isinstance(told[1], Trouble)
        assert told[1].left == 0
        asked = len(script.asked)
        await until(lambda: len(script.asked) > asked + 5)
        assert len(told) == 2
        said.clear()
        await until(lambda: len(told) == 3)
        assert told[2] is None
        await leg.close()
        await asyncio.sleep(0.2)
        assert len(told) == 3, "no timer is left"

    run(scenario())


def test_silence_is_told_before_one_gives_up_and_the_leases_end_at_its_time() -> None:
    async def scenario() -> None:
        script, told = Slow(lease=1), list[Trouble | None]()
        leg = RelayedLeg(script, wanted(), accept, on_trouble=told.append)
        await leg.open()
        opened, script.delay = asyncio.get_running_loop().time(), 60.0
        leg.look_now()
        await until(lambda: len(told) == 1)
        assert isinstance(told[0], Trouble)
        assert "has not answered for 0.1 s" in told[0].refusal.text
        assert 0.5 < told[0].left <= 1
        await until(lambda: len(told) == 2)
        assert isinstance(told[1], Trouble)
        assert told[1].left == 0
        assert 0.9 < asyncio.get_running_loop().time() - opened < 1.5, "not when the attempt has come to its end"
        script.delay = 0.0
        await leg.close()

    run(scenario())


def test_an_answer_in_time_is_no_trouble() -> None:
    async def scenario() -> None:
        script, told = Slow(), list[Trouble | None]()
        leg = RelayedLeg(script, wanted(), accept, on_trouble=told.append)
        await leg.open()
        script.delay = 0.03
        for _ in range(6):  # together longer than the silence that is told
            script.asked.clear()
            leg.look_now()
            await until(lambda: Renew in script.kinds())
        await asyncio.sleep(0.15)
        assert told == []
        await leg.close()

    run(scenario())


def test_who_has_forgotten_it_and_can_not_open_it_again_lets_nothing_pass() -> None:
    async def scenario() -> None:
        script, told, order = Script(), list[Trouble | None](), list[str]()

        def trouble(what: Trouble | None) -> None:
            told.append(what)
            order.append("back" if what is None else "trouble")

        leg = RelayedLeg(script, wanted(), accept, on_moved=lambda: order.append("moved"), on_trouble=trouble)
        await leg.open()
        script.port += 2
        script.say[Renew] = [refusal(Code.UNKNOWN_SESSION)] * 2
        script.say[Open] = [refusal(Code.PORTS_EXHAUSTED)]
        leg.look_now()
        await until(lambda: len(told) == 2)
        assert isinstance(told[0], Trouble)
        assert (told[0].left, told[0].refusal.code, told[1]) == (0, Code.PORTS_EXHAUSTED, None)
        assert order == ["trouble", "moved", "back"], "whoever sends when it is back sends to the new entry"
        await leg.close()

    run(scenario())


def test_a_callback_that_fails_does_not_end_the_session() -> None:
    async def scenario() -> None:
        script, faults = Script(), list[dict[str, Any]]()
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))

        def fails(*_: object) -> None:
            raise ZeroDivisionError

        leg = RelayedLeg(script, wanted(), accept, on_moved=fails, on_ended=fails, on_trouble=fails)
        await leg.open()
        script.port += 2
        script.say[Renew] = [refusal(Code.NEXT_HOP_TIMEOUT), refusal(Code.UNKNOWN_SESSION)]
        leg.look_now()
        await until(lambda: len(faults) == 3)
        script.asked.clear()
        leg.look_now()
        await until(lambda: Renew in script.kinds())
        script.say[Renew] = [refusal(Code.REVOKED)]
        leg.look_now()
        await until(lambda: len(faults) == 4)
        assert all(isinstance(fault["exception"], ZeroDivisionError) for fault in faults)
        await leg.close()

    run(scenario())


@pytest.mark.parametrize(
    ("code", "lingers"), [(Code.NEXT_HOP_TIMEOUT, True), (Code.UNKNOWN_SESSION, False), (Code.LEASE_ENDED, False)]
)
def test_a_close_that_nobody_heard_lingers(code: Code, lingers: bool) -> None:
    async def scenario() -> None:
        script = Script(lease=1)
        leg = RelayedLeg(script, wanted(), accept)
        await leg.open()
        script.say[Close] = [refusal(code)]
        assert await leg.close() == ()
        assert (0 < leg.lingers <= 1) is lingers

    run(scenario())


def test_a_close_that_not_every_relay_heard_lingers() -> None:
    async def scenario() -> None:
        script = Script(lease=1)
        leg = RelayedLeg(script, wanted(), accept)
        await leg.open()
        script.heard = 0
        await leg.close()
        assert 0 < leg.lingers <= 1

    run(scenario())


def test_a_lease_counts_from_the_question() -> None:
    """The relay's clock has run while its answer was under way."""

    async def scenario() -> None:
        script = Slow(lease=1)
        leg = RelayedLeg(script, wanted(), accept)
        await leg.open()
        script.delay = 0.4
        script.asked.clear()
        leg.look_now()
        await until(lambda: Renew in script.kinds())
        await asyncio.sleep(0.05)
        script.delay = 0.0
        script.say[Close] = [refusal(Code.NEXT_HOP_TIMEOUT)]
        await leg.close()
        assert 0 < leg.lingers < 0.7

    run(scenario())
