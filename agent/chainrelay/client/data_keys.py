"""The data keys of one sealed session at the client: which one seals now, which ones open, and what was not opened. Pure.

    prepare(keys)     opens by them as well, from before REKEY is sent
    adopt(key_id)     seals by them, once REKEYED is there; a datagram opened by them says the same, should REKEYED get lost
    retire(key_id)    opens by nothing older any more, SEAL_OVERLAP later

So a change of keys loses no datagram in either direction. When that happens and what it takes is sealing.py's business; sockets
are datagrams.py's. An object belongs to one thread: two that seal at once could take one counter twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.wire.sealed import KEY_ID_LENGTH, Opener, Sealer, SealKeys, UnknownKeyError, of_component

KEYS_AT_ONCE = 4
"""That open. The relay knows two: more come about only by REKEYs whose answers were lost."""


@dataclass(frozen=True, slots=True)
class SealCounters:
    """Datagrams of one session at the client, all of its keys together. What is not opened is dropped."""

    sealed: int = 0
    opened: int = 0
    forged: int = 0
    """The tag did not verify."""
    replayed: int = 0
    """Accepted before, or too old to tell."""
    unknown: int = 0
    """Under no key that is valid now, or no sealed datagram at all."""

    def __add__(self, other: SealCounters) -> SealCounters:
        return SealCounters(
            self.sealed + other.sealed,
            self.opened + other.opened,
            self.forged + other.forged,
            self.replayed + other.replayed,
            self.unknown + other.unknown,
        )


class DataKeys:
    """See above. Without a key nothing is sealed or opened."""

    def __init__(self) -> None:
        self._keys: list[tuple[SealKeys, Opener]] = []
        """Those that open, the oldest first."""
        self._openers: dict[bytes, Opener] = {}
        """The same by what stands in datagrams: two entries each, one per component."""
        self._sealer: Sealer | None = None
        self._past = SealCounters()
        self._unknown = 0

    def prepare(self, keys: SealKeys) -> None:
        """Open by these as well from now on."""
        if len(self._keys) >= KEYS_AT_ONCE:
            self._forget(next(each for each in self._keys if self._sealer is None or each[0].key_id != self._sealer.key_id))
        opener = keys.opener()
        self._keys.append((keys, opener))
        for component in (0, 1):
            self._openers[of_component(keys.key_id, component)] = opener

    def adopt(self, key_id: bytes) -> None:
        """Seal by the prepared key of that id from now on. Not by one before, nor by the same again: its counter would begin anew."""
        keys = next(keys for keys, _ in self._keys if keys.key_id == key_id)
        if self._sealer is not None:
            if not self._newer(key_id, self._sealer):
                return
            self._past += SealCounters(sealed=self._sealer.counter)
        self._sealer = keys.sealer()

    def retire(self, key_id: bytes) -> None:
        """Forget the keys that were prepared before the one of that id."""
        ids = [keys.key_id for keys, _ in self._keys]
        if key_id not in ids:
            return
        for each in self._keys[: ids.index(key_id)]:
            self._forget(each)

    def seal(self, text: bytes, component: int = 0) -> bytes:
        """The datagram. Raises Refusal when there is no key, or none that is not used up."""
        if self._sealer is None:
            raise Refusal(Code.SEAL_KEY_MISSING, "the session has no data key yet")
        try:
            return self._sealer.seal(text, component)
        except ProtocolError as used_up:
            raise Refusal(Code.SEAL_KEY_MISSING, f"{used_up}, which the chain has not given in time") from used_up

    def open(self, datagram: bytes, component: int = 0) -> bytes:
        """The text. Raises OpenError after it has counted why."""
        opener = self._openers.get(datagram[:KEY_ID_LENGTH])
        if opener is None:
            self._unknown += 1
            raise UnknownKeyError("the datagram is under no key of this session")
        text = opener.open(datagram, component)
        if self._sealer is not None and opener.key_id != self._sealer.key_id:
            self.adopt(opener.key_id)  # if it is newer, then the relay has it, and ends the one before soon
        return text

    @property
    def used(self) -> int:
        """Datagrams of the newest key, in the direction that had more of them."""
        if self._sealer is None:
            return 0
        opener = next((opener for keys, opener in self._keys if keys.key_id == self._sealer.key_id), None)
        return max(self._sealer.counter, opener.highest + 1 if opener else 0)

    @property
    def counters(self) -> SealCounters:
        """So far."""
        now = SealCounters(sealed=self._sealer.counter if self._sealer else 0, unknown=self._unknown)
        return sum((_counted(opener) for _, opener in self._keys), self._past + now)

    def _newer(self, key_id: bytes, sealer: Sealer) -> bool:
        ids = [keys.key_id for keys, _ in self._keys]
        return ids.index(key_id) > ids.index(sealer.key_id)

    def _forget(self, one: tuple[SealKeys, Opener]) -> None:
        keys, opener = one
        self._keys.remove(one)
        self._past += _counted(opener)
        for component in (0, 1):
            del self._openers[of_component(keys.key_id, component)]


def _counted(opener: Opener) -> SealCounters:
    return SealCounters(0, opener.opened, opener.forged, opener.replayed, opener.unknown)
