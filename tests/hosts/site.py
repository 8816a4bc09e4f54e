"""The kinds of hosts that scenarios run on, each a `Site` that makes rows of them: same topology, same verbs (system.py).

    bookworm, trixie    Debian in systemd-nspawn, any number of firewalls, this machine's kernel
    vagrant             Vagrant's four machines with Debian's own kernel, emulated where there is no KVM: slower, so with less traffic

$CHAINRELAY_HOSTS names the sites of a run. Namespaces, the third kind, have no service manager: tests/e2e plays what makes sense there.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from hosts import compiled, packages, trees
from hosts.booted import Booted, Tree
from hosts.machine import Fleet, Machine, join, lead
from hosts.traffic import RATE
from lab.pace import LEAST
from lab.row import Row

if TYPE_CHECKING:
    from hosts.packages import Repository
    from hosts.system import System

TESTS: Final = Path(__file__).parents[1]
TESTS_INSIDE: Final = "/srv/tests"
NEEDED: Final = ("demo", "lab")  # of the tests, on the hosts


class Site(ABC):
    """One kind. Close it after its rows."""

    name: str
    rate: float
    """Datagrams per second that its hosts carry without being the test's limit."""
    least: float
    """Of these, what must come about."""

    @abstractmethod
    def row(self, hops: int, **links: Any) -> Row:
        """Client, firewalls, server, with nothing of ours installed; `System.boot` starts what does not run."""

    @abstractmethod
    def spare_compiling(self, firewall: System) -> None:
        """Where the fast path's compiler takes minutes, give the installed package what it would compile."""

    @abstractmethod
    def close(self) -> None:
        """Everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Containers(Site):
    """A release of Debian, booted in systemd-nspawn."""

    rate, least = RATE, LEAST

    def __init__(self, release: str, repository: Repository) -> None:
        self.name = release
        self._tree = Tree(release, trees.Kind.READY)
        self._binds = {packages.INSIDE: repository.path, TESTS_INSIDE: TESTS}

    def row(self, hops: int, **links: Any) -> Row:
        """Made for this call, gone with the row."""
        return Row(hops, (4,), make=lambda name: Booted(name, self._tree, self._binds), **links)

    def spare_compiling(self, firewall: System) -> None:
        """They take a second, and are to be seen doing it."""

    def close(self) -> None:
        """The tree."""
        self._tree.close()


class Machines(Site):
    """Vagrant's. There is one set of them, so each row begins with what the one before left taken away."""

    name, rate, least = "vagrant", 400.0, 360.0

    def __init__(self, repository: Repository) -> None:
        self._code = tempfile.TemporaryDirectory(prefix="code-")
        compiled.compile_into(Path(self._code.name), repository)
        self._fleet = Fleet()
        for machine in self._fleet.machines.values():
            machine.put(repository.path, packages.INSIDE)
            for each in NEEDED:
                machine.put(TESTS / each, f"{TESTS_INSIDE}/{each}")

    def row(self, hops: int, **links: Any) -> Row:  # noqa: ARG002  the links are Vagrant's
        """Two firewalls are there, always."""
        assert hops == 2
        for machine in self._fleet.machines.values():
            clear(machine)
        return Row(2, (4,), make=self._fleet.machines.__getitem__, join=join, lead=lead)

    def spare_compiling(self, firewall: System) -> None:
        """What this machine has compiled into the helper's cache; systemd gives the folder to it at its start."""
        firewall.put(Path(self._code.name), compiled.INSIDE)

    def close(self) -> None:
        """`vagrant destroy`."""
        self._fleet.close()
        self._code.cleanup()


def clear(machine: Machine) -> None:
    """As if nothing of ours had ever been there, and no ruleset."""
    names = "chainrelay-agent chainrelay-client python3-chainrelay"
    machine.run(["sh", "-c", f"apt-get -qq -y purge {names}; rm -rf /etc/chainrelay; nft flush ruleset"], timeout=60)


def site(name: str, repository: Repository) -> Site:
    """By its name in $CHAINRELAY_HOSTS."""
    if name == "vagrant":
        return Machines(repository)
    if name in trees.RELEASES:
        return Containers(name, repository)
    raise ValueError(f"CHAINRELAY_HOSTS: no kind of hosts is called {name!r}; there are: {', '.join(trees.RELEASES)}, vagrant")
