"""Everything the nftables backend needs of the kernel, in one object, and the way to make a backend of it.

`open_nft_backend` is what the agent calls. All handles belong to the network namespace in which they were opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chainrelay.datapath.nft import Change
from chainrelay.datapath.nft_backend import Counted, LiveElement, NftBackend
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.privileged.conntrack import Conntrack
from chainrelay.privileged.elements import ElementWriter
from chainrelay.privileged.nftables import Nftables
from chainrelay.privileged.notifications import ElementReader
from chainrelay.privileged.sysctl import Sysctl


def open_nft_backend(ruleset: Ruleset) -> NftBackend:
    """A backend on the real kernel. Raises DatapathError, with what to do, when nftables or netlink is missing."""
    return NftBackend(ruleset, LinuxKernel())


class LinuxKernel:
    """The `Kernel` of nft_backend.py."""

    def __init__(self) -> None:
        self._nftables = Nftables()
        self._writer = ElementWriter()
        self._elements = ElementReader()
        self._conntrack = Conntrack()
        self._sysctl = Sysctl()

    def check_forwarding(self, families: Iterable[int]) -> None:
        """See Sysctl."""
        self._sysctl.check_forwarding(families)

    def reserve_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        """See Sysctl."""
        self._sysctl.reserve_ports(pool)

    def release_ports(self, pool: Sequence[tuple[int, int]]) -> None:
        """See Sysctl."""
        self._sysctl.release_ports(pool)

    def run(self, text: str) -> None:
        """See Nftables."""
        self._nftables.run(text)

    def change(self, changes: Sequence[Change]) -> None:
        """See ElementWriter."""
        self._writer.commit(changes)

    def change_counting(self, changes: Sequence[Change]) -> Counted:
        """See ElementReader.watch."""
        return self._elements.watch(lambda: self._writer.commit(changes))

    def live(self, family: int) -> list[LiveElement]:
        """See ElementReader."""
        return self._elements.live(family)

    def counters(self, keys: Sequence[bytes]) -> Counted:
        """See ElementReader."""
        return self._elements.counters(keys)

    def destinations(self, family: int) -> list[tuple[bytes, bytes]]:
        """See ElementReader."""
        return self._elements.destinations(family)

    def has_gate(self, family: int) -> bool:
        """See ElementReader."""
        return self._elements.has_gate(family)

    def forget(self, keys: Sequence[bytes]) -> None:
        """See Conntrack."""
        self._conntrack.forget(keys)

    def tracked(self, mark: int, mask: int) -> list[bytes]:
        """See Conntrack."""
        return self._conntrack.tracked(mark, mask)

    def close(self) -> None:
        """Close the sockets; the rules stay."""
        self._writer.close()
        self._elements.close()
        self._conntrack.close()
