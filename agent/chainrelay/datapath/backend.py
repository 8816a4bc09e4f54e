"""The interface of every datapath: nftables, XDP, iptables-legacy, the in-memory fake.

Synchronous and blocking; net/datapath.py calls it from one worker thread and gathers what waits into one `apply`. This is
the privilege seam: everything that crosses it is a value of mapping.py, never a text to run (docs/design.md, "Processes").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chainrelay.datapath.mapping import Counters, LiveFlow, Mapping, Operation, Outcome


class Backend(Protocol):
    """A datapath. Raises DatapathError only from `setup`, `flows`, `counters`, `intact` and `flush_own`; `apply` answers per operation."""

    def setup(self) -> None:
        """Bring the static rules to what the configuration says, atomically, keeping every live session. Idempotent."""

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Carry out the operations, each all or nothing; in one transaction where the kernel takes them together."""

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """What was counted since the last Renew of each; zero for one that is not there."""

    def flows(self) -> list[LiveFlow]:
        """Everything alive in our own tables."""

    def intact(self) -> bool:
        """Whether the static rules stand as `setup` left them. Cheap: it is asked every RULES_CHECK seconds."""

    def flush_own(self) -> None:
        """Remove everything of ours: rules, elements, conntrack entries with our mark. Nothing of anybody else's."""

    def seals(self) -> bool:
        """Whether it carries sealed mappings. After `setup`, and the same until the next one."""

    def close(self) -> None:
        """Release handles; the kernel's state stays."""
