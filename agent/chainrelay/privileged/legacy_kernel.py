"""Everything the iptables-legacy backend needs of the kernel, in one object, and the way to make a backend of it.

`open_legacy_backend` is what the agent calls. All handles and workers belong to the network namespace in which they were opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chainrelay.datapath.legacy_backend import Counted, LegacyBackend, Put
from chainrelay.datapath.legacy_ruleset import Element, Key
from chainrelay.datapath.mapping import Flow
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.errors import DatapathError
from chainrelay.privileged.conntrack import Conntrack
from chainrelay.privileged.ipset import Ipsets
from chainrelay.privileged.iptables import Tables
from chainrelay.privileged.sysctl import Sysctl


def open_legacy_backend(ruleset: Ruleset) -> LegacyBackend:
    """A backend on the real kernel. Raises DatapathError, with what to do, when netlink is missing."""
    return LegacyBackend(ruleset, LegacyKernel())


class LegacyKernel:
    """The `Kernel` of legacy_backend.py."""

    def __init__(self) -> None:
        self._sysctl = Sysctl()
        self._conntrack = Conntrack()
        self._sets = Ipsets()
        self._tables = Tables()

    def check_forwarding(self, families: Iterable[int]) -> None:
        """See Sysctl."""
        self._sysctl.check_forwarding(families)

    def reserve_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        """See Sysctl."""
        self._sysctl.reserve_ports(pool)

    def release_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        """See Sysctl."""
        self._sysctl.release_ports(pool)

    def create_set(self, family: int) -> None:
        """See Ipsets."""
        self._sets.create(family)

    def destroy_set(self, family: int) -> None:
        """See Ipsets."""
        self._sets.destroy(family)

    def elements(self, family: int) -> list[Element]:
        """See Ipsets."""
        return self._sets.elements(family)

    def counters(self, family: int, keys: Iterable[Key], *, fresh: bool) -> Counted:
        """See Ipsets."""
        return self._sets.counters(family, keys, fresh=fresh)

    def put(self, family: int, elements: Sequence[Put]) -> list[DatapathError | None]:
        """See Ipsets."""
        return self._sets.put(family, elements)

    def delete(self, family: int, flows: Sequence[Flow]) -> None:
        """See Ipsets."""
        self._sets.delete(family, flows)

    def load(self, ruleset: Ruleset, family: int, flows: Iterable[Flow]) -> None:
        """See Tables."""
        self._tables.load(ruleset, family, flows)

    def unload(self, family: int) -> None:
        """See Tables."""
        self._tables.unload(family)

    def hooked(self, family: int) -> bool:
        """See Tables."""
        return self._tables.hooked(family)

    def commit(self, family: int, add: Sequence[Flow], delete: Sequence[Flow]) -> None:
        """See Tables."""
        self._tables.commit(family, add, delete)

    def forget(self, keys: Sequence[bytes]) -> None:
        """See Conntrack."""
        self._conntrack.forget(keys)

    def tracked(self, mark: int, mask: int) -> list[bytes]:
        """See Conntrack."""
        return self._conntrack.tracked(mark, mask)

    def close(self) -> None:
        """Close the sockets, end the workers; rules and sets stay."""
        self._tables.close()
        self._sets.close()
        self._conntrack.close()
