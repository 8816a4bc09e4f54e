"""What the scenarios share: the releases to run on, a tree per release, the packages, and one row of appliances.

`make test` runs Debian 12; with CHAINRELAY_RELEASES="bookworm trixie" (make test-hosts) every scenario runs on both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from hosts import trees
from hosts.appliance import Appliances
from hosts.booted import Tree
from hosts.packages import OLD, Repository

RELEASES = os.environ.get("CHAINRELAY_RELEASES", "bookworm").split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A machine without the tool is told so at once, not after minutes."""
    if any("hosts" in item.path.parts for item in items) and shutil.which("systemd-nspawn") is None:
        raise pytest.UsageError("booted hosts need systemd-nspawn and debootstrap: make setup")


@pytest.fixture(scope="session")
def repository() -> Iterator[Repository]:
    """Both versions of the packages."""
    made = Repository()
    yield made
    made.close()


@pytest.fixture(scope="session", params=RELEASES)
def tree(request: pytest.FixtureRequest) -> Iterator[Tree]:
    """The file system with everything that the packages depend on."""
    made = Tree(request.param, trees.Kind.READY)
    yield made
    made.close()


@pytest.fixture(scope="module")
def row(tree: Tree, repository: Repository) -> Iterator[Appliances]:
    """Client, two firewalls, server with the older version on them."""
    with Appliances(tree, repository, hops=2, version=OLD) as made:
        yield made
