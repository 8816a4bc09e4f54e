"""Two and three engines in a row over a wire in memory that loses, delays and refuses: whatever happens, nothing stays.

The kernel of each relay is a set of live mappings with leases, as the real one is: it forgets by itself what nobody renews.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from itertools import count
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Mapping, Operation, Outcome, Remove
from chainrelay.datapath.mapping import Rekey as Seal
from chainrelay.errors import Code, Refusal
from chainrelay.session.engine import Engine
from chainrelay.session.events import (
    Answered,
    Applied,
    Apply,
    Ask,
    AskFailed,
    Candidate,
    Effect,
    Event,
    Link,
    Locate,
    Located,
    NextHop,
    Reply,
    Requested,
    Through,
    Tick,
)
from chainrelay.session.policy import Policy
from chainrelay.session.prefixes import PortRange
from chainrelay.session.tables import DIRECT, PeerRow, PeerTable
from chainrelay.session.tables import Kind as PeerKind
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import (
    Answer,
    Bind,
    Bound,
    Close,
    Closed,
    Error,
    Open,
    Opened,
    Protocol,
    Rekey,
    Rekeyed,
    Renew,
    Renewed,
    Request,
    Way,
)
from playbook import ANYBODY, data_keys, key, routes

CLIENT = ip_address("10.0.0.5")


class Kernel:
    """One relay's datapath: mappings until their leases end. Of a sealed one that it has lost it has no keys either."""

    def __init__(self) -> None:
        self.live: dict[Mapping, float] = {}
        self.failing = 0

    def apply(self, operation: Operation, now: float) -> Outcome:
        self.live = {mapping: ends for mapping, ends in self.live.items() if ends > now}
        if self.failing:
            self.failing -= 1
            return Failed("injected")
        if operation.mapping.sealed and not isinstance(operation, Install | Remove) and operation.mapping not in self.live:
            return Failed("lost", keyless=True)
        assert not isinstance(operation, Install) or (operation.seal is not None) == operation.mapping.sealed
        if isinstance(operation, Remove):
            self.live.pop(operation.mapping, None)
        elif not isinstance(operation, Seal):
            self.live[operation.mapping] = now + operation.lease
        return Done(Counters()) if isinstance(operation, Install) else Done(Counters(1, 10, 1, 10))


class Chain:
    """Client – relay 1 … relay n – server. Relay k reaches k+1 from 10.k.0.1 at 10.k.0.2. Things in flight wait in `queue`."""

    def __init__(self, hops: int, pool: PortRange) -> None:
        self.now = 1000.0
        self.queue: deque[Callable[[], None]] = deque()
        self.answers: list[Answer] = []
        self.loss: deque[str] = deque()
        """What happens to the next messages between relays: "lost" or "answer lost"."""
        self.kernels = [Kernel() for _ in range(hops)]
        self.engines = [Engine(f"fw{k}", self._policy(k, hops, pool), seals=k == hops) for k in range(1, hops + 1)]
        self._requests = 0
        self._key_links = count(1_000_000)
        self._links: dict[tuple[int, int], Callable[[Answer], None]] = {}

    @staticmethod
    def _policy(k: int, hops: int, pool: PortRange) -> Policy:
        via = DIRECT if k == hops else NextHop(f"fw{k + 1}", Endpoint(ip_address(f"10.{k}.0.2"), 9798))
        rows = [PeerRow(f"fw{n}", PeerKind.RELAY, (key(str(n)),), frozenset({"*"})) for n in range(1, hops + 1)]
        client = PeerRow("alice", PeerKind.CLIENT, (key("a"),), frozenset({"alice"}))
        return Policy(routes(("*", via)), PeerTable((client, *rows)), ANYBODY, pool=pool)

    # the wire ----------------------------------------------------------------

    def ask_relay(self, k: int, principal: str, message: Request, remote: IPv4Address, answer: Callable[[Answer], None]) -> None:
        """A request on its way to relay k (from 1)."""
        self._requests += 1
        number = self._requests
        self._links[k, number] = answer
        link = Link(k, principal, remote, ip_address("10.0.0.1") if k == 1 else ip_address(f"10.{k - 1}.0.2"))
        self.queue.append(lambda: self.feed(k, Requested(link, number, Authenticated(principal, message))))

    def client_asks(self, message: Request) -> None:
        assert isinstance(CLIENT, IPv4Address)
        self.ask_relay(1, "alice", message, CLIENT, self.answers.append)

    def client_rekeys(self, session: bytes) -> None:
        """A new key on a new end-to-end connection with the last relay, as far as there is such a session."""
        last = len(self.engines)
        partner = next((row.client_partner for row in self.engines[-1].sessions() if row.session == session), None)
        if partner is None:
            return
        previous = f"fw{last - 1}" if last > 1 else ""
        through = Through(previous, True, last, partner, Way.RECURSIVE)
        link = Link(next(self._key_links), "alice", partner.address, ip_address(f"10.{last - 1}.0.2"), through)
        keys = data_keys(link.number % 16, bytes((65 + link.number % 16,)))
        self._requests += 1
        self._links[last, self._requests] = self.answers.append
        asked = Requested(link, self._requests, Authenticated("alice", Rekey(session, keys.key_id)), keys)
        self.queue.append(lambda: self.feed(last, asked))

    def feed(self, k: int, event: Event) -> None:
        self.perform(k, self.engines[k - 1].handle(event, self.now))

    def perform(self, k: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply(_, number, message):
                    self._links.pop((k, number))(message)
                case Locate(token, host):
                    assert not isinstance(host, str)
                    found = Candidate(host, ip_address(f"10.{k}.0.1"), 1500)
                    self.queue.append(lambda token=token, found=found: self.feed(k, Located(token, (found,))))  # type: ignore[misc]
                case Apply(token, operation):
                    outcome = self.kernels[k - 1].apply(operation, self.now)
                    self.queue.append(lambda token=token, outcome=outcome: self.feed(k, Applied(token, outcome)))  # type: ignore[misc]
                case Ask(token, _, message):
                    self._carry(k, token, message)
                case _:
                    pass

    def _carry(self, k: int, token: int, message: Request) -> None:
        fate = self.loss.popleft() if self.loss else ""
        failed = AskFailed(token, Refusal(Code.NEXT_HOP_TIMEOUT, "lost"))

        def fail(_: Answer | None = None) -> None:
            self.queue.append(lambda: self.feed(k, failed))

        def arrive(answer: Answer) -> None:
            seen = ip_address(f"10.{k}.0.2")
            self.queue.append(lambda: self.feed(k, Answered(token, seen, Authenticated(f"fw{k + 1}", answer))))

        if fate == "lost":
            fail()
            return
        here = ip_address(f"10.{k}.0.1")
        assert isinstance(here, IPv4Address)
        self.ask_relay(k + 1, f"fw{k}", message, here, fail if fate else arrive)

    # time --------------------------------------------------------------------

    def step(self) -> bool:
        if self.queue:
            self.queue.popleft()()
            return True
        return False

    def settle(self) -> None:
        while self.step():
            pass

    def passes(self, seconds: float) -> None:
        end = self.now + seconds
        self.settle()
        while True:
            due = [at for engine in self.engines if (at := engine.next_deadline()) is not None and at <= end]
            if not due:
                break
            self.now = max(self.now, min(due))
            for k in range(1, len(self.engines) + 1):
                self.feed(k, Tick())
            self.settle()
        self.now = end

    def nothing_is_left(self) -> None:
        for engine, kernel in zip(self.engines, self.kernels, strict=True):
            assert not engine.sessions()
            assert engine.ports_in_use == 0
            assert engine.next_deadline() is None
            assert not [mapping for mapping, ends in kernel.live.items() if ends > self.now]
            book = engine._book
            assert not book.claims
            assert not book.locating
            assert not book.asking
            assert not book.applying
            assert not book.quotas._sessions


def request(
    number: int, port: int, server_port: int = 6000, protocol: Protocol = Protocol.UDP, components: int = 1, *, sealed: bool = False
) -> Open:
    here = Endpoint(CLIENT, port)
    server = Target(ip_address("10.99.0.9"), server_port)
    return Open(bytes([number]) * 16, protocol, Way.RECURSIVE, sealed, components, here, server, "alice", here, 0, (), 8)


WIDE = PortRange(20000, 20999)


def test_three_relays_fit_together() -> None:
    chain = Chain(3, WIDE)
    chain.client_asks(request(1, 5000, components=2))
    chain.settle()
    (opened,) = chain.answers
    assert isinstance(opened, Opened)
    (one,), (two,), (three,) = (list(kernel.live) for kernel in chain.kernels)
    assert one.client_side == opened.client_side
    assert (one.server_side, one.server_partner) == (two.client_partner, two.client_side)
    assert (two.server_side, two.server_partner) == (three.client_partner, three.client_side)
    assert three.server_side == opened.exit
    assert str(three.server_partner) == "10.99.0.9:6000"
    chain.client_asks(Renew(opened.session, 60))
    chain.settle()
    assert chain.answers[1] == Renewed(opened.session, 60)
    chain.client_asks(Close(opened.session))
    chain.settle()
    closed = chain.answers[2]
    assert isinstance(closed, Closed)
    assert [(hop.hop, hop.to_server_packets) for hop in closed.counters] == [("fw1", 2), ("fw2", 2), ("fw3", 2)]
    chain.passes(1)
    assert all(engine.ports_in_use == 0 for engine in chain.engines)


def test_a_sealed_session_is_sealed_at_the_last_relay_alone() -> None:
    chain = Chain(3, WIDE)
    chain.client_asks(request(1, 5000, 0, components=2, sealed=True))
    chain.settle()
    chain.client_rekeys(bytes([1]) * 16)
    chain.settle()
    chain.client_asks(Bind(bytes([1]) * 16, Target(ip_address("10.99.0.9"), 6000)))
    chain.settle()
    assert [type(answer) for answer in chain.answers] == [Opened, Rekeyed, Bound]
    assert [mapping.sealed for kernel in chain.kernels for mapping in kernel.live] == [False, False, True]
    chain.kernels[2].live.clear()
    chain.client_asks(Renew(bytes([1]) * 16, 60))
    chain.settle()
    assert isinstance(chain.answers[-1], Error)
    assert (chain.answers[-1].code, chain.answers[-1].hop) == (Code.SEAL_KEY_MISSING, "fw3")
    chain.client_rekeys(bytes([1]) * 16)
    chain.client_asks(Renew(bytes([1]) * 16, 60))
    chain.settle()
    assert [type(answer) for answer in chain.answers[-2:]] == [Rekeyed, Renewed]
    chain.passes(4000)
    chain.nothing_is_left()


def test_a_refusal_in_the_middle_leaves_nothing_before_it() -> None:
    for failing in range(3):
        chain = Chain(3, WIDE)
        chain.kernels[failing].failing = 1
        chain.client_asks(request(1, 5000))
        chain.settle()
        (error,) = chain.answers
        assert isinstance(error, Error)
        assert (error.code, error.hop) == (Code.DATAPATH_FAILED, f"fw{failing + 1}")
        chain.nothing_is_left()


def test_a_lost_answer_leaves_nothing_and_the_retry_works() -> None:
    chain = Chain(3, WIDE)
    chain.loss.extend(["", "answer lost"])
    chain.client_asks(request(1, 5000))
    chain.settle()
    chain.nothing_is_left()
    chain.client_asks(request(1, 5000))
    chain.settle()
    assert isinstance(chain.answers[-1], Opened)


def test_a_session_left_behind_by_a_lost_close_does_not_block_its_id_for_ever() -> None:
    chain = Chain(2, WIDE)
    chain.loss.extend(["", "lost"])
    for message in (request(1, 5000), Close(bytes([1]) * 16), request(1, 5001), request(1, 5001)):
        chain.client_asks(message)
        chain.settle()
    assert [type(answer).__name__ for answer in chain.answers] == ["Opened", "Closed", "Error", "Opened"]


class ChainMachine(RuleBasedStateMachine):
    """Any sequence of requests, losses, failures and delays; then all leases end."""

    HOPS: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(self.HOPS, PortRange(20000, 20007))

    ids = st.integers(1, 5)

    @rule(number=ids, port=st.integers(5000, 5003), server=st.sampled_from([0, 6000, 6001]), data=st.data())
    def open(self, number: int, port: int, server: int, data: Any) -> None:
        protocol, components = data.draw(st.sampled_from(list(Protocol))), data.draw(st.sampled_from([1, 2]))
        self.chain.client_asks(request(number, port, server, protocol, components, sealed=data.draw(st.booleans())))

    @rule(number=ids, port=st.integers(5000, 5003), bind=st.booleans())
    def seal(self, number: int, port: int, bind: bool) -> None:
        self.chain.client_asks(request(number, port, 0, sealed=True))
        self.chain.settle()
        self.chain.client_rekeys(bytes([number]) * 16)
        if bind:
            self.chain.settle()
            self.chain.client_asks(Bind(bytes([number]) * 16, Target(ip_address("10.99.0.9"), 6000)))

    @rule(number=ids)
    def rekey(self, number: int) -> None:
        self.chain.client_rekeys(bytes([number]) * 16)

    @rule()
    def lose_keys(self) -> None:
        kernel = self.chain.kernels[-1]
        kernel.live = {mapping: ends for mapping, ends in kernel.live.items() if not mapping.sealed}

    @rule(number=ids)
    def close(self, number: int) -> None:
        self.chain.client_asks(Close(bytes([number]) * 16))

    @rule(number=ids)
    def renew(self, number: int) -> None:
        self.chain.client_asks(Renew(bytes([number]) * 16, 0))

    @rule(number=ids, port=st.sampled_from([6000, 6002]))
    def bind(self, number: int, port: int) -> None:
        self.chain.client_asks(Bind(bytes([number]) * 16, Target(ip_address("10.99.0.9"), port)))

    @rule(fates=st.lists(st.sampled_from(["", "lost", "answer lost"]), max_size=3))
    def lose(self, fates: list[str]) -> None:
        self.chain.loss.extend(fates)

    @rule(hop=st.integers(0, 2), times=st.integers(1, 2))
    def fail(self, hop: int, times: int) -> None:
        self.chain.kernels[hop % self.HOPS].failing = times

    @rule(steps=st.integers(1, 12))
    def some_steps(self, steps: int) -> None:
        for _ in range(steps):
            self.chain.step()

    @rule(seconds=st.sampled_from([0.5, 40.0, 121.0]))
    def wait(self, seconds: float) -> None:
        self.chain.passes(seconds)

    @rule()
    def reload(self) -> None:
        for k, engine in enumerate(self.chain.engines, 1):
            policy = engine._book.policy
            self.chain.perform(k, engine.reconfigure(replace(policy, rest=policy.rest + 1), self.chain.now))

    @invariant()
    def sealed_at_the_last_relay_or_nowhere(self) -> None:
        assert not any(mapping.sealed for kernel in self.chain.kernels[:-1] for mapping in kernel.live)
        sealed = {session.id for session in self.chain.engines[-1]._book.sessions.values() if session.sealing}
        assert all(mapping.sealed for mapping in self.chain.kernels[-1].live if mapping.session in sealed)

    @invariant()
    def what_the_kernel_looks_up_is_unambiguous(self) -> None:
        for kernel in self.chain.kernels:
            flows = [flow for mapping in kernel.live for pair in mapping.flows() for flow in pair]
            arriving = {(flow.protocol, flow.source, flow.destination) for flow in flows}
            leaving = {(flow.protocol, flow.source, flow.new_destination) for flow in flows}
            assert len(arriving) == len(flows)
            assert len(leaving) == len(flows)

    def teardown(self) -> None:
        self.chain.loss.clear()
        for kernel in self.chain.kernels:
            kernel.failing = 0
        self.chain.passes(4000)
        self.chain.nothing_is_left()


class ThreeRelays(ChainMachine):
    """The same with a relay in the middle that is neither first nor last."""

    HOPS: ClassVar[int] = 3


ChainMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
ThreeRelays.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_two_relays_leave_nothing = ChainMachine.TestCase
test_three_relays_leave_nothing = ThreeRelays.TestCase
