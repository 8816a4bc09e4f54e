"""What the legacy backend makes of the kernel's answers: order, rollback, limit, adoption.

The kernel is one in memory; the real one: tests/conformance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from chainrelay.datapath.legacy_backend import ChainsGoneError, Counted, LegacyBackend, Put
from chainrelay.datapath.legacy_ruleset import Element, Key
from chainrelay.datapath.mapping import Counters, Done, Failed, Flow, Install, Mapping, Remove, Renew
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.errors import DatapathError
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

NOTHING = Done(Counters())


class Memory:
    """A `Kernel` that keeps rules and elements apart, and a log of what came in which order."""

    def __init__(self) -> None:
        self.rules: set[Flow] = set()
        self.live: dict[Key, Put] = {}
        self.counted: Counted = {}
        self.order: list[str] = []
        self.refuse_rules: set[Flow] = set()
        self.refuse_elements: set[Flow] = set()
        self.gone = False

    def check_forwarding(self, families: Iterable[int]) -> None:
        pass

    def reserve_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        pass

    def release_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        pass

    def create_set(self, family: int) -> None:
        pass

    def destroy_set(self, family: int) -> None:
        self.live = {key: put for key, put in self.live.items() if key.partner.version != family}

    def elements(self, family: int) -> list[Element]:
        return [
            Element(put.flow, put.seconds, *self.counted.get(key, (0, 0)))
            for key, put in self.live.items()
            if key.partner.version == family
        ]

    def counters(self, family: int, keys: Iterable[Key], *, fresh: bool) -> Counted:  # noqa: ARG002
        self.order.append("read")
        return {key: self.counted.get(key, (0, 0)) for key in keys if key in self.live}

    def put(self, family: int, elements: Sequence[Put]) -> list[DatapathError | None]:  # noqa: ARG002
        self.order.append("put")
        for each in elements:
            if each.flow not in self.refuse_elements:
                self.live[Key.of(each.flow)] = each
                if each.new:
                    self.counted.pop(Key.of(each.flow), None)
        return [DatapathError("full", full=True) if each.flow in self.refuse_elements else None for each in elements]

    def delete(self, family: int, flows: Sequence[Flow]) -> None:  # noqa: ARG002
        self.order.append("delete")
        for flow in flows:
            self.live.pop(Key.of(flow), None)

    def load(self, ruleset: Ruleset, family: int, flows: Iterable[Flow]) -> None:  # noqa: ARG002
        self.order.append("load")
        self.gone = False
        self.rules = {flow for flow in self.rules if flow.source.family != family} | set(flows)

    def unload(self, family: int) -> None:
        self.rules = {flow for flow in self.rules if flow.source.family != family}

    def hooked(self, family: int) -> bool:  # noqa: ARG002
        return not self.gone

    def commit(self, family: int, add: Sequence[Flow], delete: Sequence[Flow]) -> None:  # noqa: ARG002
        if self.gone:
            raise ChainsGoneError("gone")
        if self.refuse_rules & set(add):
            raise DatapathError("invalid argument")
        self.order.append("commit")
        self.rules = (self.rules | set(add)) - set(delete)

    def forget(self, keys: Sequence[bytes]) -> None:
        if keys:
            self.order.append("forget")

    def tracked(self, mark: int, mask: int) -> list[bytes]:  # noqa: ARG002
        return []

    def close(self) -> None:
        pass


def mapping(number: int = 1, components: int = 1) -> Mapping:
    ends = (f"10.1.0.1:{5000 + number}", f"10.1.0.2:{20000 + number}", f"10.2.0.1:{25000 + number}", f"10.2.0.2:{6000 + number}")
    return Mapping(number.to_bytes(16), Protocol.UDP, components, *map(Endpoint.parse, ends))


def started(capacity: int = 100, memory: Memory | None = None) -> tuple[LegacyBackend, Memory]:
    memory = memory or Memory()
    backend = LegacyBackend(Ruleset(Firewall.GUEST), memory, capacity)
    backend.setup()
    memory.order.clear()
    return backend, memory


def test_rules_come_before_elements_and_go_before_the_last_reading() -> None:
    backend, memory = started()
    assert backend.apply([Install(mapping(), 30)]) == [NOTHING]
    assert memory.order == ["commit", "put"]
    memory.order.clear()
    backend.apply([Remove(mapping())])
    assert memory.order == ["commit", "forget", "read", "delete"]
    assert (memory.rules, memory.live) == (set(), {})


def test_a_batch_is_one_commit() -> None:
    backend, memory = started()
    assert backend.apply([Install(mapping(2 * number), 30) for number in range(50)]) == [NOTHING] * 50
    assert memory.order == ["commit", "put"]
    assert len(memory.rules) == 100


def test_a_renewal_touches_no_rule_and_rounds_the_lease_up() -> None:
    backend, memory = started()
    backend.apply([Install(mapping(), 30)])
    memory.order.clear()
    backend.apply([Renew(mapping(), 40.2)])
    assert memory.order == ["read", "put"]
    assert {put.seconds for put in memory.live.values()} == {41}


def test_counters_are_told_once() -> None:
    backend, memory = started()
    backend.apply([Install(mapping(), 30)])
    key = Key.of(mapping().flows()[0][0])
    memory.counted[key] = (10, 1000)
    assert backend.apply([Renew(mapping(), 30)]) == [Done(Counters(10, 1000))]
    memory.counted[key] = (14, 1400)
    assert backend.counters([mapping()]) == [Counters(4, 400)]
    assert backend.apply([Remove(mapping())]) == [Done(Counters(4, 400))]


def test_a_rule_that_the_kernel_refuses_fails_its_session_alone() -> None:
    backend, memory = started()
    memory.refuse_rules = {mapping(2).flows()[0][0]}
    outcomes = backend.apply([Install(mapping(number), 30) for number in (1, 2, 3)])
    assert [type(each) for each in outcomes] == [Done, Failed, Done]
    assert len(memory.rules) == len(memory.live) == 4


def test_an_element_that_the_set_refuses_takes_its_rules_and_its_sister_away() -> None:
    backend, memory = started()
    memory.refuse_elements = {mapping(4, components=2).flows()[1][1]}
    outcomes = backend.apply([Install(mapping(1), 30), Install(mapping(4, components=2), 30)])
    assert outcomes == [NOTHING, Failed("full", full=True)]
    assert len(memory.rules) == len(memory.live) == 2
    memory.refuse_elements = set()
    assert backend.apply([Install(mapping(4, components=2), 30)]) == [NOTHING]


def test_the_limit_is_told_as_full_and_room_comes_back() -> None:
    backend, _ = started(capacity=2)
    outcomes = backend.apply([Install(mapping(number), 30) for number in (1, 2, 3)])
    assert outcomes[:2] == [NOTHING] * 2
    assert isinstance(outcomes[2], Failed)
    assert outcomes[2].full
    assert "2 sessions" in outcomes[2].why
    assert backend.apply([Renew(mapping(1), 30), Remove(mapping(2))]) == [NOTHING] * 2
    assert backend.apply([Install(mapping(3), 30)]) == [NOTHING]


def test_a_new_start_adopts_what_the_sets_hold() -> None:
    backend, memory = started()
    backend.apply([Install(mapping(), 30)])
    memory.rules |= {mapping(7).flows()[0][0]}  # of a session whose lease has ended meanwhile
    heir, _ = started(memory=memory)
    assert memory.rules == set(mapping().flows()[0])
    thief = replace(mapping(9), client_partner=mapping().client_partner, client_side=mapping().client_side)
    assert isinstance(heir.apply([Install(thief, 30)])[0], Failed)
    assert heir.apply([Remove(mapping())]) == [NOTHING]
    assert memory.rules == set()


def test_a_new_start_tells_no_count_twice_and_a_new_setup_none_too_few() -> None:
    backend, memory = started()
    backend.apply([Install(mapping(), 30)])
    memory.counted[Key.of(mapping().flows()[0][0])] = (10, 1000)
    backend.setup()
    assert backend.apply([Renew(mapping(), 30)]) == [Done(Counters(10, 1000))]
    heir, _ = started(memory=memory)
    assert heir.apply([Renew(mapping(), 30)]) == [NOTHING]


def test_chains_that_somebody_flushed_are_put_back_with_their_sessions() -> None:
    backend, memory = started()
    backend.apply([Install(mapping(1), 30)])
    memory.gone, memory.rules = True, set()
    assert backend.apply([Install(mapping(2), 30)]) == [NOTHING]
    assert len(memory.rules) == 4
    backend.flush_own()
    assert (memory.rules, memory.live) == (set(), {})
