"""Elements written by netlink are those that nft would have made of the same change's text; refusals keep their reasons."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from chainrelay import limits
from chainrelay.datapath import nft, ruleset
from chainrelay.datapath.mapping import Install, Mapping, Remove, Renew
from chainrelay.datapath.nft_backend import TransactionError
from chainrelay.privileged.elements import ElementWriter, refused
from chainrelay.privileged.nftables import Nftables
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from lab.host import Namespace

RULES = ruleset.render(ruleset.Ruleset(ruleset.Firewall.GUEST))
V4 = ("10.1.0.1:5000", "10.1.0.2:20000", "10.2.0.1:25000", "10.2.0.2:6000")
V6 = ("[fd01::1]:5000", "[fd01::2]:20000", "[fd02::1]:25000", "[fd02::2]:6000")


def mapping(ends: tuple[str, ...] = V4, offset: int = 0) -> Mapping:
    moved = (replace(end, port=end.port + offset) for end in map(Endpoint.parse, ends))
    return Mapping(bytes(16), Protocol.UDP, 2, *moved)


def changes(*operations: Install | Renew | Remove, certain: bool = True) -> list[nft.Change]:
    return nft.transaction([(each, nft.Elements.of(each.mapping)) for each in operations], certain=certain)


def listing(host: Namespace) -> str:
    """The ruleset with its sessions, the seconds that pass left out."""
    return re.sub(r"expires [0-9a-z]+", "", host.run(["nft", "-n", "list", "ruleset"]).stdout)


@pytest.mark.root
def test_the_kernel_holds_what_nft_would_have_made() -> None:
    both = Install(mapping(), 60), Install(mapping(V6), 90)
    steps = (
        changes(*both),
        changes(Renew(mapping(), 75)),
        changes(Renew(mapping(V6, 100), 30), certain=False),
        changes(*both),  # again: no error, nothing changes
        changes(Remove(mapping(V6)), Install(mapping(V4, 8), 20)),
    )
    with Namespace("netlink") as one, Namespace("text") as other:
        with one.enter():
            Nftables().run(RULES)
            writer = ElementWriter()
        other.run(["nft", "-f", "-"], stdin=RULES)
        assert listing(one) == listing(other)
        for step in steps:
            writer.commit(step)
            other.run(["nft", "-f", "-"], stdin="\n".join(map(str, step)) + "\n")
            assert listing(one) == listing(other)
        assert "fd01::1 . 17 . 5100 . fd01::2 . 20100" in listing(one).replace("udp", "17")
        writer.close()


@pytest.mark.root
def test_the_largest_batch_goes_in_one() -> None:
    with Namespace("batch") as host, host.enter():
        Nftables().run(RULES)
        writer = ElementWriter()
        batch = [Install(mapping(V6, 2 * number), 60) for number in range(limits.BATCH)]
        writer.commit(changes(*batch))
        writer.commit([])
        assert listing(host).count("timeout 60s") == 4 * limits.BATCH
        writer.commit(changes(*(Remove(each.mapping) for each in batch)))
        assert listing(host).count("fd01::1") == 0
        writer.close()


@pytest.mark.root
def test_refusals_are_told_apart_and_leave_nothing() -> None:
    with Namespace("refusals") as host, host.enter():
        writer = ElementWriter()

        def reason(*operations: Install | Renew | Remove) -> tuple[bool, bool, bool]:
            with pytest.raises(TransactionError, match="nftables: ") as refusal:
                writer.commit(changes(*operations))
            return refusal.value.full, refusal.value.exists, refusal.value.missing

        assert reason(Install(mapping(), 60)) == (False, False, True)  # no table
        Nftables().run(RULES)
        writer.commit(changes(Install(mapping(), 60)))
        before = listing(host)
        other_exit = replace(mapping(), server_partner=Endpoint.parse("10.2.0.9:6000"))
        assert reason(Install(mapping(V6), 60), Install(other_exit, 60)) == (False, True, False)
        assert reason(Install(mapping(V6), 60), Remove(mapping(V4, 50))) == (False, False, True)
        assert listing(host) == before
        writer.close()


@pytest.mark.root
def test_a_process_without_the_capability_is_told_so() -> None:
    program = (
        "from chainrelay.datapath.nft import Change, Verb\n"
        "from chainrelay.privileged.elements import ElementWriter\n"
        "ElementWriter().commit([Change(Verb.ADD, 4, 'live', [(bytes(20), b'', 9)])])"
    )
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    with Namespace("bare") as host:
        argv = host.wrap([*drop, sys.executable, "-c", program])
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 1
        assert "TransactionError" in done.stderr
        assert "CAP_NET_ADMIN" in done.stderr


def test_a_full_table_is_full() -> None:
    assert refused(23).full  # ENFILE, as the kernel says for a set with a size
    assert not refused(22).full
