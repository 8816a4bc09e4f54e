"""libnftables' answers as values; the errors that an operator can meet say what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chainrelay.errors import DatapathError
from chainrelay.privileged.nftables import Nftables, refused
from lab.host import Namespace


@pytest.mark.parametrize(
    ("said", "full", "exists", "missing"),
    [
        ("Error: Could not process rule: File exists\nadd element …", False, True, False),
        ("Error: No such file or directory\ndelete element …", False, False, True),
        ("Error: Could not process rule: Too many open files in system\n", True, False, False),
        ("Error: Could not process rule: Cannot allocate memory\n", True, False, False),
        ("Error: Could not process rule: No space left on device\n", True, False, False),
        ("Error: syntax error, unexpected newline\n", False, False, False),
        ("", False, False, False),
    ],
)
def test_the_reason_is_told_apart(said: str, full: bool, exists: bool, missing: bool) -> None:
    reason = refused(said)
    assert (reason.full, reason.exists, reason.missing) == (full, exists, missing)
    assert "\n" not in str(reason)
    assert str(reason).startswith("nftables: ")


def test_not_permitted_says_what_is_missing() -> None:
    assert "CAP_NET_ADMIN" in str(refused("Error: Could not process rule: Operation not permitted\n"))


def test_a_missing_binding_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nftables", None)
    with pytest.raises(DatapathError, match="apt install nftables python3-nftables"):
        Nftables()


@pytest.mark.root
def test_a_process_without_the_capability_is_told_so() -> None:
    program = "from chainrelay.privileged.nftables import Nftables\nNftables().run('add table ip chainrelay')"
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    with Namespace("bare") as host:
        argv = host.wrap([*drop, sys.executable, "-c", program])
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 1
        assert "DatapathError" in done.stderr or "TransactionError" in done.stderr
        assert "CAP_NET_ADMIN" in done.stderr
        assert host.run(["nft", "list", "tables"]).stdout == ""


@pytest.mark.root
def test_a_full_set_is_full() -> None:
    with Namespace("full") as host, host.enter():
        nft = Nftables()
        nft.run("table ip t {\nset s { type ipv4_addr; size 2\n}\n}")
        with pytest.raises(DatapathError) as refusal:
            nft.run("add element ip t s { 10.0.0.1, 10.0.0.2, 10.0.0.3 }")
        assert refusal.value.full
