"""What runs out or breaks at a relay behind the first: limits, ports, the kernel's rules, routes that lead in circles.

The client hears which hop and why; nothing is left before it nor behind it; and when the cause is gone, it goes on by itself.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chainrelay.errors import Code
from chainrelay.wire.endpoint import Target, parse_address
from chainrelay.wire.messages import Close, Closed, Error, Opened
from e2e.chain import Chain
from e2e.health import assert_healthy
from e2e.stranger import Insider, alice, an_open
from lab import wait
from lab.host import Namespace
from lab.remains import remains

pytestmark = pytest.mark.root

TINY = 'pool = "20000-20003"'
ANYWHERE = '[[allow]]\nuser = "alice"\n'


# limits and ports ----------------------------------------------------------------


def test_limits_of_sessions_and_of_rate() -> None:
    """fw1 lets alice hold two sessions; fw2 lets fw1 open four a second. Each says so itself."""
    extra = {"fw1": "[limits]\nsessions_per_principal = 2\n", "fw2": "[limits]\nopens_per_second = 4\n"}
    with Chain(2, (4,), extra=extra) as chain, alice(chain) as insider:
        held = [an_open(chain, port=port) for port in (40000, 40001)]
        assert all(isinstance(insider.ask(each), Opened) for each in held)
        refused = insider.ask(an_open(chain, port=40002))
        assert isinstance(refused, Error)
        assert (refused.code, refused.hop) == (Code.SESSION_LIMIT, "fw1")
        for each in held:
            assert isinstance(insider.ask(Close(each.session)), Closed)
        answers = [open_and_close(chain, insider) for _ in range(12)]
        refusals = [each for each in answers if isinstance(each, Error)]
        assert 0 < len(refusals) < 12
        assert {(each.code, each.hop) for each in refusals} == {(Code.RATE_LIMIT, "fw2")}
        assert chain.leftovers() == {}
        wait.until(lambda: isinstance(open_and_close(chain, insider), Opened), "a second to pass", 3)
        time.sleep(1)  # a full bucket for the look at its health
        assert_healthy(chain)


def test_ports_that_run_out_further_on() -> None:
    """The last relay's pool holds four: the fifth session is refused there, and relay 1 gives its own ports back."""
    with Chain(2, (4,), rest=0) as chain:
        last = chain.relays.agents[1]
        file = last.directory / "agent.toml"
        file.write_text(file.read_text().replace('pool = "20000-29999"', TINY))
        last.stop()
        last.start()
        with alice(chain) as insider:
            wait.until(lambda: isinstance(open_and_close(chain, insider), Opened), "relay 2 to be used again", 8)
            held = [an_open(chain, port=port) for port in range(40000, 40004)]
            assert all(isinstance(insider.ask(each), Opened) for each in held)
            standing = chain.leftovers()
            refused = insider.ask(an_open(chain, port=40004))
            assert isinstance(refused, Error)
            assert (refused.code, refused.hop) == (Code.PORTS_EXHAUSTED, "fw2")
            assert {name: len(lines) for name, lines in chain.leftovers().items()} == {
                name: len(lines) for name, lines in standing.items()
            }
            for each in held:
                assert isinstance(insider.ask(Close(each.session)), Closed)
        assert_healthy(chain)


def test_refusals_further_on_cost_no_ports() -> None:
    """Twenty refusals at the last of three relays, with pools of four ports: one port that did not return would show."""
    names = [f"fw{number}" for number in (1, 2, 3)]
    with Chain(3, (4,), pool="20000-20003", rest=0, allow=dict.fromkeys(names, ANYWHERE)) as chain, alice(chain) as insider:
        target = Target(parse_address("192.0.2.9"), 5004)
        for _ in range(20):
            answer = insider.ask(an_open(chain, server=target))
            assert isinstance(answer, Error)
            assert (answer.code, answer.hop) == (Code.NO_ROUTE, "fw3")
        held = [an_open(chain, port=port) for port in range(40000, 40004)]
        assert all(isinstance(insider.ask(each), Opened) for each in held)
        for each in held:
            assert isinstance(insider.ask(Close(each.session)), Closed)
        assert_healthy(chain)


# the kernel ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> Iterator[Chain]:
    """Three relays, so that one of them stands in the middle."""
    with Chain(3, (4,)) as chain:
        assert_healthy(chain)
        yield chain


@pytest.mark.parametrize("hop", [1, 2, 3])
def test_a_kernel_that_takes_no_rules(three: Chain, hop: int) -> None:
    """Somebody else owns the table: the relays behind had installed already, and let go; the ones before never install."""
    with alice(three) as insider:
        with table_taken(three.firewalls[hop - 1].host):
            for _ in range(2):
                answer = insider.ask(an_open(three))
                assert isinstance(answer, Error)
                assert (answer.code, answer.hop) == (Code.DATAPATH_FAILED, f"fw{hop}"), answer.text
                assert "kernel" in answer.text
            others = [each.host for each in three.firewalls if each.number != hop]  # nft's JSON of an owned table is none
            wait.until(lambda: not any(remains(each).of_sessions for each in others), "the relays behind to let go")
        assert isinstance(open_and_close(three, insider), Opened)
    assert_healthy(three)


@pytest.mark.parametrize("command", [["delete", "table", "ip", "chainrelay"], ["flush", "ruleset"]])
def test_rules_that_an_administrator_removed_come_back(three: Chain, command: list[str]) -> None:
    """With the next session, and the gate with them."""
    host = three.firewalls[1].host
    before = host.run(["nft", "list", "ruleset"]).stdout
    host.run(["nft", *command])
    with alice(three) as insider:
        assert isinstance(open_and_close(three, insider), Opened)
    table = host.run(["nft", "list", "table", "ip", "chainrelay"]).stdout
    assert "chain gate" in table
    host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{before}")
    assert_healthy(three)


@contextmanager
def table_taken(host: Namespace) -> Iterator[None]:
    """Another process owns `ip chainrelay` (nft's `flags owner`): the kernel refuses everybody else's changes to it."""
    saved = host.run(["nft", "list", "table", "ip", "chainrelay"]).stdout
    owner = host.popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert owner.stdin is not None
    owner.stdin.write("delete table ip chainrelay\nadd table ip chainrelay { flags owner; }\n")
    owner.stdin.flush()

    wait.until(lambda: _refused(host), "the table to be taken")
    try:
        yield
    finally:
        owner.stdin.close()
        owner.wait(5)
        wait.until(lambda: not _refused(host), "the table to be free")
        host.run(["nft", "-f", "-"], stdin=f"table ip chainrelay\ndelete table ip chainrelay\n{saved}")


def _refused(host: Namespace) -> bool:
    """Whether a change of the table is refused to us as not permitted."""
    done = host.run(["nft", "add", "chain", "ip", "chainrelay", "probe"], check=False)
    return "not permitted" in done.stderr


# routes --------------------------------------------------------------------------


def test_routes_that_lead_in_a_circle() -> None:
    """fw1 → fw2 → fw1: fw2 sees fw1 in the path and says so; nothing is left at either."""
    with Chain(2, (4,)) as chain:
        first, last = chain.firewalls[0], chain.relays.agents[1]
        file = last.directory / "routes.toml"
        straight = file.read_text()
        file.write_text(f'[[route]]\nto = "*"\nvia = "fw1"\nat = "{first.right.address(4)}:9798"\n')
        last.reload()
        with alice(chain) as insider:
            answer = wait.until(lambda: looped(chain, insider), "the new routes")
            assert answer is not None
            assert (answer.code, answer.hop) == (Code.LOOP, "fw2")
            assert "fw1 > fw2" in answer.text
        assert chain.leftovers() == {}
        file.write_text(straight)
        last.reload()
        with alice(chain) as insider:
            wait.until(lambda: isinstance(open_and_close(chain, insider), Opened), "the old routes")
        assert_healthy(chain)


def looped(chain: Chain, insider: Insider) -> Error | None:
    """The refusal of a session; None while it still opens."""
    answer = open_and_close(chain, insider)
    return answer if isinstance(answer, Error) else None


def open_and_close(chain: Chain, insider: Insider) -> Opened | Error:
    """The answer to OPEN; what it opened is closed."""
    request = an_open(chain)
    answer = insider.ask(request)
    if isinstance(answer, Opened):
        assert isinstance(insider.ask(Close(request.session)), Closed)
        return answer
    assert isinstance(answer, Error)
    return answer
