"""The keys of sealed sessions in the map `seals`: added, switched, ended, wiped (M17). Pure but for the kernel that it is given.

A session's current key is the one that its sealing flows name; that key's entry names the one before. So after a restart all of
it is found again, and an operation that stopped halfway is finished by its repetition:

    insert the new key → delete the key before the last → flows name the new key → the last one ends SEAL_OVERLAP from now

A key's entry is never written twice, whatever happens: its counters would begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from chainrelay.datapath.xdp_entries import Held, Renewed, key_of, rekey_of
from chainrelay.datapath.xdp_layout import Kind
from chainrelay.datapath.xdp_seals import NO_KEY, SealCounts, SealHeld, ending_of, seal_held_of, seal_holds, seal_key_of, seal_value_of
from chainrelay.errors import DatapathError
from chainrelay.limits import SEAL_OVERLAP
from chainrelay.wire.sealed import SealKeys


class KeysGone(DatapathError):
    """The maps don't have the session's flows or key: only a new key helps."""


class KeyKernel(Protocol):
    """What of the kernel is needed here; see xdp.py: FastKernel."""

    def now_ns(self) -> int: ...
    def insert(self, key: bytes, value: bytes) -> bool: ...
    def lookup(self, key: bytes) -> bytes | None: ...
    def take(self, key: bytes) -> bytes | None: ...
    def renew(self, records: Sequence[bytes]) -> list[Renewed | None]: ...
    def seal_entries(self) -> Iterable[tuple[bytes, bytes]]: ...
    def end_keys(self, records: Sequence[bytes]) -> list[SealCounts | None]: ...


class Keys:
    """All sessions' keys."""

    def __init__(self, kernel: KeyKernel) -> None:
        self._kernel = kernel

    def held(self) -> list[SealHeld]:
        """Every key, without its secrets."""
        return [seal_held_of(key, value) for key, value in self._kernel.seal_entries()]

    def insert(self, session: bytes, keys: SealKeys, before: bytes = NO_KEY) -> bool:
        """Add a key; False when it is there already, and goes on. Raises DatapathError when the id is that of one that has ended."""
        key = seal_key_of(session, keys.key_id)
        if self._kernel.insert(key, seal_value_of(keys, before)):
            return True
        value = self._kernel.lookup(key)
        if value is None or seal_held_of(key, value).ends_ns or not seal_holds(value, keys):
            raise DatapathError(f"key id {keys.key_id.hex()} was used before in this session; take a new key")
        return False

    def check(self, session: bytes, flows: Sequence[Held]) -> None:
        """The current key must be there. The one before goes as soon as its time is over. Raises KeysGone."""
        current = self._find(session, _current(flows))
        if current is None or current.ends_ns:
            raise KeysGone("the fast path has lost the sealed session's key")
        before = self._find(session, current.before)
        if before is not None and 0 < before.ends_ns <= self._kernel.now_ns():
            self.wipe(session, before.key_id)

    def switch(self, session: bytes, flows: Sequence[Held], keys: SealKeys) -> None:
        """Seal by `keys` from now on. The same ones again change nothing. Raises KeysGone, DatapathError."""
        sealing = [held for held in flows if held.seal.kind is Kind.SEAL]
        others = [held for held in sealing if held.seal.key_id != keys.key_id]
        if others:
            before = others[0].seal.key_id
            last = self._find(session, before)
            self.insert(session, keys, before)
            if last is not None and last.before not in {NO_KEY, keys.key_id}:
                self.wipe(session, last.before)
            answers = [self._kernel.renew([rekey_of(key_of(held.source, held.destination), keys.key_id)])[0] for held in others]
            if None in answers:
                raise KeysGone("the sealed session ended meanwhile")
        current = self._find(session, keys.key_id)
        if current is None or current.ends_ns:
            raise KeysGone("the fast path has lost the sealed session's key")
        for key_id in {current.before, *(held.seal.key_id for held in others)}:
            last = self._find(session, key_id)
            if last is not None and not last.ends_ns:
                ends_ns = self._kernel.now_ns() + int(SEAL_OVERLAP * 1e9)
                self._kernel.end_keys([ending_of(seal_key_of(session, key_id), ends_ns)])

    def wipe(self, session: bytes, key_id: bytes) -> None:
        """Zeros in the key's place, then no entry: what is deleted alone stays readable in freed memory."""
        key = seal_key_of(session, key_id)
        self._kernel.end_keys([ending_of(key, 1, wipe=True)])
        self._kernel.take(key)

    def discard(self, session: bytes, key_id: bytes) -> None:
        """Undo `insert`. A key that has sealed something meanwhile leaves its wiped entry: offered again it must be refused."""
        key = seal_key_of(session, key_id)
        counts = self._kernel.end_keys([ending_of(key, 1, wipe=True)])[0]
        if counts is None or not counts.sealed:
            self._kernel.take(key)

    def wipe_all(self, session: bytes, flows: Sequence[Held]) -> None:
        """The keys that the session's flows name, and those before them; without any flow, whatever the map has of the session."""
        named = {held.seal.key_id for held in flows if held.seal.kind is Kind.SEAL}
        if not named:
            named = {held.key_id for held in self.held() if held.session == session}
        for key_id in named:
            held = self._find(session, key_id)
            for each in {key_id, held.before if held is not None else NO_KEY} - {NO_KEY}:
                self.wipe(session, each)

    def keep_only(self, used: set[tuple[bytes, bytes]]) -> None:
        """Wipe all keys but these current ones (session, key id) and those before them."""
        held = {(each.session, each.key_id): each for each in self.held()}
        kept = used | {(session, held[session, key_id].before) for session, key_id in used if (session, key_id) in held}
        for session, key_id in held.keys() - kept:
            self.wipe(session, key_id)

    def _find(self, session: bytes, key_id: bytes) -> SealHeld | None:
        key = seal_key_of(session, key_id)
        value = self._kernel.lookup(key)
        return seal_held_of(key, value) if value is not None else None


def _current(flows: Sequence[Held]) -> bytes:
    return next(held.seal.key_id for held in flows if held.seal.kind is Kind.SEAL)
