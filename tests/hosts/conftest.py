"""What the scenarios share: the kinds of hosts to run on, the packages, and what was measured, told at the end.

`make test` runs Debian 12 in containers; CHAINRELAY_HOSTS="bookworm trixie" (make test-hosts) or "vagrant" (make test-vagrant)
has the scenarios on others. Emulated machines leave out tests marked `containers`; CHAINRELAY_WHOLE=1 leaves out nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from hosts.appliance import Appliances, Outcomes, as_system, fast_path
from hosts.packages import OLD, Repository
from hosts.site import Site, site
from hosts.system import System
from lab.row import Row

SITES = os.environ.get("CHAINRELAY_HOSTS", "bookworm").split()
WHOLE = os.environ.get("CHAINRELAY_WHOLE") == "1"
SLOW_TIMEOUT = 3600.0  # of one test, the row's setting up included
_outcomes = pytest.StashKey[Outcomes]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A machine without the tool is told so at once, not after minutes. Slow hosts get more time, and fewer tests unless told otherwise."""
    here = [item for item in items if "hosts" in item.path.parts]
    if here and shutil.which("systemd-nspawn") is None:
        raise pytest.UsageError("booted hosts need systemd-nspawn and debootstrap: make setup")
    slow = [item for item in here if parameter(item, "hosts") == "vagrant"]
    for item in slow:
        item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT), append=False)
    if WHOLE:
        return
    spared = [item for item in slow if item.get_closest_marker("containers")]
    items[:] = [item for item in items if item not in spared]
    config.hook.pytest_deselected(items=spared)


def parameter(item: pytest.Item, name: str) -> object:
    """What a fixture's parameter is for a test."""
    return item.callspec.params.get(name) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None


@pytest.fixture(scope="session")
def repository() -> Iterator[Repository]:
    """Both versions of the packages."""
    made = Repository()
    yield made
    made.close()


@pytest.fixture(scope="session", params=SITES)
def hosts(request: pytest.FixtureRequest, repository: Repository) -> Iterator[Site]:
    """A kind of hosts."""
    with site(request.param, repository) as made:
        yield made


@pytest.fixture(scope="module", params=["nftables", *(pytest.param(each, marks=pytest.mark.long) for each in ("xdp", "sealed"))])
def row(request: pytest.FixtureRequest, hosts: Site) -> Iterator[Appliances]:
    """Client, two firewalls, server with the older version on them; what carries UDP is the parameter."""
    fast, sealed = request.param != "nftables", request.param == "sealed"
    with Appliances(hosts, version=OLD, xdp="auto" if fast else "off", sealed=sealed) as made:
        for firewall in made.firewalls:
            state = fast_path(firewall)
            assert bool(state["layout"]) is fast, state
        yield made


@pytest.fixture(scope="module")
def links(hosts: Site) -> Iterator[Row]:
    """A row of which the first firewall matters; the others are there for its links only."""
    with hosts.row(2) as made:
        yield made


@pytest.fixture(scope="module")
def host(links: Row) -> System:
    """That firewall, booted, with nothing of ours on it."""
    firewall = as_system(links.firewalls[0].host)
    firewall.boot()
    return firewall


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> Outcomes:
    """Where a test puts what it measured."""
    return request.config.stash.setdefault(_outcomes, Outcomes())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Every measured ordeal."""
    for line in config.stash.get(_outcomes, Outcomes()).lines:
        terminalreporter.write_line(line)
