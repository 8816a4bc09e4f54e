"""What befalls the session journal of a running relay costs no datagram: damage, another version, a full disk."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chainrelay.limits import JOURNAL_RETRY, LEASE_GRACE, RULES_CHECK
from chainrelay.net.journal import NAME
from e2e.chain import Chain, Server
from lab import wait
from lab.daemons import AGENT_UID, ConfinedAgent

pytestmark = pytest.mark.root
LEASE = 30


def damage(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def make_old(path: Path) -> None:
    """As an agent of an earlier version would have left it, whatever that looks like."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize(("change", "aside"), [(damage, "damaged-"), (make_old, "version-99")])
def test_what_can_not_be_read_is_set_aside_and_traffic_goes_on(change: Callable[[Path], None], aside: str) -> None:
    with Chain(2, (4,), lease=LEASE, confined=True) as chain, chain.server(4) as server, chain.open(server) as call:
        for agent in daemons(chain):
            agent.kill()
            change(agent.state / NAME)
            if change is damage:
                for left in agent.state.glob(f"{NAME}-*"):
                    left.unlink()
            agent.start()
        call.proves_flow()
        assert chain.relays.logs().count(f"set aside as {NAME}.{aside}") == 2
        assert len(re.findall(r"unknown_flows=[24]", chain.relays.logs())) == 2
        for agent in daemons(chain):
            assert list(agent.state.glob(f"{NAME}.{aside}*"))


def test_who_was_forgotten_comes_back_when_the_leases_have_ended() -> None:
    """The client opens its session again; what the kernels still hold of it must not be in its way for ever."""
    with Chain(2, (4,), lease=4, confined=True) as chain, chain.server(4) as server, chain.open(server) as call:
        call.proves_flow()
        for agent in daemons(chain):
            agent.kill()
            make_old(agent.state / NAME)
            agent.start()
        ends = time.monotonic() + 4 + LEASE_GRACE
        wait.until(lambda: time.monotonic() > ends and call.to_server(1).seen, "datagrams after the leases", 30)
        call.close()
        wait.until(lambda: not chain.leftovers(), "every relay to hold nothing any more", 4 * RULES_CHECK)


def test_a_full_disk_is_told_and_made_up_for() -> None:
    """Sessions are opened and carried meanwhile, and after there is room a restart adopts those as well."""
    with Chain(2, (4,), lease=LEASE, confined=True) as chain, chain.server(4) as server:
        first = daemons(chain)[0]
        first.stop()
        with small_disk(first.state) as filler:
            first.start()
            fill(filler)
            calls = [chain.open(server) for _ in range(40)]
            wait.until(lambda: f"{NAME} can't be written" in first.log(), "the word of the full disk")
            calls[0].proves_flow()
            calls[-1].proves_flow()
            filler.unlink()
            wait.until(lambda: asked_and_written(chain, server, first), "the journal to be written again", JOURNAL_RETRY + 10)
            first.kill()
            first.start()
            calls[-1].proves_flow()
            told = wait.until(calls[-1].close, "both relays to know the session", 10)
            assert [each.hop for each in told] == ["fw1", "fw2"]
            for call in calls:
                call.close()
            first.stop()
            assert first.log().count("can't be written") == 1


def asked_and_written(chain: Chain, server: Server, agent: ConfinedAgent) -> bool:
    """The journal tries again when there is something to write."""
    with chain.open(server):
        return "is written again; nothing is missing" in agent.log()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own under the state folder, and where its filler lies."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1m,uid={AGENT_UID},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield folder / "filler"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            os.sync()


def daemons(chain: Chain) -> list[ConfinedAgent]:
    return [agent for agent in chain.relays.agents if isinstance(agent, ConfinedAgent)]
