"""A row of booted appliances at work: video through the whole chain; whatever befalls the daemons under traffic, without a loss."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from chainrelay.agent.journald import MESSAGE_IDS
from demo.checks import failures
from e2e.chain import slow_datagrams
from hosts import packages
from hosts.appliance import AGENT, HELPER, Appliances, Call, Outcomes, fast_path, wait_listening
from hosts.system import System
from hosts.traffic import Traffic
from hosts.video import stream
from lab import wait
from lab.remains import remains

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]
SECONDS = 3.0  # of traffic at least
STOPPED = 10.0
UP_AGAIN = 90.0


def test_upgrade(row: Appliances, outcomes: Outcomes) -> None:
    """From the version before to the built one, on every relay while datagrams pass. The first test: older packages are on the hosts."""
    with Call(row) as call:
        with nothing_lost(row, call, outcomes, "upgrade"):
            for firewall in row.firewalls:
                assert packages.installed(firewall, AGENT) == packages.OLD
                before = main_pids(firewall)
                packages.install(firewall, packages.AGENT)
                assert packages.installed(firewall, AGENT) > packages.OLD
                wait_listening(firewall)
                assert not set(main_pids(firewall)) & set(before), "the new version runs, both halves"
        call.close()


def test_the_whole_chain_with_video(row: Appliances) -> None:
    assert failures(stream(row)) == []


def test_reload(row: Appliances, outcomes: Outcomes) -> None:
    """What the administrator changes holds from then on; the session stays. A broken file changes nothing."""
    firewall, path = row.firewalls[0], "/etc/chainrelay/agent.toml"
    text = firewall.read(path)
    with Call(row) as call:
        with nothing_lost(row, call, outcomes, "reload"):
            firewall.write(path, text.replace('level = "debug"', 'level = "info"'))
            firewall.run(["systemctl", "reload", AGENT])
            wait.until(lambda: "reload: log.level" in firewall.journal(), "the change in the journal", UP_AGAIN)
            firewall.write(path, text + "nonsense = 1\n")
            broken = firewall.run(["systemctl", "reload", AGENT], check=False)
            assert broken.returncode != 0, "systemctl reload says so itself"
            assert "nonsense" in firewall.journal()
            assert firewall.run(["systemctl", "is-active", AGENT]).stdout.strip() == "active"
            firewall.write(path, text)
            firewall.run(["systemctl", "reload", AGENT])
        call.close()


@pytest.mark.containers
def test_what_the_journal_tells(row: Appliances) -> None:
    """Records with fields, explained by the catalog; refusals are an audit trail of their own."""
    first = row.firewalls[0]
    with Call(row) as call:
        call.close()
    found = wait.until(lambda: records(first, f"SESSION_ID={call.id}", f"MESSAGE_ID={MESSAGE_IDS['closed']}"), "the record", UP_AGAIN)
    assert found[0]["PRINCIPAL"] == "alice"
    explained = first.run(["journalctl", "--no-pager", "-x", f"MESSAGE_ID={MESSAGE_IDS['closed']}", f"SESSION_ID={call.id}"]).stdout
    assert "Rules and ports are free" in explained

    refused = row.client.run(["chainrelay", "open", "--peer", "10.66.0.1:9"], check=False)
    assert refused.returncode != 0
    trail = wait.until(lambda: records(first, f"MESSAGE_ID={MESSAGE_IDS['refused']}"), "the refusal", UP_AGAIN)
    assert trail[-1]["CHAINRELAY_CODE"] == "access-denied"
    assert (trail[-1]["PRINCIPAL"], trail[-1]["HOP"]) == ("alice", "fw1")


def records(host: System, *matches: str) -> list[dict[str, str]]:
    """The agent's records that match."""
    printed = host.run(["journalctl", "--no-pager", "-o", "json", "-t", AGENT, *matches], check=False).stdout
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


@pytest.mark.containers
def test_keys_as_credentials(row: Appliances) -> None:
    """systemd hands them to the agent alone; nothing lies below /etc/chainrelay."""
    first, peers = row.firewalls[0], "/etc/chainrelay/peers.toml"
    text, drop_in = first.read(peers), "/etc/systemd/system/chainrelay-agent.service.d"
    first.run(["sh", "-c", f"mkdir -p {drop_in} /root/keys && mv /etc/chainrelay/keys/* /root/keys/ && chown root /root/keys/*"])
    try:
        first.write(f"{drop_in}/keys.conf", "[Service]\nLoadCredential=alice:/root/keys/alice.key\nLoadCredential=fw2:/root/keys/fw2.key\n")
        first.write(peers, re.sub(r'file = "keys/(\w+)\.key"', r'credential = "\1"', text))
        first.run(["systemctl", "daemon-reload"])
        first.run(["systemctl", "restart", AGENT], timeout=60)
        wait_listening(first)
        with Call(row) as call:
            call.close()
        told = first.run(["systemctl", "reload", AGENT], check=False)
        assert told.returncode == 0, told.stderr + first.journal()[-2000:]
        status = ["systemctl", "status", AGENT]
        wait.until(lambda: "configuration read again" in first.run(status, check=False).stdout, "the reload", UP_AGAIN)
    finally:
        first.run(["sh", "-c", f"rm -r {drop_in}; mv /root/keys/* /etc/chainrelay/keys/ && chown chainrelay /etc/chainrelay/keys/*"])
        first.write(peers, text)
        first.run(["systemctl", "daemon-reload"])
        first.run(["systemctl", "restart", AGENT], timeout=60)
        wait_listening(first)


def restart_the_agents(row: Appliances) -> None:
    restart(row, AGENT)


def restart_the_helpers(row: Appliances) -> None:
    restart(row, HELPER)


def restart_both(row: Appliances) -> None:
    restart(row, HELPER, AGENT)


def restart(row: Appliances, *units: str) -> None:
    for firewall in row.firewalls:
        before = main_pids(firewall, *units)
        firewall.run(["systemctl", "restart", *units], timeout=60)
        wait_listening(firewall)
        assert not set(main_pids(firewall, *units)) & set(before)


def kill_the_agents(row: Appliances) -> None:
    kill(row, AGENT)


def kill_the_helpers(row: Appliances) -> None:
    kill(row, HELPER)


def kill(row: Appliances, unit: str) -> None:
    """SIGKILL; systemd starts it again."""
    for firewall in row.firewalls:
        (before,) = main_pids(firewall, unit)
        firewall.run(["systemctl", "kill", "--signal=KILL", unit])

        def is_back(firewall: System = firewall, before: str = before) -> bool:
            state = firewall.run(["systemctl", "is-active", unit], check=False).stdout.strip()
            return state == "active" and main_pids(firewall, unit) != [before]

        wait.until(is_back, f"{unit} of {firewall.name} to come back", UP_AGAIN)
        wait_listening(firewall)


def stop_all_for_a_while(row: Appliances) -> None:
    """SIGSTOP: nobody answers, and the watchdog has patience."""
    before = [main_pids(firewall) for firewall in row.firewalls]
    for firewall in row.firewalls:
        firewall.run(["systemctl", "kill", "--signal=STOP", AGENT, HELPER])
    time.sleep(STOPPED)  # the length is what is tested
    for firewall in row.firewalls:
        firewall.run(["systemctl", "kill", "--signal=CONT", AGENT, HELPER])
    assert [main_pids(firewall) for firewall in row.firewalls] == before


RESTARTS = (restart_both,)
OTHERS = (restart_the_agents, restart_the_helpers, kill_the_agents, kill_the_helpers, stop_all_for_a_while)


@pytest.mark.parametrize("ordeal", [*RESTARTS, *(pytest.param(each, marks=pytest.mark.containers) for each in OTHERS)])
def test_no_datagram_is_lost(row: Appliances, outcomes: Outcomes, ordeal: Callable[[Appliances], None]) -> None:
    with Call(row) as call:
        with nothing_lost(row, call, outcomes, ordeal.__name__.replace("_", " ")):
            ordeal(row)
        told = call.close()
    assert [each["hop"] for each in told["counters"]] == ["fw1", "fw2"], "every relay still knows the session"
    wait.until(lambda: not any(remains(each).of_sessions for each in row.firewalls), "the relays to hold nothing", UP_AGAIN)


def test_removal_under_traffic_leaves_nothing(row: Appliances) -> None:
    """The last one: a package that goes takes its sessions with it, and nobody else's rules; whatever its configuration has become."""
    firewall = row.firewalls[1]
    firewall.run(["sh", "-c", "echo 'nonsense = 1' >>/etc/chainrelay/agent.toml"])
    admin = firewall.run(["nft", "list", "table", "inet", "admin"]).stdout
    with Call(row) as call:
        with traffic(row, call) as flow:
            firewall.run(["apt-get", "-y", "purge", AGENT], timeout=60)
        assert flow.outcome.lost, "the session has ended"
    assert remains(firewall).all == ()
    assert "managed" not in firewall.run(["ip", "neigh"]).stdout
    assert "20000" not in firewall.read("/proc/sys/net/ipv4/ip_local_reserved_ports")
    assert firewall.run(["nft", "list", "table", "inet", "admin"]).stdout.split("counter")[0] == admin.split("counter")[0]


def traffic(row: Appliances, call: Call) -> Traffic:
    """Through the session, from client to server, or of a sealed one from server to client."""
    return Traffic(row.row.client_end, row.row.server_end, call.ends, row.site.rate)


@contextmanager
def nothing_lost(row: Appliances, call: Call, outcomes: Outcomes, what: str) -> Iterator[None]:
    """Every datagram that is sent while the block lasts arrives, and where the fast path is meant, by the fast path."""
    before = [fast(row, each) for each in row.firewalls] if row.xdp != "off" else []
    with traffic(row, call) as flow:
        yield
        flow.last(SECONDS)
    outcomes.add(f"{row.site.name}, {'sealed' if row.sealed else 'nftables' if row.xdp == 'off' else 'xdp'}, {what}", flow.outcome)
    logs = [f"--- {each.name}\n{each.journal()[-3000:]}\n{each.journal(HELPER)[-1500:]}" for each in row.firewalls]
    assert flow.outcome.lost == 0, "\n".join([str(flow.outcome), *logs])
    assert flow.outcome.sent.rate >= row.site.least, str(flow.outcome)
    assert flow.outcome.sent.mostly_at_work, str(flow.outcome)
    for firewall, earlier in zip(row.firewalls, before, strict=False):
        carried = fast(row, firewall) - earlier
        assert carried >= flow.outcome.sent.count, f"{firewall.name}: the fast path forwarded {carried} of {flow.outcome.sent}\n{logs}"
        assert slow_datagrams(firewall) == 0, firewall.name


def fast(row: Appliances, firewall: System) -> int:
    """Datagrams that its fast path has forwarded so far; the last relay of a sealed session seals them."""
    state = fast_path(firewall)
    assert state["layout"], f"{firewall.name} has no fast path: {state['why']}"
    return int(state["verdicts"]["sealed" if row.sealed and firewall is row.firewalls[-1] else "forwarded"])


def main_pids(firewall: System, *units: str) -> list[str]:
    """The running processes of the units; both daemons' where none is named."""
    return [firewall.run(["systemctl", "show", "-P", "MainPID", unit]).stdout.strip() for unit in units or (AGENT, HELPER)]
