"""What the backend tells the kernel and makes of its refusals, over a kernel that follows a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from chainrelay import limits
from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Mapping, Remove, Renew
from chainrelay.datapath.nft import Change, live_keys
from chainrelay.datapath.nft_backend import Counted, LiveElement, NftBackend, TransactionError
from chainrelay.datapath.ruleset import Firewall, Ruleset, render, teardown
from chainrelay.errors import DatapathError
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

RULES = Ruleset(Firewall.GUEST)


class ScriptedKernel:
    """Writes down what it is told; refuses the texts in which `refuse` finds a reason."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: list[tuple[str, object]] = []
        self.refusals: list[tuple[str, TransactionError, int]] = []
        self.counted: Counted = {}
        self.elements: list[LiveElement] = []
        self.maps: list[tuple[bytes, bytes]] = []
        self.marked: list[bytes] = []
        self.lost: set[int] = set()

    def refuse(self, part: str, reason: TransactionError, times: int = 1000) -> None:
        self.refusals.append((part, reason, times))

    def run(self, text: str) -> None:
        self.texts.append(text)
        for index, (part, reason, times) in enumerate(self.refusals):
            if part in text and times:
                self.refusals[index] = part, reason, times - 1
                raise reason

    def change(self, changes: Sequence[Change]) -> None:
        self.run("\n".join(map(str, changes)))

    def change_counting(self, changes: Sequence[Change]) -> Counted:
        self.change(changes)
        return self.counted

    def forget(self, keys: Sequence[bytes]) -> None:
        self.calls.append(("forget", list(keys)))

    def live(self, family: int) -> list[LiveElement]:
        return [each for each in self.elements if len(each.key) == (20 if family == 4 else 44)]

    def destinations(self, family: int) -> list[tuple[bytes, bytes]]:
        return [each for each in self.maps if len(each[0]) == (20 if family == 4 else 44)]

    def has_gate(self, family: int) -> bool:
        return family not in self.lost

    def counters(self, keys: Sequence[bytes]) -> Counted:
        return {key: self.counted[key] for key in keys if key in self.counted}

    def tracked(self, mark: int, mask: int) -> list[bytes]:
        self.calls.append(("tracked", (mark, mask)))
        return self.marked

    def check_forwarding(self, families: Iterable[int]) -> None:
        self.calls.append(("forwarding", tuple(families)))

    def reserve_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        self.calls.append(("reserve", tuple(pool)))

    def release_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        self.calls.append(("release", tuple(pool)))

    def close(self) -> None:
        self.calls.append(("close", None))


@pytest.fixture
def kernel() -> ScriptedKernel:
    return ScriptedKernel()


@pytest.fixture
def backend(kernel: ScriptedKernel) -> NftBackend:
    return NftBackend(RULES, kernel)


def mapping(n: int = 0) -> Mapping:
    ends = (f"10.1.0.1:{10000 + n}", f"10.1.0.2:{20000 + n}", f"10.2.0.1:{30000 + n}", f"10.2.0.2:{40000 + n}")
    return Mapping(n.to_bytes(16, "big"), Protocol.UDP, 1, *map(Endpoint.parse, ends))


NOTHING = Done(Counters())


def test_a_batch_is_one_transaction_and_no_larger_than_the_limit(backend: NftBackend, kernel: ScriptedKernel) -> None:
    assert backend.apply([Install(mapping(n), 9) for n in range(limits.BATCH + 1)]) == [NOTHING] * (limits.BATCH + 1)
    assert [text.count("timeout") // 2 for text in kernel.texts] == [limits.BATCH, 1]


def test_operations_that_share_a_key_are_not_put_into_one_transaction(backend: NftBackend, kernel: ScriptedKernel) -> None:
    one = mapping()
    same_partners = replace(mapping(1), client_partner=one.client_partner, server_partner=one.server_partner)
    backend.apply([Install(one, 9), Install(mapping(5), 9), Remove(one), Install(same_partners, 9)])
    assert [text.split()[0] for text in kernel.texts] == ["add", "delete", "add"]


def test_a_batch_that_fails_is_tried_one_by_one(backend: NftBackend, kernel: ScriptedKernel) -> None:
    kernel.refuse(" . 20001 ", TransactionError("nftables: no more", full=True))
    outcomes = backend.apply([Install(mapping(n), 9) for n in range(3)])
    assert outcomes == [NOTHING, Failed("nftables: no more", full=True), NOTHING]
    assert len(kernel.texts) == 4


def test_what_has_expired_is_renewed_and_removed_by_the_second_attempt(backend: NftBackend, kernel: ScriptedKernel) -> None:
    kernel.refuse("delete", TransactionError("gone", missing=True), times=1)
    assert backend.apply([Renew(mapping(), 9), Remove(mapping(1))]) == [NOTHING, NOTHING]
    assert [text.split()[0] for text in kernel.texts] == ["delete", "add"]


def test_a_table_that_is_gone_is_loaded_again_once(backend: NftBackend, kernel: ScriptedKernel) -> None:
    kernel.refuse("add element", TransactionError("gone", missing=True), times=2)
    assert backend.apply([Install(mapping(), 9)]) == [NOTHING]
    assert kernel.texts[2] == render(RULES)
    assert len(kernel.texts) == 4


def test_a_table_that_stays_away_is_an_error_of_each_operation(backend: NftBackend, kernel: ScriptedKernel) -> None:
    kernel.refuse("element", TransactionError("gone", missing=True))
    assert backend.apply([Install(mapping(), 9), Remove(mapping(1))]) == [Failed("gone"), Failed("gone")]


def test_held_keys_fail_an_install_and_leave_nothing_to_remove(backend: NftBackend, kernel: ScriptedKernel) -> None:
    kernel.refuse("element", TransactionError("exists", exists=True))
    installed, renewed, removed = backend.apply([Install(mapping(), 9), Renew(mapping(1), 9), Remove(mapping(2))])
    assert isinstance(installed, Failed)
    assert "10.1.0.1:10000" in installed.why
    assert isinstance(renewed, Failed)
    assert removed == NOTHING
    assert not any(keys for name, keys in kernel.calls if name == "forget")


def test_what_ended_without_anybody_is_cleared_out_of_an_installs_way(backend: NftBackend, kernel: ScriptedKernel) -> None:
    """Flows that no record explained any more have left their map elements behind."""
    over, data = live_keys(mapping(1))[0], bytes([10, 2, 0, 2, 0x9C, 0x41, 0, 0])
    kernel.maps = [(over, data)]
    kernel.refuse("AddElements", TransactionError("exists", exists=True), times=1)
    assert backend.apply([Install(mapping(), 9)]) == [NOTHING]


def test_nothing_is_tried_again_where_nothing_has_ended(backend: NftBackend, kernel: ScriptedKernel) -> None:
    kernel.refuse("element", TransactionError("exists", exists=True))
    assert isinstance(backend.apply([Install(mapping(), 9)])[0], Failed)
    assert sum("element" in text for text in kernel.texts) == 1


def test_final_counters_go_to_their_operation_and_direction(backend: NftBackend, kernel: ScriptedKernel) -> None:
    pair = replace(mapping(), components=2)
    kernel.counted = {key: (10**n, 7 * 10**n) for n, key in enumerate(live_keys(pair))}
    outcomes = backend.apply([Install(mapping(4), 9), Renew(pair, 9), Remove(mapping(8))])
    assert outcomes == [NOTHING, Done(Counters(101, 707, 1010, 7070)), NOTHING]
    assert backend.counters([mapping(8), pair]) == [Counters(), Counters(101, 707, 1010, 7070)]


def test_conntrack_forgets_each_component_unless_it_lingers(backend: NftBackend, kernel: ScriptedKernel) -> None:
    pair = replace(mapping(), components=2)
    backend.apply([Remove(pair), Remove(mapping(4), linger=True)])
    assert kernel.calls == [("forget", [live_keys(pair)[0], live_keys(pair)[2]])]


def test_setup_reserves_loads_and_clears_what_ended(backend: NftBackend, kernel: ScriptedKernel) -> None:
    alive, over = live_keys(mapping(0))[0], live_keys(mapping(1))[0]
    data = bytes([10, 2, 0, 2, 0x9C, 0x41, 0, 0])
    kernel.elements, kernel.maps, kernel.marked = [LiveElement(alive, 5.0, 0, 0)], [(alive, data), (over, data)], [alive, over]
    backend.setup()
    assert kernel.texts[0] == render(RULES)
    assert "20001" in kernel.texts[1]
    assert "20000" not in kernel.texts[1]
    assert kernel.calls[-1] == ("forget", [over])


def test_another_pool_releases_the_old_one(backend: NftBackend, kernel: ScriptedKernel) -> None:
    wider = replace(RULES, pool=((1000, 2000),))
    backend.reconfigure(wider)
    assert kernel.calls == [("release", RULES.pool), ("forwarding", (4, 6)), ("reserve", wider.pool)]
    assert kernel.texts == [render(wider)]


def test_flush_takes_tables_entries_and_ports(backend: NftBackend, kernel: ScriptedKernel) -> None:
    kernel.marked = [live_keys(mapping())[0]]
    backend.flush_own()
    assert kernel.texts == [teardown()]
    assert kernel.calls == [("tracked", (RULES.mark, RULES.mask)), ("forget", kernel.marked), ("release", RULES.pool)]


def test_setup_tells_what_is_wrong(backend: NftBackend, kernel: ScriptedKernel) -> None:
    kernel.refuse("table", TransactionError("nftables: Operation not permitted; the agent needs CAP_NET_ADMIN"))
    with pytest.raises(DatapathError, match="CAP_NET_ADMIN"):
        backend.setup()


def test_the_rules_are_intact_while_every_family_has_its_gate() -> None:
    kernel = ScriptedKernel()
    backend = NftBackend(Ruleset(Firewall.GUEST), kernel)
    assert backend.intact()
    kernel.lost = {6}
    assert not backend.intact()
