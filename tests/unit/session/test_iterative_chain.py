"""Rows of engines in the iterative way, over a wire in memory that loses and refuses, with a client that does any step in any order.

End-to-end connections are taken for granted here (net/ends.py has its own tests): octets are a number under which the message lies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, ip_address
from itertools import count
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chainrelay.errors import Code, Refusal
from chainrelay.limits import CONFIRM_TIMEOUT
from chainrelay.session.events import Answered, AskFailed, Link, Requested, Through
from chainrelay.session.prefixes import PortRange
from chainrelay.wire.authenticated import Authenticated, Claimed
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import (
    Answer,
    Assigned,
    Bind,
    Bound,
    Close,
    Closed,
    Error,
    Extend,
    Extended,
    Open,
    Protocol,
    Renew,
    Renewed,
    Request,
    Way,
)
from unit.session.test_chain import CLIENT, WIDE, Chain, request

Then = Callable[[Answer], None]


class Loop(Chain):
    """The client and its row. `told[session, k]` is what relay k has assigned, `entry[session, k]` what k−1 says of k."""

    def __init__(self, hops: int, pool: PortRange, *, keyed: bool = True) -> None:
        super().__init__(hops, pool)
        self.keyed = keyed
        self.told: dict[tuple[bytes, int], Assigned] = {}
        self.entry: dict[tuple[bytes, int], Endpoint] = {}
        self._letters: dict[bytes, Any] = {}
        self._serials = count(1)

    def tell(self, k: int, message: Request, then: Then) -> None:
        """The client's message for relay k, in as many EXTENDs as it takes."""
        if k == 1:
            assert isinstance(CLIENT, IPv4Address)
            self.ask_relay(1, "alice", message, CLIENT, then)
            return
        known = self.told.get((message.session, k - 1))
        if known is None:
            return  # nobody to go through
        letter = self._letter(message)
        extend = Extend(message.session, k, f"fw{k - 1}", f"fw{k}", 1, known.server_side, letter)
        self.tell(k - 1, extend, partial(self._unwrap, k, then))

    def _unwrap(self, k: int, then: Then, answer: Answer) -> None:
        if isinstance(answer, Extended):
            if answer.client_side is not None:
                self.entry[answer.session, k] = answer.client_side
            then(self._letters.pop(answer.octets))
        else:
            then(answer)

    def _letter(self, content: object) -> bytes:
        letter = next(self._serials).to_bytes(8, "big")
        self._letters[letter] = content
        return letter

    def _carry(self, k: int, token: int, message: Request) -> None:
        assert isinstance(message, Extend), "in the iterative way relays pass on and ask nothing"
        fate = self.loss.popleft() if self.loss else ""
        here = ip_address(f"10.{k}.0.1")
        failed = AskFailed(token, Refusal(Code.NEXT_HOP_TIMEOUT, "lost"))
        if fate == "lost":
            self.queue.append(lambda: self.feed(k, failed))
            return

        def back(answer: Answer) -> None:
            if fate:
                self.queue.append(lambda: self.feed(k, failed))
                return
            outer = Extended(message.session, answer.client_side if isinstance(answer, Assigned) else None, self._letter(answer))
            said = Authenticated(f"fw{k + 1}", outer) if self.keyed else Claimed(outer)
            self.queue.append(lambda: self.feed(k, Answered(token, ip_address(f"10.{k}.0.2"), said)))

        self._requests += 1
        number = self._requests
        self._links[k + 1, number] = back
        through = Through(message.previous, self.keyed, message.hop, message.partner)
        link = Link(number, "alice", here, ip_address(f"10.{k}.0.2"), through)
        inner = self._letters.pop(message.octets)
        self.queue.append(lambda: self.feed(k + 1, Requested(link, number, Authenticated("alice", inner))))

    # what a client does ----------------------------------------------------------

    def open(self, k: int, first: Open) -> None:
        """OPEN at relay k, as far as the client knows by now."""
        path = tuple(f"fw{n}" for n in range(1, k))
        partner = first.partner if k == 1 else None
        if k > 1 and (known := self.told.get((first.session, k - 1))) is not None:
            partner = known.server_side
        if partner is None:
            return
        wanted = replace(first, way=Way.ITERATIVE, partner=partner, path=path, hops_left=8 - len(path))

        def then(answer: Answer) -> None:
            self.answers.append(answer)
            if isinstance(answer, Assigned):
                self.told[answer.session, k] = answer

        self.tell(k, wanted, then)

    def bind(self, k: int, first: Open) -> None:
        """Confirm to relay k."""
        ours = self.told.get((first.session, k))
        if ours is None:
            return
        partner = self.entry.get((first.session, k + 1))
        target = first.server if not ours.next else Target(partner.address, partner.port) if partner else None
        if target is not None and target.port:
            self.tell(k, Bind(first.session, target), self.answers.append)


def whole(loop: Loop, first: Open) -> None:
    """A loop that is completed."""
    hops = len(loop.engines)
    for k in range(1, hops + 1):
        loop.open(k, first)
        loop.settle()
    for k in range(hops, 0, -1):
        loop.bind(k, first)
        loop.settle()


def test_three_relays_fit_together() -> None:
    for keyed in (True, False):
        loop = Loop(3, WIDE, keyed=keyed)
        first = request(1, 5000, components=2)
        whole(loop, first)
        assert [type(answer) for answer in loop.answers] == [Assigned] * 3 + [Bound] * 3
        (one,), (two,), (three,) = (list(kernel.live) for kernel in loop.kernels)
        assert (one.server_side, one.server_partner) == (two.client_partner, two.client_side)
        assert (two.server_side, two.server_partner) == (three.client_partner, three.client_side)
        assert (one.client_partner, str(three.server_partner)) == (first.partner, "10.99.0.9:6000")
        loop.answers.clear()
        for k in (3, 2, 1):
            loop.tell(k, Renew(first.session, 60), loop.answers.append)
            loop.settle()
        for k in (3, 2, 1):
            loop.tell(k, Close(first.session), loop.answers.append)
        loop.settle()
        assert [type(answer) for answer in loop.answers] == [Renewed] * 3 + [Closed] * 3
        loop.nothing_is_left()


def test_a_client_that_stops_anywhere_leaves_nothing() -> None:
    """After every single step of the loop: what was reserved ends by itself, soon if it was not confirmed."""
    for steps in range(1, 7):
        loop = Loop(3, WIDE)
        first = request(1, 5000)
        doing = [partial(loop.open, k, first) for k in (1, 2, 3)] + [partial(loop.bind, k, first) for k in (3, 2, 1)]
        for step in doing[:steps]:
            step()
            loop.settle()
        assert not any(isinstance(answer, Error) for answer in loop.answers)
        installed = [bool(kernel.live) for kernel in loop.kernels]
        assert installed == [steps >= 6, steps >= 5, steps >= 4], "from the last to the first"
        loop.passes(CONFIRM_TIMEOUT + 1)
        assert [bool(engine.sessions()) for engine in loop.engines] == installed
        loop.passes(200)
        loop.nothing_is_left()


class LoopMachine(RuleBasedStateMachine):
    """Any step at any relay in any order, with losses, failures and delays; then all leases end."""

    HOPS: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop(self.HOPS, PortRange(20000, 20007))

    ids = st.integers(1, 3)
    relays = st.integers(1, 3)

    def first(self, number: int) -> Open:
        """Session `number`, the same each time."""
        server = 0 if number == 3 else 6000
        protocol = Protocol.TCP if number == 2 else Protocol.UDP
        return request(number, 5000 + 2 * number, server, protocol, 1 + number % 2)

    @rule(number=ids)
    def everything(self, number: int) -> None:
        whole(self.loop, self.first(number))

    @rule(number=ids, k=relays)
    def open(self, number: int, k: int) -> None:
        self.loop.open(k, self.first(number))

    @rule(number=ids, k=relays)
    def bind(self, number: int, k: int) -> None:
        self.loop.bind(k, self.first(number))

    @rule(number=ids, k=relays, what=st.sampled_from([Close, lambda sid: Renew(sid, 0)]))
    def other(self, number: int, k: int, what: Callable[[bytes], Request]) -> None:
        self.loop.tell(k, what(bytes([number]) * 16), self.loop.answers.append)

    @rule(number=ids, k=st.integers(1, 2), port=st.integers(20000, 20007))
    def bind_wrong(self, number: int, k: int, port: int) -> None:
        """A client that confirms what nobody said, or somebody said long ago."""
        target = Target(ip_address(f"10.{k}.0.2"), port)
        self.loop.tell(k, Bind(bytes([number]) * 16, target), self.loop.answers.append)

    @rule(fates=st.lists(st.sampled_from(["", "lost", "answer lost"]), max_size=3))
    def lose(self, fates: list[str]) -> None:
        self.loop.loss.extend(fates)

    @rule(hop=st.integers(0, 2), times=st.integers(1, 2))
    def fail(self, hop: int, times: int) -> None:
        self.loop.kernels[hop].failing = times

    @rule(steps=st.integers(1, 12))
    def some_steps(self, steps: int) -> None:
        for _ in range(steps):
            self.loop.step()

    @rule(seconds=st.sampled_from([0.5, 31.0, 121.0]))
    def wait(self, seconds: float) -> None:
        self.loop.passes(seconds)

    @rule()
    def reload(self) -> None:
        for k, engine in enumerate(self.loop.engines, 1):
            policy = engine._book.policy
            self.loop.perform(k, engine.reconfigure(replace(policy, rest=policy.rest + 1), self.loop.now))

    @invariant()
    def relays_before_the_last_send_to_the_next_one_only(self) -> None:
        for k, kernel in enumerate(self.loop.kernels[:-1], 1):
            assert all(mapping.server_partner.address == ip_address(f"10.{k}.0.2") for mapping in kernel.live)

    def teardown(self) -> None:
        self.loop.loss.clear()
        for kernel in self.loop.kernels:
            kernel.failing = 0
        self.loop.passes(4000)
        self.loop.nothing_is_left()


LoopMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
test_three_relays_leave_nothing = LoopMachine.TestCase
