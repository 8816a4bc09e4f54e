"""What `--check-config` says of a host: no tables, no tools, no rights, nft rules beside; and of this one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from chainrelay.privileged.legacy_check import findings, run_command
from lab.host import Namespace

MISSING = "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)"
DENIED = "iptables v1.8.9 (legacy): can't initialize iptables table `mangle': Permission denied (you must be root)"


def answers(iptables: tuple[int, str] = (0, ""), nft: tuple[int, str] = (127, "")) -> list[tuple[bool, str, str]]:
    """Findings of a host whose commands answer so."""

    def run(command: Sequence[str]) -> tuple[int, str]:
        return nft if command[0] == "nft" else iptables

    return [(each.fatal, each.why, each.mend) for each in findings(run)]


def test_a_good_host_has_none() -> None:
    assert answers() == []
    assert answers(nft=(0, "table ip chainrelay\ntable ip6 chainrelay\n")) == []


def test_a_kernel_without_the_tables_is_refused_with_what_to_do() -> None:
    found = answers((3, MISSING))
    assert len(found) == 6
    assert all(fatal and "no legacy table" in why and "nftables" in mend for fatal, why, mend in found)


def test_missing_tools_are_refused_and_missing_rights_are_told() -> None:
    assert [(fatal, "apt install" in mend) for fatal, _, mend in answers((127, ""))] == [(True, True)] * 2
    assert [fatal for fatal, _, _ in answers((3, DENIED))] == [False, False]
    assert answers((3, "line 1"))[0][0]


def test_nft_rules_beside_it_are_a_warning_that_names_them() -> None:
    ((fatal, why, _),) = answers(nft=(0, "table inet admin\ntable ip chainrelay\n"))
    assert not fatal
    assert "inet admin" in why
    assert "chainrelay" not in why


@pytest.mark.root
def test_this_host() -> None:
    with Namespace("check") as host, host.enter():
        assert findings() == []
        host.run(["nft", "add", "table", "inet", "admin"])
        assert ["inet admin" in each.why for each in findings()] == [True]
    assert run_command(["no-such-command-anywhere"])[0] == 127
