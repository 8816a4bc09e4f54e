"""The fast path's backend: mappings as entries of the BPF maps. Pure but for the `FastKernel` that it is given.

It carries UDP and stands in front of the rules (stack.py); operations on TCP sessions are none of its business. An entry is
written only while its place is free or its own; a renewal never replaces an entry, so no count is lost (ebpf/control.c).
What is sealed it carries alone; keys are xdp_sealing.py's. Nothing is remembered here: all of it is in the maps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, assert_never

from chainrelay.datapath.mapping import Counters, Done, Failed, Flow, Install, LiveFlow, Mapping, Operation, Outcome, Rekey, Remove, Renew
from chainrelay.datapath.xdp_entries import PLAIN, Held, Renewed, Seal, Way, held_of, key_of, leads, renewal_of, value_of
from chainrelay.datapath.xdp_layout import Kind, Verdict
from chainrelay.datapath.xdp_sealing import Keys, KeysGone
from chainrelay.datapath.xdp_seals import SealCounts, SealHeld
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

    def sweep(self) -> None:
        """Remove what an operation that did not come to its end has left."""

    def seals(self) -> bool:
        """Whether the sealing programs are in their places."""

    def seal_entries(self) -> Iterable[tuple[bytes, bytes]]:
        """All entries of `seals`; `insert`, `lookup` and `take` serve that map, too."""

    def end_keys(self, records: Sequence[bytes]) -> list[SealCounts | None]:
        """Run the control program for keys."""

    def verdicts(self) -> dict[Verdict, int]:
        """How often each way out was taken since the maps exist."""

    def close(self) -> None:
        """Release handles; the kernel's state stays."""


class XdpBackend:
    """`Backend` for UDP mappings. Outcomes of TCP operations are Done without counters."""

    def __init__(self, kernel: FastKernel) -> None:
        self._kernel = kernel
        self._keys = Keys(kernel)

    def setup(self) -> None:
        """Clear away entries whose lease has ended (the program forwards nothing by them), halves of entries, and keys without a flow."""
        self._kernel.sweep()
        now = self._kernel.now_ns()
        used = set()
        for key, value in list(self._kernel.entries()):
            held = held_of(value)
            if held.lease_ns <= now:
                self._kernel.take(key)
            elif held.seal.kind is Kind.SEAL:
                used.add((held.session, held.seal.key_id))
        self._keys.keep_only(used)

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """One by one: each is all or nothing."""
        return [self._apply(operation) for operation in operations]

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """What the fast path forwarded since the last Renew of each."""
        return [_total([self._counted(flow) for flow in _flows(mapping)]) for mapping in mappings]

    def flows(self) -> list[LiveFlow]:
        """Every entry whose lease runs."""
        now = self._kernel.now_ns()
        held = [held_of(value) for _, value in self._kernel.entries()]
        return [
            LiveFlow(Carried.UDP, each.source, each.destination, left / 1e9, each.packets, each.octets, sealed=each.seal != PLAIN)
            for each in held
            if (left := each.lease_ns - now) > 0
        ]

    def verdicts(self) -> dict[Verdict, int]:
        """How often each way out of the program was taken."""
        return self._kernel.verdicts()

    def seals(self) -> bool:
        """Whether sealed mappings can be carried here."""
        return self._kernel.seals()

    def sealed_keys(self) -> list[SealHeld]:
        """What happened under each key of each sealed session; no secrets."""
        return self._keys.held()

    def intact(self) -> bool:
        """The maps are held by our own handles: nobody can take them away."""
        return True

    def flush_own(self) -> None:
        """Remove every entry and wipe every key; the program stays and passes everything up."""
        for key, _ in list(self._kernel.entries()):
            self._kernel.take(key)
        self._kernel.sweep()
        self._keys.keep_only(set())

    def close(self) -> None:
        """The kernel's state stays."""
        self._kernel.close()

    def _apply(self, operation: Operation) -> Outcome:
        mapping = operation.mapping
        if mapping.protocol is not Carried.UDP:
            return Done(Counters()) if not mapping.sealed else Failed("only UDP can be sealed")
        try:
            match operation:
                case Install() if mapping.sealed:
                    return Done(self._install_sealed(operation))
                case Renew(lease=lease) if mapping.sealed:
                    return Done(self._renew_sealed(mapping, lease))
                case Remove() if mapping.sealed:
                    return Done(self._remove_sealed(mapping))
                case Install(lease=lease):
                    return Done(self._hold(mapping, lease, renew=False))
                case Renew(lease=lease):
                    return Done(self._hold(mapping, lease, renew=True))
                case Rekey():
                    return Done(self._rekey(operation))
                case Remove():
                    return Done(self._remove(mapping))
                case _:
                    assert_never(operation)
        except KeysGone as gone:
            return Failed(str(gone), keyless=True)
        except DatapathError as refused:
            return Failed(str(refused), refused.full)

    # sealed mappings ---------------------------------------------------------------

    def _install_sealed(self, operation: Install) -> Counters:
        """The key first, then the flows that need it."""
        mapping, keys = operation.mapping, operation.seal
        if keys is None:
            raise DatapathError("a sealed session comes with its keys")
        if not self._kernel.seals():
            raise DatapathError("this relay can't open and seal datagrams: its fast path has no sealing programs; see xdp.log")
        for way in [way for _, way in self._ways(mapping).values() if not way.fast]:
            raise DatapathError(_slow(way))
        there = self._found_sealed(mapping)
        if there:  # a second Install, or one after the keys were lost
            self._keys.switch(mapping.session, there, keys)
        made = not there and self._keys.insert(mapping.session, keys)
        try:
            return self._hold(mapping, operation.lease, renew=False, key_id=keys.key_id)
        except DatapathError:
            if made:
                self._keys.discard(mapping.session, keys.key_id)
            raise

    def _rekey(self, operation: Rekey) -> Counters:
        if not operation.mapping.sealed:
            raise DatapathError("the session is not sealed")
        self._keys.switch(operation.mapping.session, self._own_sealed(operation.mapping), operation.seal)
        return Counters()

    def _renew_sealed(self, mapping: Mapping, lease: float) -> Counters:
        """In place. What is lost is not put back, as a plain mapping is: its counters would begin anew under the same key."""
        flows = self._own_sealed(mapping)
        self._keys.check(mapping.session, flows)
        deadline = self._kernel.now_ns() + int(lease * 1e9)
        ways = self._ways(mapping)
        answers: list[Renewed | None] = []
        for flow in _flows(mapping):
            place, arrives = ways[flow.new_destination.address][0], ways[flow.source.address][1]
            answers += self._kernel.renew([renewal_of(key_of(flow.source, flow.destination), arrives, place, deadline)])
        return _total(answers)

    def _remove_sealed(self, mapping: Mapping) -> Counters:
        """Flows first: then no program takes up a key that is about to become zeros."""
        flows = self._found_sealed(mapping)
        counted = self._remove(mapping)
        self._keys.wipe_all(mapping.session, flows)
        return counted

    def _own_sealed(self, mapping: Mapping) -> list[Held]:
        """All flows of the mapping. Raises KeysGone if one is missing or another's."""
        found = self._found_sealed(mapping)
        if len(found) < 2 * mapping.components:
            raise KeysGone("the fast path has lost the sealed session")
        return found

    def _found_sealed(self, mapping: Mapping) -> list[Held]:
        """Those flows of the mapping that are there."""
        found = [self._own(key_of(flow.source, flow.destination), flow) for flow in _flows(mapping)]
        return [held for held in found if held is not None and held.session == mapping.session and held.seal != PLAIN]

    def _ways(self, mapping: Mapping) -> dict[Address, tuple[int, Way]]:
        return self._kernel.ways({mapping.client_partner.address, mapping.server_partner.address})

    # flows ---------------------------------------------------------------------------

    def _hold(self, mapping: Mapping, lease: float, *, renew: bool, key_id: bytes = b"") -> Counters:
        """See to it that all flows are there. On failure what was added goes again.

        New ones are added; own ones are renewed, or left alone by a second Install as the rules do. One whose lease has
        ended counts as gone: it begins anew, and what it had counted is told to nobody.
        """
        now = self._kernel.now_ns()
        added: list[bytes] = []
        answers: list[Renewed | None] = []
        deadline = now + int(lease * 1e9)
        ways = self._ways(mapping)
        try:
            for number, flow in enumerate(_flows(mapping)):
                key = key_of(flow.source, flow.destination)
                place, _ = ways[flow.new_destination.address]
                _, arrives = ways[flow.source.address]
                seal = _seal(number, key_id) if mapping.sealed else PLAIN
                value = value_of(flow, mapping.session, arrives, place, deadline, seal)
                inserted = self._kernel.insert(key, value)
                found = None if inserted else self._own(key, flow)
                if inserted or (found is None and self._cleared(key, now) and self._kernel.insert(key, value)):
                    added.append(key)
                    answers.append(None)
                    continue
                if found is None or (found.seal.kind, found.seal.component) != (seal.kind, seal.component):
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
            if self._kernel.lookup(key) is None:
                self._kernel.take(key)  # half an entry, if anything
            return None
        closed = self._kernel.renew([renewal_of(key, Way(flow.source.address), 0, 0)])[0]
        taken = self._kernel.take(key)
        if closed is None or taken is None or found.lease_ns <= self._kernel.now_ns():
            return None
        rest = held_of(taken)
        return Renewed(closed.packets + rest.packets, closed.octets + rest.octets)

    def _own(self, key: bytes, flow: Flow) -> Held | None:
        """The entry under this key if it rewrites as `flow` says."""
        found = self._kernel.lookup(key)
        return held_of(found) if found is not None and leads(found, flow) else None

    def _cleared(self, key: bytes, now: int) -> bool:
        """Take another mapping's entry away whose lease has ended: nobody may know any more whose it was. Whether there was one."""
        value = self._kernel.lookup(key)
        held = held_of(value) if value is not None else None
        over = held is not None and held.lease_ns <= now and held.seal == PLAIN
        return over and self._kernel.take(key) is not None

    def _counted(self, flow: Flow) -> Renewed | None:
        held = self._own(key_of(flow.source, flow.destination), flow)
        if held is None or held.lease_ns <= self._kernel.now_ns():
            return None
        return Renewed(held.packets, held.octets)


def _seal(number: int, key_id: bytes) -> Seal:
    """Of flow `number` of a sealed mapping, as `_flows` has them."""
    return Seal(Kind.SEAL, number // 2, key_id) if number % 2 else Seal(Kind.OPEN, number // 2)


def _slow(way: Way) -> str:
    if not way.ifindex:
        return f"there is no route to {way.address}, and without the fast path on the way nothing is sealed"
    name = way.name or f"number {way.ifindex}"
    return f"{way.address} lies behind interface {name}, which has no fast path to seal in; see agent.toml:datapath.interfaces"


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
