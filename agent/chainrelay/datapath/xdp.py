"""The fast path's backend: mappings as entries of the BPF maps. Pure but for the `FastKernel` that it is given.

It carries UDP and stands in front of the rules (stack.py); operations on TCP sessions are none of its business. An entry is
written only while its place is free or its own; a renewal never replaces an entry, so no count is lost (ebpf/control.c).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, assert_never

from chainrelay.datapath.mapping import Counters, Done, Failed, Flow, Install, LiveFlow, Mapping, Operation, Outcome, Rekey, Remove, Renew
from chainrelay.datapath.xdp_entries import Held, Renewed, Way, held_of, key_of, leads, renewal_of, value_of
from chainrelay.datapath.xdp_layout import Verdict
from chainrelay.errors import DatapathError
from chainrelay.wire.endpoint import Address
from chainrelay.wire.messages import Protocol as Carried


class FastKernel(Protocol):
    """What the backend needs of the kernel. All raise DatapathError; `full` where there is no room."""

    def now_ns(self) -> int:
        """The clock of the entries' leases."""

    def ways(self, addresses: Collection[Address]) -> dict[Address, tuple[int, Way]]:
        """The way to each address and its place in `hops`: taken at first use, kept true, and theirs at least until the next call."""

    def insert(self, key: bytes, value: bytes) -> bool:
        """Add an entry; False when the key is taken."""

    def lookup(self, key: bytes) -> bytes | None:
        """An entry."""

    def take(self, key: bytes) -> bytes | None:
        """Delete an entry and return what it held."""

    def renew(self, records: Sequence[bytes]) -> list[Renewed | None]:
        """Run the control program on records of one family."""

    def entries(self) -> Iterable[tuple[bytes, bytes]]:
        """All entries of both families."""

    def verdicts(self) -> dict[Verdict, int]:
        """How often each way out was taken since the maps exist."""

    def close(self) -> None:
        """Release handles; the kernel's state stays."""


class XdpBackend:
    """`Backend` for UDP mappings. Outcomes of TCP operations are Done without counters."""

    def __init__(self, kernel: FastKernel) -> None:
        self._kernel = kernel

    def setup(self) -> None:
        """Clear away entries whose lease has ended: the program forwards nothing by them any more."""
        now = self._kernel.now_ns()
        for key, value in list(self._kernel.entries()):
            if held_of(key, value).lease_ns <= now:
                self._kernel.take(key)

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """One by one: each is all or nothing."""
        return [self._apply(operation) for operation in operations]

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """What the fast path forwarded since the last Renew of each."""
        return [_total([self._counted(flow) for flow in _flows(mapping)]) for mapping in mappings]

    def flows(self) -> list[LiveFlow]:
        """Every entry whose lease runs."""
        now = self._kernel.now_ns()
        held = [held_of(key, value) for key, value in self._kernel.entries()]
        return [
            LiveFlow(Carried.UDP, each.source, each.destination, (each.lease_ns - now) / 1e9, each.packets, each.octets)
            for each in held
            if each.lease_ns > now
        ]

    def verdicts(self) -> dict[Verdict, int]:
        """How often each way out of the program was taken."""
        return self._kernel.verdicts()

    def intact(self) -> bool:
        """The maps are held by our own handles: nobody can take them away."""
        return True

    def seals(self) -> bool:
        """Whether the program opens and seals."""
        return False

    def flush_own(self) -> None:
        """Remove every entry; the program stays and passes everything up."""
        for key, _ in list(self._kernel.entries()):
            self._kernel.take(key)

    def close(self) -> None:
        """The kernel's state stays."""
        self._kernel.close()

    def _apply(self, operation: Operation) -> Outcome:
        mapping = operation.mapping
        if isinstance(operation, Rekey) or mapping.sealed:
            return Done(Counters()) if isinstance(operation, Remove) else Failed("this fast path can't seal")
        if mapping.protocol is not Carried.UDP:
            return Done(Counters())
        try:
            match operation:
                case Install(lease=lease):
                    return Done(self._hold(mapping, lease, renew=False))
                case Renew(lease=lease):
                    return Done(self._hold(mapping, lease, renew=True))
                case Remove():
                    return Done(self._remove(mapping))
                case _:
                    assert_never(operation)
        except DatapathError as refused:
            return Failed(str(refused), refused.full)

    def _hold(self, mapping: Mapping, lease: float, *, renew: bool) -> Counters:
        """See to it that all flows are there. On failure what was added goes again.

        New ones are added; own ones are renewed, or left alone by a second Install as the rules do. One whose lease has
        ended counts as gone: it begins anew, and what it had counted is told to nobody.
        """
        now = self._kernel.now_ns()
        added: list[bytes] = []
        answers: list[Renewed | None] = []
        deadline = now + int(lease * 1e9)
        ways = self._kernel.ways({mapping.client_partner.address, mapping.server_partner.address})
        try:
            for flow in _flows(mapping):
                key = key_of(flow.source, flow.destination)
                place, _ = ways[flow.new_destination.address]
                _, arrives = ways[flow.source.address]
                if self._kernel.insert(key, value_of(flow, mapping.session, arrives, place, deadline)):
                    added.append(key)
                    answers.append(None)
                    continue
                found = self._own(key, flow)
                if found is None:
                    raise DatapathError(f"another session already relays from {flow.source} to {flow.destination}")
                ended = found.lease_ns <= now
                told = self._kernel.renew([renewal_of(key, arrives, place, deadline)]) if renew or ended else [None]
                answers += [None] if ended else told
        except DatapathError:
            for key in added:
                self._kernel.take(key)
            raise
        return _total(answers)

    def _remove(self, mapping: Mapping) -> Counters:
        """Close first, then take: a datagram that another CPU had already let in is still counted."""
        return _total([self._remove_flow(flow) for flow in _flows(mapping)])

    def _remove_flow(self, flow: Flow) -> Renewed | None:
        key = key_of(flow.source, flow.destination)
        found = self._own(key, flow)
        if found is None:
            return None
        closed = self._kernel.renew([renewal_of(key, Way(flow.source.address), 0, 0)])[0]
        taken = self._kernel.take(key)
        if closed is None or taken is None or found.lease_ns <= self._kernel.now_ns():
            return None
        rest = held_of(key, taken)
        return Renewed(closed.packets + rest.packets, closed.octets + rest.octets)

    def _own(self, key: bytes, flow: Flow) -> Held | None:
        """The entry under this key if it rewrites as `flow` says."""
        found = self._kernel.lookup(key)
        return held_of(key, found) if found is not None and leads(found, flow) else None

    def _counted(self, flow: Flow) -> Renewed | None:
        held = self._own(key_of(flow.source, flow.destination), flow)
        if held is None or held.lease_ns <= self._kernel.now_ns():
            return None
        return Renewed(held.packets, held.octets)


def _flows(mapping: Mapping) -> list[Flow]:
    """To the server, to the client, and so on for every component."""
    return [flow for pair in mapping.flows() for flow in pair]


def _total(answers: Sequence[Renewed | None]) -> Counters:
    """The counts of `_flows` in their order."""
    counts = [answer or Renewed(0, 0) for answer in answers]
    to_server, to_client = counts[::2], counts[1::2]
    return Counters(
        sum(each.packets for each in to_server),
        sum(each.octets for each in to_server),
        sum(each.packets for each in to_client),
        sum(each.octets for each in to_client),
    )
