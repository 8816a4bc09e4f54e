"""One appliance's life on a booted host: install, refuse to start unconfigured, start, enable, reboot, remove, purge."""

from __future__ import annotations

from pathlib import Path

import pytest

from hosts import packages
from hosts.appliance import AGENT, configure, start, wait_listening
from hosts.system import System
from lab.configuration import Configuration
from lab.remains import remains
from lab.row import Row

DEBIAN_TESTS = Path(__file__).parents[2] / "packaging/debian/tests"
pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]

# what installing anything changes, whatever it is
OTHERS = (
    "/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/log", "/var/lib/systemd/catalog", "/etc/apt", "/root",
    "/tmp", "/var/tmp",  # noqa: S108  paths to leave out
    "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-", "/srv",
)  # fmt: skip


def test_a_life(links: Row, host: System, tmp_path: Path) -> None:
    before, users = files(host), accounts(host)

    printed = packages.install(host, packages.AGENT)
    assert "chainrelay-agent" in printed
    assert packages.installed(host, AGENT)
    # not configured: enabled, not started, and that is no failure
    assert state(host, "is-enabled") == "enabled"
    assert state(host, "is-active") == "inactive"
    assert state(host, "is-failed") == "inactive"
    checked = host.run(["chainrelay-agent", "--check-config"], check=False)
    assert checked.returncode == 2
    assert "agent.toml:id" in checked.stdout, "the shipped files decide nothing on the administrator's behalf"

    configuration = Configuration(links, tmp_path)
    configuration.write()
    configure(host, configuration.directory(host.name))
    assert host.run(["chainrelay-agent", "--check-config"]).returncode == 0
    start(host)
    assert state(host, "is-active") == "active"
    assert remains(host).tables

    host.reboot()
    wait_listening(host)
    assert state(host, "is-active") == "active"
    assert remains(host).tables

    host.run(["apt-get", "-y", "remove", AGENT], timeout=60)
    assert remains(host).all == (), "removal takes the kernel's state with it"
    assert host.exists("/etc/chainrelay/agent.toml"), "removal keeps the configuration"

    host.run(["apt-get", "-y", "purge", AGENT, "chainrelay-client", "python3-chainrelay"], timeout=60)
    left = files(host) - before
    assert left == {"/etc/chainrelay"} & left, left
    assert not [each for each in left if "keys" in each]
    assert accounts(host) == users
    assert state(host, "is-system-running") == "running"


def test_manual_and_completion(host: System) -> None:
    packages.install(host, packages.AGENT)
    pages = ("man1/chainrelay.1", "man5/chainrelay.conf.5", "man7/chainrelay.7", "man8/chainrelay-agent.8", "man8/chainrelay-datapath.8")
    for page in pages:
        assert host.run(["zcat", "-f", f"/usr/share/man/{page}.gz"], check=False).stdout.startswith(".TH"), page
    script = "COMP_WORDS=(chainrelay o); COMP_CWORD=1; _chainrelay; echo ${COMPREPLY[*]}"
    words = host.run(["bash", "-c", f". /usr/share/bash-completion/completions/chainrelay; {script}"]).stdout
    assert words.split() == ["open", "offer"]


@pytest.mark.containers
@pytest.mark.parametrize("name", ["library", "command", "relay"])
def test_debians_own_tests(host: System, name: str) -> None:
    """What autopkgtest runs from debian/tests (make check-deb does so by autopkgtest itself)."""
    packages.install(host, packages.AGENT)
    host.put(DEBIAN_TESTS, "/srv/debian-tests")
    script = 'mkdir -p /tmp/work && cd / && AUTOPKGTEST_TMP=$(mktemp -d -p /tmp/work) exec "/srv/debian-tests/$0" 2>&1'
    done = host.run(["bash", "-c", script, name], check=False, timeout=90)
    assert done.returncode == 0, done.stdout


def files(host: System) -> set[str]:
    """Every path on the host's disk that is not among what any installation changes."""
    listed = host.run(["find", "/", "-xdev", "-not", "-type", "s"]).stdout.splitlines()
    return {each for each in listed if not each.startswith(OTHERS)}


def accounts(host: System) -> set[str]:
    """Users and groups."""
    return set(host.read("/etc/passwd").splitlines()) | set(host.read("/etc/group").splitlines())


def state(host: System, verb: str) -> str:
    """What systemctl says of the agent."""
    what = [] if verb == "is-system-running" else [AGENT]
    return host.run(["systemctl", verb, *what], check=False).stdout.strip()
