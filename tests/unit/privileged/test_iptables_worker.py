"""Rules as python-iptables makes them and as the mould copies them; commits, whole or not at all; the lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from iptc.ip4tc import IPTCError

from chainrelay.datapath.legacy_ruleset import DESTINATIONS, SOURCES, render
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.privileged import iptables_worker
from chainrelay.privileged.iptables import COMMANDS
from chainrelay.privileged.iptables_worker import ATTEMPTS, LOCK, Writer
from lab.host import Namespace
from lab.relays import environment

pytestmark = pytest.mark.root
HOSTS = {4: ("10.1.0.1", "10.1.0.2", "10.2.0.2"), 6: ("fd00:1::1", "fd00:1::2", "fd00:2::2")}


class Talk:
    """A worker in a namespace."""

    def __init__(self, host: Namespace, family: int) -> None:
        self.host, self.family = host, family
        self._process = host.popen(
            [sys.executable, "-m", "chainrelay.privileged.iptables_worker", str(family)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said

    def rules(self) -> list[str]:
        lines: list[str] = self.ask({"save": "nat"})["text"].splitlines()
        return [line for line in lines if "DNAT" in line or "SNAT" in line]


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    family = int(request.param)
    with Namespace("worker") as host:
        host.run(["ipset", "create", f"chainrelay-{family}", "hash:ip,port,ip", "family", "inet" if family == 4 else "inet6", "counters"])
        made = Talk(host, family)
        for table in ("mangle", "nat", "filter"):
            assert made.ask({"restore": render(Ruleset(Firewall.GUEST), family, table)}) == {}
        yield made


def rule(family: int, root: str, protocol: str = "udp", port: int = 20000) -> list[Any]:
    source, own, onward = HOSTS[family]
    return [root, protocol, source, 5000, own, port, port, onward, 6000]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_moulded_rules_say_what_they_should(talk: Talk, protocol: str) -> None:
    rules = [rule(talk.family, root, protocol) for root in (DESTINATIONS, SOURCES)]
    assert talk.ask({"commit": [rules, []]}) == {}
    bits, onward = (32, "10.2.0.2") if talk.family == 4 else (128, "[fd00:2::2]")
    source, own, _ = HOSTS[talk.family]
    head = f"-s {source}/{bits} -d {own}/{bits} -p {protocol} -m {protocol} --sport 5000 --dport 20000"
    counted = f"-m set --match-set chainrelay-{talk.family} src,dst,dst"
    assert talk.rules() == [
        f"-A {DESTINATIONS}-4E2 {head} {counted} -j DNAT --to-destination {onward}:6000",
        f"-A {SOURCES}-4E2 {head} -j SNAT --to-source {onward}:6000",
    ]
    assert talk.ask({"commit": [[], rules]}) == {}
    assert talk.rules() == []
    assert talk.ask({"commit": [[], rules]}) == {}  # what is not there is no error


def test_jumps_that_the_worker_makes_are_those_that_a_restore_makes(talk: Talk) -> None:
    """One by one in a commit, or all at once from the text of `render`: iptables prints, and the kernel holds, the same."""
    def jumps() -> list[str]:
        text: str = talk.ask({"save": "nat"})["text"]
        return sorted(line for line in text.splitlines() if "--ctorigdstport" in line)

    assert talk.ask({"commit": [[rule(talk.family, DESTINATIONS, port=port) for port in (20000, 20016, 65535, 1024)], []]}) == {}
    made = jumps()
    assert f"-A {DESTINATIONS} -m conntrack --ctorigdstport 16384:20479 -j {DESTINATIONS}-4" in made
    assert f"-A {DESTINATIONS}-FF -m conntrack --ctorigdstport 65520:65535 -j {DESTINATIONS}-FFF" in made
    assert len(made) == 10
    for line in made:
        talk.host.run([COMMANDS[talk.family], "-w", "-t", "nat", "-C", *line.split()[1:]])  # compares the octets of the match


def test_a_commit_is_whole_or_nothing(talk: Talk) -> None:
    good, bad = rule(talk.family, DESTINATIONS), rule(talk.family, DESTINATIONS, port=20001)
    bad[0] = "NOWHERE"
    assert "error" in talk.ask({"commit": [[good, bad], []]})
    assert talk.rules() == []
    assert talk.ask({"commit": [[good], []]}) == {}
    assert len(talk.rules()) == 1


@pytest.mark.parametrize("table", ["mangle", "nat", "filter"])
def test_it_sees_when_somebody_restores_a_table_without_us(talk: Talk, table: str) -> None:
    assert talk.ask({"look": None}) == {}
    talk.host.run([f"{COMMANDS[talk.family]}-restore"], stdin=f"*{table}\nCOMMIT\n")
    assert talk.ask({"look": None}) == {"gone": True}
    if table == "nat":
        assert talk.ask({"commit": [[rule(talk.family, DESTINATIONS)], []]}) == {"gone": True}


def test_an_administrator_who_comes_before_us_is_seen(talk: Talk) -> None:
    talk.host.run([COMMANDS[talk.family], "-w", "-I", "FORWARD", "-j", "ACCEPT"])
    assert talk.ask({"look": None}) == {"gone": True}


def test_a_table_that_changed_meanwhile_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = f"can't commit: {os.strerror(errno.EAGAIN).encode()!r}"
    faults = [busy] * (ATTEMPTS - 1)
    monkeypatch.setattr(iptables_worker, "PAUSE", 0.0)
    monkeypatch.setattr(Writer, "_commit", lambda *_: fail(faults))
    Writer(4).commit([], [])
    assert faults == []
    faults[:] = [busy] * ATTEMPTS
    with pytest.raises(IPTCError):
        Writer(4).commit([], [])
    faults[:] = ["can't commit: b'Invalid argument'"]
    with pytest.raises(IPTCError, match="Invalid"):
        Writer(4).commit([], [])


def fail(faults: list[str]) -> None:
    if faults:
        raise IPTCError(faults.pop())


def test_it_waits_for_the_lock_that_iptables_holds(talk: Talk) -> None:
    order = json.dumps({"commit": [[rule(talk.family, DESTINATIONS)], []]}) + "\n"
    process = talk._process
    assert process.stdin is not None
    assert process.stdout is not None
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process.stdin.write(order)
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        saved = talk.host.run([f"{COMMANDS[talk.family]}-save", "-t", "nat"]).stdout
        assert "DNAT" not in saved
    assert json.loads(process.stdout.readline()) == {}
    assert len(talk.rules()) == 1
