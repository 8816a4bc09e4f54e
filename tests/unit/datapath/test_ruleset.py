"""The static rules as text; what they do is tests/conformance."""

from __future__ import annotations

from itertools import pairwise

import pytest

from chainrelay.datapath.ruleset import Firewall, Ruleset, administrators_rule, ranges, render, teardown

OWN, GUEST = Ruleset(Firewall.OWN), Ruleset(Firewall.GUEST)


@pytest.mark.parametrize("ruleset", [OWN, GUEST], ids=lambda ruleset: ruleset.firewall.value)
def test_every_chain_set_and_rule_is_explained_by_the_line_above(ruleset: Ruleset) -> None:
    lines = [line.strip() for line in render(ruleset).splitlines()]
    rules = (" accept", "drop", "goto ", "reject", "nat ip")
    explained = 0
    for before, line in pairwise(lines):
        container = line.startswith(("set ", "map ", "chain "))
        rule = any(word in line for word in rules)
        if container or (rule and not line.startswith(("#", "type "))):
            assert before.startswith("#"), line
            explained += 1
    assert explained == (36 if ruleset is OWN else 32)  # all that there are: none slipped past the words above


def test_elements_survive_because_only_rules_are_flushed() -> None:
    for table in render(GUEST).split("\ntable ip6")[0].splitlines():
        assert not table.startswith(("delete table", "flush ruleset", "flush set", "flush map"))
    assert render(GUEST).count("flush table ip") == 2


def test_a_table_per_family() -> None:
    assert render(Ruleset(Firewall.OWN, families=(6,))).startswith("table ip6 chainrelay\n")
    assert "ipv4_addr" not in render(Ruleset(Firewall.OWN, families=(6,)))


def test_only_own_drops_what_is_forwarded_and_guest_takes_such_a_chain_away() -> None:
    assert "hook forward priority filter; policy drop;" in render(OWN)
    assert "hook forward" not in render(GUEST)
    assert "delete chain ip6 chainrelay forward" in render(GUEST)
    assert "delete chain" not in render(OWN)


def test_foreign_bits_of_the_mark_are_kept() -> None:
    text = render(Ruleset(Firewall.GUEST, mark=0x0200, mask=0x0F00))
    assert "meta mark set meta mark & 0xfffff0ff | 0x00000200" in text
    assert "ct mark set ct mark & 0xfffff0ff | 0x00000200" in text
    assert "ct mark & 0x00000f00 == 0x00000200 dnat" in text


def test_pool_ranges_as_the_kernel_reads_them() -> None:
    assert "th dport { 20000-20999, 31000 }" in render(Ruleset(Firewall.GUEST, pool=((20000, 20999), (31000, 31000))))
    assert ranges(((1, 2), (5, 5))) == "1-2, 5"


def test_the_administrators_rule_names_our_bits_only() -> None:
    assert administrators_rule(Ruleset(Firewall.GUEST, mark=0x10, mask=0x30)) == "meta mark & 0x00000030 == 0x00000010 accept"


def test_teardown_names_our_tables_only() -> None:
    assert teardown() == "table ip chainrelay\ndelete table ip chainrelay\ntable ip6 chainrelay\ndelete table ip6 chainrelay\n"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pool": ()}, "pool"),
        ({"pool": ((3, 2),)}, "pool"),
        ({"pool": ((0, 2),)}, "pool"),
        ({"pool": ((2, 65536),)}, "pool"),
        ({"mark": 0}, "mark"),
        ({"mark": 1, "mask": 2}, "mask"),
        ({"mark": 1 << 32, "mask": 1 << 32}, "32 bits"),
        ({"families": ()}, "families"),
        ({"families": (5,)}, "families"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ruleset(Firewall.GUEST, **wrong)  # type: ignore[arg-type]
