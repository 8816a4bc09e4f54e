"""`python -m demo` as a person runs it: it succeeds, it can fail, and Ctrl-C leaves nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from lab import wait
from lab.host import RUN_NETNS
from lab.relays import environment

pytestmark = pytest.mark.root

THIEF = """
table inet thief {
    chain last_stretch {
        type filter hook postrouting priority 300; policy accept;
        udp sport 20000-29999 numgen inc mod 100000 == 50 drop
    }
}
"""


@pytest.mark.parametrize(
    "options",
    [
        ["--hops", "1"],
        ["--hops", "3", "--family", "6", "--xdp", "off"],
        ["--hops", "2", "--family", "6", "--xdp", "native"],
        pytest.param(["--hops", "2", "--xdp", "generic"], marks=pytest.mark.long),
        ["--hops", "2", "--way", "iterative"],
        ["--hops", "2", "--rules", "iptables-legacy", "--xdp", "off"],
        pytest.param(["--hops", "3", "--family", "6", "--rules", "iptables-legacy", "--xdp", "off"], marks=pytest.mark.long),
        pytest.param(["--hops", "2", "--family", "6"], marks=pytest.mark.long),
        pytest.param(["--hops", "5"], marks=pytest.mark.long),
        ["--hops", "2", "--way", "iterative", "--seal"],
        pytest.param(["--hops", "2", "--seal"], marks=pytest.mark.long),
        pytest.param(["--hops", "1", "--family", "6", "--seal"], marks=pytest.mark.long),
        pytest.param(["--hops", "3", "--family", "6", "--way", "iterative", "--seal", "--xdp", "generic"], marks=pytest.mark.long),
    ],
    ids=" ".join,
)
@pytest.mark.timeout(260)
def test_it_succeeds(options: list[str]) -> None:
    demo = start(options)
    printed, _ = demo.communicate(timeout=250)
    assert (demo.returncode, printed.splitlines()[-1]) == (0, "demo: ok"), printed
    assert not namespaces(demo)
    if "--seal" in options:
        assert_video_was_sealed(printed)
    elif {"native", "generic"} & set(options):
        assert_video_went_fast(printed)


def assert_video_went_fast(printed: str) -> None:
    """The fast path forwarded at every hop as many datagrams as the session counted there, both directions together."""
    counted = {name: int(down) + int(up) for name, down, up in re.findall(r"^ +(fw\d) +(\d+) +\d+ +(\d+) +\d+$", printed, re.MULTILINE)}
    forwarded = {name: int(count) for name, count in re.findall(r"^ +(fw\d): forwarded (\d+)", printed, re.MULTILINE)}
    assert counted == forwarded != {}, printed


def assert_video_was_sealed(printed: str) -> None:
    """The last relay sealed, the others forwarded as many datagrams as were captured on every wire, and nothing showed there."""
    (sent,) = set(re.findall(r"datagrams  (\d+) sent, \1 received", printed))
    *before, last = re.findall(r"^ +fw\d: .*$", printed[printed.index("by verdict:") :].partition("torn down")[0], re.MULTILINE)
    assert re.search(rf"\bsealed {sent}\b", last) and "forwarded" not in last, printed
    assert all(re.search(rf"\bforwarded {sent}\b", each) for each in before), printed
    wires = re.findall(r"^ +sealed +(.*): (\d+) datagrams captured; .* in a row of what was sent: (\w+)$", printed, re.MULTILINE)
    assert len(wires) == len(before) + 1, printed
    assert {count for _, count, _ in wires} == {sent}, printed
    assert {found for _, _, found in wires} == {"none"}, printed


def test_without_the_fast_path_nothing_is_sealed() -> None:
    demo = start(["--hops", "1", "--seal", "--xdp", "off"])
    printed, _ = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert printed.splitlines()[-1].startswith("demo: FAILED sealed datagrams are opened by the fast path alone: choose XDP=auto")


def test_one_lost_packet_makes_it_fail() -> None:
    """Somebody takes one datagram of the video out, on the last stretch to the client."""
    demo = start(["--hops", "1", "--xdp", "off"])  # his rules are what the fast path passes by
    assert demo.stdout is not None
    printed = ""
    while "streams RTP" not in printed:
        line = demo.stdout.readline()
        assert line, printed
        printed += line
    relay = next(name for name in namespaces(demo) if name.endswith("-fw1"))
    subprocess.run(["ip", "netns", "exec", relay, "nft", "-f", "-"], input=THIEF, text=True, check=True)
    printed += demo.communicate(timeout=110)[0]
    last = printed.splitlines()[-1]
    assert demo.returncode == 1, printed
    assert re.match(r"demo: FAILED 1 of \d+ datagrams lost", last), last
    assert not namespaces(demo)


def test_ctrl_c_leaves_nothing() -> None:
    demo = start(["--hops", "2"])
    assert demo.stdout is not None
    while "agent(s) listen" not in demo.stdout.readline():
        assert demo.poll() is None
    demo.send_signal(signal.SIGINT)
    printed, _ = demo.communicate(timeout=20)
    assert (demo.returncode, printed.splitlines()[-1]) == (130, "demo: FAILED interrupted"), printed
    wait.until(lambda: not namespaces(demo), "its namespaces to go")


def start(options: list[str]) -> subprocess.Popen[str]:
    """A demo in the background."""
    command = [sys.executable, "-m", "demo", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())


def namespaces(demo: subprocess.Popen[str]) -> list[str]:
    """Those of a demo's run, by its pid."""
    return [path.name for path in RUN_NETNS.glob(f"cr-{demo.pid}-*")]
