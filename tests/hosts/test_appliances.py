"""A row of booted appliances at work: video through the whole chain; reload, restart and upgrade under traffic without a loss."""

from __future__ import annotations

import pytest

from demo.checks import failures
from hosts import packages
from hosts.appliance import AGENT, FAMILY, Appliances, Call, wait_listening
from hosts.traffic import Outcome, Traffic
from hosts.video import stream
from lab import wait
from lab.remains import remains

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
SECONDS = 3.0  # of traffic at least


def test_the_whole_chain_with_video(row: Appliances) -> None:
    assert failures(stream(row)) == []


def test_reload(row: Appliances) -> None:
    """What the administrator changes holds from then on; the session stays."""
    firewall = row.firewalls[0]
    file = firewall.root / "etc/chainrelay/agent.toml"
    with Call(row) as call:
        with traffic(row, call) as flow:
            file.write_text(file.read_text().replace('level = "debug"', 'level = "info"'))
            firewall.run(["systemctl", "reload", AGENT])
            wait.until(lambda: "reload: log.level" in firewall.journal(), "the change in the journal")
            flow.last(SECONDS)
        nothing_lost(row, flow.outcome)
        call.close()


def test_upgrade(row: Appliances) -> None:
    """From the version before to the built one, on every host while datagrams pass."""
    with Call(row) as call:
        with traffic(row, call) as flow:
            for index, firewall in enumerate(row.firewalls):
                assert packages.installed(firewall, AGENT) == packages.OLD
                before = main_pid(row, index)
                packages.install(firewall, packages.AGENT)
                assert packages.installed(firewall, AGENT) > packages.OLD
                wait_listening(firewall)
                assert main_pid(row, index) != before, "the new version runs"
            flow.last(SECONDS)
        nothing_lost(row, flow.outcome)
        call.close()


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["first", "last", "both"])
def test_restart(row: Appliances, which: tuple[int, ...]) -> None:
    with Call(row) as call:
        with traffic(row, call) as flow:
            for index in which:
                before = main_pid(row, index)
                row.firewalls[index].run(["systemctl", "restart", AGENT], timeout=60)
                wait_listening(row.firewalls[index])
                assert main_pid(row, index) != before
            flow.last(SECONDS)
        nothing_lost(row, flow.outcome)
        call.close()


def test_removal_under_traffic_leaves_nothing(row: Appliances) -> None:
    """The last one: a package that goes takes its sessions with it, and nobody else's rules."""
    firewall = row.firewalls[1]
    admin = firewall.run(["nft", "list", "table", "inet", "admin"]).stdout
    with Call(row) as call:
        with traffic(row, call) as flow:
            firewall.run(["apt-get", "-y", "purge", AGENT], timeout=60)
        assert flow.outcome.lost, "the session has ended"
    assert remains(firewall).all == ()
    assert firewall.run(["nft", "list", "table", "inet", "admin"]).stdout.split("counter")[0] == admin.split("counter")[0]


def traffic(row: Appliances, call: Call) -> Traffic:
    """Through the session, from client to server."""
    assert row.row.client_end.address(FAMILY) == call.local.address
    return Traffic(row.row.client_end, row.row.server_end, call.local, call.entry, call.exit, call.peer)


def nothing_lost(row: Appliances, outcome: Outcome) -> None:
    """Every datagram arrived; the figures go to the report (pytest -s, -rP)."""
    print(outcome)
    assert outcome.lost == 0, "\n".join([str(outcome), *(f"--- {each.name}\n{each.journal()[-3000:]}" for each in row.firewalls)])
    assert outcome.rate > 0.9 * 20_000, str(outcome)


def main_pid(row: Appliances, index: int) -> str:
    """The running agent's."""
    return row.firewalls[index].run(["systemctl", "show", "-P", "MainPID", AGENT]).stdout.strip()
