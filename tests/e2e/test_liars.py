"""A next relay that holds the right key and does wrong: it names third parties, answers what nobody asked, or is silent.

Relay 1 is a real agent, relay 2 an impostor on relay 2's host. Whatever it says, the client hears from relay 1 why it gets no
session, CLOSE goes to the liar, and relay 1 keeps nothing.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from chainrelay.errors import Code
from chainrelay.limits import ASK_TIMEOUT
from chainrelay.wire import cbor
from chainrelay.wire.codec import encode
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Answer, Bound, Close, Closed, Error, Open, Opened, Request
from e2e.chain import Chain
from e2e.health import assert_healthy
from e2e.stranger import Answering, Impostor, Insider, alice, an_open, control, pair_key
from lab import wait

pytestmark = pytest.mark.root

ACCESS = """[[allow]]
user = "alice"
[[answer]]
relay = "fw2"
exit = ["10.3.0.0/24", "fd00:3::/64"]
"""
ENTRY, EXIT = "10.2.0.2:20000", "10.3.0.1:20000"

Lie = Callable[[Open], "Answer | bytes | None"]
Lying = tuple[Chain, list[Lie], Impostor]

LIES = {
    "entry of a third party": ("10.2.0.77:20000", EXIT),
    "entry at the server": ("10.3.0.2:20000", EXIT),
    "entry at relay 1 itself": ("10.2.0.1:20000", EXIT),
    "entry at the client": ("10.1.0.1:20000", EXIT),
    "entry at a service": ("10.2.0.2:22", EXIT),
    "entry of another family": ("[fd00:2::2]:20000", EXIT),
    "exit of another family": (ENTRY, "[fd00:3::1]:20000"),
    "both of another family": ("[fd00:2::2]:20000", "[fd00:3::1]:20000"),
    "exit at loopback": (ENTRY, "127.0.0.1:20000"),
    "exit at multicast": (ENTRY, "224.0.0.1:20000"),
    "exit at relay 1 itself": (ENTRY, "10.1.0.2:20000"),
    "exit outside of the answer table": (ENTRY, "198.51.100.9:20000"),
}


@pytest.fixture(scope="module")
def lied() -> Iterator[Chain]:
    """Relay 1 with an [[answer]] row for relay 2, whose agent is not running; at the end the real one serves again."""
    with Chain(2, allow={"fw1": ACCESS}) as chain:
        last = chain.relays.agents[1]
        last.stop()
        yield chain
        last.start()
        wait.until(lambda: healthy(chain), "the real relay 2 to be used again", 15)


def healthy(chain: Chain) -> bool:
    """Whether everything is as it should be; relay 1 may still pause before it connects again."""
    try:
        assert_healthy(chain)
    except AssertionError:
        return False
    return True


@contextmanager
def impostor(chain: Chain, answering: Answering) -> Iterator[Impostor]:
    """In relay 2's place with relay 2's key."""
    second = chain.firewalls[1]
    with Impostor(second.host, control(second), "fw2", {"fw1": pair_key(chain, "fw1", "fw2")}, answering) as liar:
        yield liar


def saying(answer: Lie) -> Answering:
    """`answer` to OPEN; CLOSE is answered as it should be."""

    def answering(request: Request) -> Answer | bytes | None:
        match request:
            case Open():
                return answer(request)
            case Close(session):
                return Closed(session, ())
            case _:
                return None

    return answering


def opened(request: Open, entry: str = ENTRY, leave: str = EXIT) -> Opened:
    """An answer that names these."""
    return Opened(request.session, Endpoint.parse(entry), Endpoint.parse(leave), 30, 1400, complete=True, path=(*request.path, "fw2"))


def refused(chain: Chain, liar: Impostor) -> Error:
    """What alice hears; relay 1 has told the liar to forget it, and has forgotten it."""
    with alice(chain) as insider:
        request = an_open(chain)
        answer = insider.ask(request)
        assert isinstance(answer, Error)
        wait.until(lambda: any(isinstance(each, Close) and each.session == request.session for each in liar.asked), "CLOSE", 15)
        assert chain.leftovers() == {}
        again = insider.ask(Close(request.session))
        assert isinstance(again, Error)
        assert again.code is Code.UNKNOWN_SESSION
    return answer


@pytest.fixture(scope="module")
def liar(lied: Chain) -> Iterator[Lying]:
    """One impostor for many lies, already connected; the last of the list is what it says.

    That it connects is the control of the tests: the truth, told in the same way, opens a session.
    """
    lies: list[Lie] = [opened]
    with impostor(lied, saying(lambda request: lies[-1](request))) as running, alice(lied) as insider:  # noqa: PLW0108  the last one then
        wait.until(lambda: opens(lied, insider), "relay 1 to connect", 8)
        yield lied, lies, running


def opens(chain: Chain, insider: Insider) -> bool:
    """Whether a session opens, with the exit that relay 2 names (and is closed again)."""
    request = an_open(chain)
    answer = insider.ask(request)
    if not isinstance(answer, Opened):
        return False
    assert str(answer.exit) == EXIT
    assert isinstance(insider.ask(Close(request.session)), Closed)
    return True


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_endpoints_is_denied(liar: Lying, lie: str) -> None:
    chain, lies, running = liar
    lies.append(lambda request: opened(request, *LIES[lie]))
    answer = refused(chain, running)
    assert (answer.code, answer.hop) == (Code.ANSWER_DENIED, "fw1"), answer.text
    assert "fw2" in answer.text


@pytest.mark.parametrize("kind", ["another session", "another answer"])
def test_an_answer_to_something_else_is_refused(liar: Lying, kind: str) -> None:
    chain, lies, running = liar
    other = bytes(range(16))
    wrong: dict[str, Lie] = {
        "another session": lambda request: replace(opened(request), session=other),
        "another answer": lambda request: Bound(request.session, 1400),
    }
    lies.append(wrong[kind])
    answer = refused(chain, running)
    assert (answer.code, answer.hop) == (Code.UNEXPECTED, "fw2"), answer.text


def test_a_refusal_with_a_hop_is_passed_on(liar: Lying) -> None:
    """An honest ERROR arrives unchanged; nothing need be closed there."""
    chain, lies, _ = liar
    lies.append(lambda _: Error(Code.NO_ROUTE, "fw7", "no route to there"))
    with alice(chain) as insider:
        answer = insider.ask(an_open(chain))
    assert answer == Error(Code.NO_ROUTE, "fw7", "no route to there")
    assert chain.leftovers() == {}


MALFORMED: dict[str, Callable[[Open], bytes]] = {
    "exit at port 0": lambda request: changed(request, 4, 0),
    "entry at port 0": lambda request: changed(request, 3, 0),
    "garbage": lambda _: b"\xff" * 40,
    "a request": lambda request: encode(1, request),
}


def changed(request: Open, key: int, port: int) -> bytes:
    """An OPENED whose endpoint `key` has that port; no encoder of ours would make it."""
    body = cbor.decode(encode(1, opened(request)))
    body[key] = body[key][:-2] + port.to_bytes(2, "big")
    return cbor.encode(body)


@pytest.mark.long
@pytest.mark.parametrize("kind", MALFORMED)
def test_an_answer_that_can_not_be_read_cuts_the_connection(liar: Lying, kind: str) -> None:
    """Relay 1 connects again and asks again, at its leisure, until the time is up; then the client hears of it."""
    chain, lies, running = liar
    lies.append(MALFORMED[kind])
    before, began = running.connections, time.monotonic()
    with alice(chain) as insider:
        answer = insider.ask(an_open(chain))
    assert isinstance(answer, Error)
    assert (answer.code, answer.hop) == (Code.NEXT_HOP_TIMEOUT, "fw1")
    assert "break the protocol" in answer.text
    assert running.connections - before <= 8, "relay 1 hammers at a neighbour that breaks the protocol"
    assert time.monotonic() - began < 2 * ASK_TIMEOUT
    assert chain.leftovers() == {}


@pytest.mark.long
def test_an_answer_that_nobody_asked_for_is_no_answer(liar: Lying) -> None:
    """Another request number: ignored, so the question ends in silence."""
    chain, lies, running = liar
    lies.append(lambda request: encode(4_000_000_000, opened(request)))
    answer = refused(chain, running)
    assert (answer.code, answer.hop) == (Code.NEXT_HOP_TIMEOUT, "fw1")


@pytest.mark.long
@pytest.mark.timeout(180)
def test_an_answer_that_comes_too_late_is_taken_back(liar: Lying) -> None:
    """The session that relay 2 opened after all is closed there."""
    chain, lies, running = liar

    def late(request: Open) -> Opened:
        time.sleep(2 * ASK_TIMEOUT)
        return opened(request)

    lies.append(late)
    answer = refused(chain, running)
    assert (answer.code, answer.hop) == (Code.NEXT_HOP_TIMEOUT, "fw1")


# real relays that hang -------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("known", [True, False], ids=["connected", "not yet connected"])
def test_a_next_relay_that_hangs(known: bool) -> None:
    """SIGSTOP: its kernel still accepts. After SIGCONT it does what it was asked, and is told to forget it."""
    with Chain(2, (4,)) as chain:
        last = chain.relays.agents[1]
        if known:
            assert_healthy(chain)
        last._process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        try:
            with alice(chain) as insider:
                answer = insider.ask(an_open(chain), 30)
        finally:
            last._process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        assert isinstance(answer, Error)
        assert (answer.code, answer.hop) == (Code.NEXT_HOP_TIMEOUT, "fw1"), answer.text
        assert "fw2" in answer.text
        wait.until(lambda: healthy(chain), "relay 2 to be used again", 15)


@pytest.mark.parametrize("stopped", [2, pytest.param(3, marks=pytest.mark.long)])
def test_the_relay_before_the_one_that_hangs_is_the_one_that_says_so(stopped: int) -> None:
    """Further on patience ends earlier, so the hop that is named is the one whose neighbour hangs."""
    with Chain(stopped + 1, (4,)) as chain:
        assert_healthy(chain)
        agent = chain.relays.agents[stopped]
        agent._process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        try:
            with alice(chain) as insider:
                answer = insider.ask(an_open(chain), 30)
        finally:
            agent._process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        assert isinstance(answer, Error)
        assert (answer.code, answer.hop) == (Code.NEXT_HOP_TIMEOUT, f"fw{stopped}"), answer.text
        wait.until(lambda: healthy(chain), "the relay to be used again", 15)
