"""The port pool against a plain model, by hand and by hypothesis; its time does not depend on what stands."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chainrelay.errors import Code, Refusal
from chainrelay.session.ports import PortPool
from chainrelay.session.prefixes import PortRange
from chainrelay.wire.endpoint import Endpoint

OWN = ip_address("10.0.0.1")
OTHER_OWN = ip_address("10.0.0.2")
PARTNER = ip_address("10.0.9.1")
REST = 30.0


def test_pairs_are_an_even_port_and_the_next() -> None:
    pool = PortPool(PortRange(20001, 20006), REST)
    assert [pool.assign([OWN], PARTNER, 2, 0).port for _ in range(2)] == [20002, 20004]
    assert sorted(pool.assign([OWN], PARTNER, 1, 0).port for _ in range(2)) == [20001, 20006]
    with pytest.raises(Refusal) as why:
        pool.assign([OWN], PARTNER, 1, 0)
    assert why.value.code is Code.PORTS_EXHAUSTED
    assert "20001-20006 of 10.0.0.1 toward 10.0.9.1: 6 in use" in why.value.text
    assert "[ports] pool" in why.value.text


def test_exclusive_per_pair_of_addresses_only() -> None:
    pool = PortPool(PortRange(20000, 20000), REST)
    assert pool.assign([OWN], PARTNER, 1, 0) == Endpoint(OWN, 20000)
    assert pool.assign([OWN], ip_address("10.0.9.2"), 1, 0) == Endpoint(OWN, 20000)
    assert pool.assign([OWN, OTHER_OWN], PARTNER, 1, 0) == Endpoint(OTHER_OWN, 20000)


def test_a_port_rests() -> None:
    pool = PortPool(PortRange(20000, 20000), REST)
    pool.release(pool.assign([OWN], PARTNER, 1, 0), PARTNER, 1, 10)
    with pytest.raises(Refusal):
        pool.assign([OWN], PARTNER, 1, 39.9)
    assert pool.assign([OWN], PARTNER, 1, 40).port == 20000


def test_two_halves_become_a_pair_again() -> None:
    pool = PortPool(PortRange(20000, 20001), REST)
    singles = [pool.assign([OWN], PARTNER, 1, 0) for _ in range(2)]
    for at, one in enumerate(singles):
        pool.release(one, PARTNER, 1, at)
    with pytest.raises(Refusal):
        pool.assign([OWN], PARTNER, 2, REST)  # the second half has not rested
    assert pool.assign([OWN], PARTNER, 2, REST + 1).port == 20000


def test_busy_ports_are_left_alone() -> None:
    pool = PortPool(PortRange(20000, 20005), REST, avoid=frozenset({20000}))
    assert pool.occupy(Endpoint(OWN, 20003), PARTNER, until=100)
    assert not pool.occupy(Endpoint(OWN, 20003), PARTNER)
    assert not pool.occupy(Endpoint(OWN, 20000), PARTNER)
    assert not pool.occupy(Endpoint(OWN, 30000), PARTNER)
    assert pool.assign([OWN], PARTNER, 2, 0).port == 20004
    assert sorted(pool.assign([OWN], PARTNER, 1, 0).port for _ in range(2)) == [20001, 20002]
    with pytest.raises(Refusal):
        pool.assign([OWN], PARTNER, 1, 100)
    assert pool.assign([OWN], PARTNER, 1, 100 + REST).port == 20003


def test_a_free_port_that_was_used_before_can_be_occupied() -> None:
    pool = PortPool(PortRange(20000, 20003), 0)
    for components in (1, 2):
        pool.release(pool.assign([OWN], PARTNER, components, 0), PARTNER, components, 0)
    assert pool.occupy(Endpoint(OWN, 20000), PARTNER)
    assert pool.occupy(Endpoint(OWN, 20003), PARTNER)
    assert sorted(pool.assign([OWN], PARTNER, 1, 1).port for _ in range(2)) == [20001, 20002]


def test_nothing_is_remembered_of_partners_long_gone() -> None:
    pool = PortPool(PortRange(20000, 20010), REST)
    for number in range(1000):
        partner = ip_address(0x0A000000 + number)
        pool.release(pool.assign([OWN], partner, 1, number), partner, 1, number)
    assert pool.pools <= REST + 2


def test_flat_time_and_a_million_assignments() -> None:
    """20,000 sessions stand on pools of 64,000 ports; a million assignments go by; the last ones cost what the first ones did."""
    pool = PortPool(PortRange(1024, 65535), 1.0)
    partners = [ip_address(0x0A000000 + number) for number in range(4)]
    rounds: list[float] = []
    now = 0.0

    def churn(count: int) -> float:
        nonlocal now
        began = time.process_time()
        for number in range(count):
            now += 1 / 10_000
            partner, components = partners[number & 3], 1 + (number & 1)
            pool.release(pool.assign([OWN], partner, components, now), partner, components, now)
        return time.process_time() - began

    churn(5_000)
    rounds.append(churn(50_000))
    standing = [(pool.assign([OWN], partners[n & 3], 1 + n % 2, now), partners[n & 3], 1 + n % 2) for n in range(20_000)]
    assert len({(str(own), partner) for own, partner, _ in standing}) == 20_000
    assert pool.in_use == 30_000
    rounds += [churn(50_000) for _ in range(19)]
    assert min(rounds[-5:]) < 3 * rounds[0]
    for own, partner, components in standing:
        pool.release(own, partner, components, now)
    assert pool.in_use == 0


class PoolMachine(RuleBasedStateMachine):
    """What is out is exclusive; what was given back rests; a full pool says so only when the model has no room either."""

    PORTS = PortRange(20001, 20010)

    def __init__(self) -> None:
        super().__init__()
        self.pool = PortPool(self.PORTS, REST, avoid=frozenset({20006}))
        self.now = 0.0
        self.out: list[tuple[Endpoint, Any, int]] = []
        self.rested: dict[tuple[Any, Any, int], float] = {}

    def free(self, own: Any, partner: Any) -> set[int]:
        """Ports that the model would give."""
        busy = {one.next(n).port for one, whom, count in self.out if (one.address, whom) == (own, partner) for n in range(count)}
        ports = set(range(self.PORTS.first, self.PORTS.last + 1)) - {20006} - busy
        return {port for port in ports if self.rested.get((own, partner, port), 0) <= self.now}

    @rule(partner=st.sampled_from([PARTNER, ip_address("fd00::9")]), components=st.sampled_from([1, 2]))
    def assign(self, partner: Any, components: int) -> None:
        owns = [OWN, OTHER_OWN] if partner.version == 4 else [ip_address("fd00::1")]
        try:
            got = self.pool.assign(owns, partner, components, self.now)
        except Refusal:
            for own in owns:
                free = self.free(own, partner)
                assert not [port for port in free if components == 1 or (port % 2 == 0 and port + 1 in free)]
            return
        free = self.free(got.address, partner)
        assert {got.next(n).port for n in range(components)} <= free
        assert components == 1 or got.port % 2 == 0
        self.out.append((got, partner, components))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        own, partner, components = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.pool.release(own, partner, components, self.now)
        for offset in range(components):
            self.rested[own.address, partner, own.port + offset] = self.now + REST

    @rule(port=st.integers(20001, 20010))
    def occupy(self, port: int) -> None:
        own = Endpoint(OWN, port)
        before = {one.next(n).port for one, whom, count in self.out if (one.address, whom) == (OWN, PARTNER) for n in range(count)}
        assert self.pool.occupy(own, PARTNER) == (port not in before and port != 20006)
        if port not in before and port != 20006:
            self.out.append((own, PARTNER, 1))

    @rule(seconds=st.sampled_from([0.5, 10.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts(self) -> None:
        assert self.pool.in_use == sum(components for _, _, components in self.out)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
test_pool_against_the_model = PoolMachine.TestCase
