"""The legacy rules as text: hooks, gate, the tree of chains, what replaces what. The kernel takes the same text in test_legacy_kernel."""

from __future__ import annotations

import pytest

from chainrelay.datapath import legacy_ruleset
from chainrelay.datapath.legacy_ruleset import DESTINATIONS, TABLES, Key, branch, comment, flow_of, render, teardown
from chainrelay.datapath.mapping import Flow, Mapping
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

GUEST = Ruleset(Firewall.GUEST, mark=0x10, mask=0x30)
ENDS = {
    4: ("10.1.0.1:5000", "10.1.0.2:20000", "10.2.0.1:25000", "10.2.0.2:6000"),
    6: ("[fd00:1::1]:5000", "[fd00:1::2]:20000", "[fd00:2::1]:25000", "[fd00:2::2]:6000"),
}
SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:CHAINRELAY-PRE - [0:0]
:CHAINRELAY-DST - [0:0]
:CHAINRELAY-DST-F - [0:0]
:ADMIN - [0:0]
-A PREROUTING -m connmark --mark 0x1/0x1 -j CHAINRELAY-PRE
-A PREROUTING -j ADMIN
-A CHAINRELAY-PRE -j CHAINRELAY-DST
COMMIT
"""


def flows(family: int = 4, protocol: Protocol = Protocol.UDP) -> list[Flow]:
    mapping = Mapping(bytes(16), protocol, 1, *map(Endpoint.parse, ENDS[family]))
    return [flow for pair in mapping.flows() for flow in pair]


def test_ports_of_a_leaf_are_sixteen_and_every_level_holds_the_port() -> None:
    for port in (1, 15, 16, 20000, 65535):
        path = branch("ROOT", port)
        assert all(first <= port <= last for _, first, last in path)
        assert [last - first + 1 for _, first, last in path] == [4096, 256, 16]
    assert [name for name, _, _ in branch("ROOT", 20000)] == ["ROOT-4", "ROOT-4E", "ROOT-4E2"]
    assert len({branch("ROOT", port)[-1][0] for port in range(65536)}) == 4096


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_is_in_the_key_and_the_comment(family: int) -> None:
    for flow in flows(family, Protocol.TCP):
        assert flow_of(Key.of(flow), comment(flow)) == flow


def test_a_session_is_dnat_and_snat_in_leaves_that_are_reached_once() -> None:
    text = render(GUEST, 4, "nat", flows())
    assert text.count("--to-destination 10.2.0.2:6000") == text.count("--to-source 10.1.0.2:20000") == 1
    assert text.count(f"-A {DESTINATIONS} ") == 2  # ports 20000 and 25000 lie in different sixteenths
    leaf = next(line for line in text.splitlines() if "--to-destination 10.2.0.2:6000" in line)
    assert "-s 10.1.0.1 -d 10.1.0.2 -p udp -m udp --sport 5000 --dport 20000" in leaf
    assert "[fd00:2::2]:6000" in render(GUEST, 6, "nat", flows(6))


def test_what_is_ours_is_replaced_and_nothing_else_is_named() -> None:
    text = render(GUEST, 4, "nat", flows(), SAVED)
    assert "-D PREROUTING -m connmark --mark 0x1/0x1 -j CHAINRELAY-PRE" in text
    assert "-X CHAINRELAY-DST-F" in text
    assert "ADMIN" not in text
    assert ":PREROUTING" not in text
    assert "-I PREROUTING -m connmark --mark 0x10/0x30 -j CHAINRELAY-PRE" in text


def test_teardown_removes_chains_and_hooks_and_is_silent_without_any() -> None:
    text = teardown("nat", SAVED)
    assert [line for line in text.splitlines() if line.startswith("-D")] == ["-D PREROUTING -m connmark --mark 0x1/0x1 -j CHAINRELAY-PRE"]
    assert text.count("-X ") == 3
    assert "-I " not in text
    assert teardown("nat", "*nat\n:ADMIN - [0:0]\nCOMMIT\n") == ""


def test_only_an_own_firewall_decides_what_is_forwarded() -> None:
    own = render(Ruleset(Firewall.OWN), 4, "filter")
    assert "-A CHAINRELAY-FORWARD -j DROP" in own
    assert "-A CHAINRELAY-FORWARD -j DROP" not in render(GUEST, 4, "filter")
    assert "tcp-reset" in own


def test_the_gate_asks_the_lease_and_guards_every_range_of_the_pool() -> None:
    text = render(Ruleset(Firewall.GUEST, ((20000, 20010), (40000, 40000))), 6, "mangle")
    assert text.count("--match-set chainrelay-6 src,dst,dst") == 3
    assert text.count("! --update-counters") == 2
    for ports in ("20000:20010", "40000:40000"):
        assert text.count(f"--dport {ports} -m conntrack --ctstate NEW,INVALID,UNTRACKED -m addrtype --dst-type LOCAL -j DROP") == 2
    assert f"--mark {GUEST.mark:#x}/{GUEST.mask:#x}" in legacy_ruleset.administrators_rule(GUEST)


def test_everything_is_printed_for_both_families() -> None:
    text = legacy_ruleset.render_all(GUEST)
    assert [text.count(f"*{table}\n") for table in TABLES] == [2, 2, 2]
    with pytest.raises(ValueError, match="table raw"):
        render(GUEST, 4, "raw")
