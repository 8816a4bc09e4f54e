"""A sender's pace, whoever holds it up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from lab import pace
from lab.pace import LOOP, Sent

RATE, SIZE = 5000.0, 50
HELD = 0.4


def sender(send: str) -> subprocess.Popen[str]:
    """Running."""
    script = f"{LOOP}\npace({send}, {RATE}, {SIZE})"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "{}\n"
    return process


def ended(process: subprocess.Popen[str]) -> Sent:
    said, _ = process.communicate("\n", timeout=30)
    return pace.told(said)


def test_the_pace_is_kept() -> None:
    process = sender("len")
    time.sleep(0.5)
    told = ended(process)
    assert told.count >= RATE * told.seconds
    assert told.rate >= RATE
    assert told.longest > 0


def test_who_was_held_up_catches_up_even_when_the_end_comes_at_once() -> None:
    process = sender("len")
    time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(HELD)  # the length is what is tested
    process.send_signal(signal.SIGCONT)
    told = ended(process)
    assert told.held >= told.longest >= HELD
    assert told.count >= RATE * told.seconds, "nothing is owed"
    assert told.rate > RATE


def test_whose_end_comes_before_the_start_has_sent_something() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"{LOOP}\nimport itertools\ntime.monotonic = itertools.count(1.0, 0.0).__next__\npace(len, {RATE}, {SIZE})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("\n")
    said, _ = process.communicate(timeout=30)
    assert pace.told(said.splitlines()[-1]).count > 0


def test_who_is_always_held_up_says_so() -> None:
    told = Sent(count=1000, seconds=4.0, longest=1.5, held=3.0)
    assert told.rate == 1000.0
    assert not told.mostly_at_work


def test_what_the_kernel_refused_is_no_traffic() -> None:
    process = sender("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).send")  # not connected
    with pytest.raises(AssertionError, match="Destination address required"):
        ended(process)
