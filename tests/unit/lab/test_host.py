"""Hosts, links and datagrams of the lab on the real kernel; and nothing stays behind, whatever ends the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab import wait
from lab.datagrams import Port, Stream
from lab.host import RUN_NETNS, CommandError, Namespace, alive, sweep
from lab.link import Link, connect
from lab.relays import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

VICTIM = """
import sys
from lab import wait
from lab.host import Namespace
host = Namespace("victim")
child = host.popen(["sleep", "1000"])
grandchild = host.popen(["sh", "-c", "{stubborn} sleep 1000 & wait"])
wait.until(lambda: len(host.pids()) == 3, "all to run")
print(host.netns, child.pid, grandchild.pid, flush=True)
{then}
"""


@pytest.fixture
def pair() -> Iterator[Link]:
    with Namespace("left") as left, Namespace("right") as right:
        yield connect(left, right, ("10.1.0.0/24", "fd00:1::/64"))


def test_run_shows_the_output_of_a_failure() -> None:
    with Namespace("one") as host, pytest.raises(CommandError, match=r"one: sh -c .* ended with 3: told"):
        host.run(["sh", "-c", "echo told; exit 3"])


def test_a_command_that_hangs_is_named() -> None:
    with Namespace("one") as host, pytest.raises(CommandError, match=r"one: sleep 100 did not end within 0\.1 s"):
        host.run(["sleep", "100"], timeout=0.1)


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_cross_a_link_and_are_counted(pair: Link, family: int) -> None:
    left, right = pair.left, pair.right
    with Port(left.host, left.address(family)) as near, Port(right.host, right.address(family)) as far:
        stream, other = Stream(), Stream()
        stream.send(near, far.endpoint, 50)
        other.send(near, far.endpoint, 2)
        tally = stream.tally(far)
        assert (tally.lost, tally.duplicates, tally.sources) == (0, 0, {near.endpoint})
        stream.sent += 1  # one that was never sent
        assert stream.tally(far, timeout=0.05).lost == 51
    assert tally.foreign == 2


def test_entering_changes_only_the_sockets_made_inside(pair: Link) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with pytest.raises(RuntimeError, match="inside"), pair.left.host.enter():
        assert os.stat("/proc/thread-self/ns/net").st_ino != before
        raise RuntimeError("inside")
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def test_sysctl_is_the_hosts_own(pair: Link) -> None:
    pair.left.host.sysctl(net__ipv4__ip_forward=1)
    values = [end.host.run(["sysctl", "-n", "net.ipv4.ip_forward"]).stdout.strip() for end in (pair.left, pair.right)]
    assert values == ["1", "0"]


def test_a_host_has_names_of_its_own() -> None:
    with Namespace("one") as host:
        host.know({"camera.example": "10.9.9.9"})
        assert host.run(["getent", "hosts", "camera.example"]).stdout.startswith("10.9.9.9")
        process = host.popen(["sleep", "100"])
        wait.until(lambda: host.pids() == [process.pid], "the command to run under the pid that was told")


def test_features_for_a_fast_path_are_set() -> None:
    with Namespace("left") as left, Namespace("right") as right:
        link = connect(left, right, ("10.1.0.0/24",), tx_checksum=False, gro=True)
        shown = left.run(["ethtool", "-k", link.left.name]).stdout
    assert "tx-checksumming: off" in shown
    assert "generic-receive-offload: on" in shown


def test_waiting_in_vain_names_what_was_waited_for() -> None:
    with pytest.raises(wait.WaitError, match=r"0\.05 s in vain for rain"):
        wait.until(lambda: False, "rain", 0.05)


@pytest.mark.parametrize(
    ("then", "signum", "status"),
    [
        ("stubborn", None, 0),
        ("raise SystemExit(5)", None, 5),
        ("raise RuntimeError('a failing test')", None, 1),
        ("sys.stdin.read()", signal.SIGINT, -signal.SIGINT),
        ("sys.stdin.read()", signal.SIGTERM, 128 + signal.SIGTERM),
        ("sys.stdin.read()", signal.SIGHUP, 128 + signal.SIGHUP),
    ],
)
def test_nothing_is_left_whatever_ends_the_program(then: str, signum: int | None, status: int) -> None:
    process, netns, pids = _victim(then)
    if signum is not None:
        process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode == status
    assert not (RUN_NETNS / netns).exists()
    assert not [pid for pid in pids if alive(int(pid))]


def test_what_a_kill_leaves_is_swept_by_the_next_run() -> None:
    process, netns, pids = _victim("sys.stdin.read()")
    process.kill()
    process.wait(20)
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    assert (RUN_NETNS / netns).exists()
    assert netns in sweep()
    assert not (RUN_NETNS / netns).exists()
    wait.until(lambda: not [pid for pid in pids if alive(int(pid))], "the orphans to end")


def _program(then: str) -> str:
    if then == "stubborn":
        return VICTIM.format(then="", stubborn="trap '' TERM;")
    return VICTIM.format(then=then, stubborn="")


def _victim(then: str) -> tuple[subprocess.Popen[str], str, list[str]]:
    """With the usual signals: under nohup a hangup would be ignored by us and, by inheritance, by it."""
    process = subprocess.Popen(
        ["env", "--default-signal=HUP,INT,TERM", sys.executable, "-c", _program(then)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    netns, *pids = process.stdout.readline().split()
    return process, netns, pids
