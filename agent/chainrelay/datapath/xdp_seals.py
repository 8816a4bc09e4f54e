"""Keys of sealed sessions as entries of the map `seals` and back (M17). Pure; layouts: xdp_layout.py.

An entry is one key of a session, for both directions and components. It is inserted whole and from then on changed by programs
alone: a value written by bpf(2) could bring a counter back. Nothing here prints key material.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING

from chainrelay.datapath.xdp_layout import ENDING, SEAL, SEAL_KEY

if TYPE_CHECKING:
    from chainrelay.datapath.xdp_layout import Value
    from chainrelay.wire.sealed import SealKeys

NO_KEY = bytes(4)


@dataclass(frozen=True, slots=True)
class SealCounts:
    """What happened under one key since it exists: datagrams opened and sealed, wrong tags, and counters seen before."""

    opened: int
    sealed: int
    forged: int
    replayed: int


@dataclass(frozen=True, slots=True)
class SealHeld:
    """An entry without its secrets."""

    session: bytes
    key_id: bytes
    before: bytes
    """The id of the key before; NO_KEY for none."""
    ends_ns: int
    """Not known any more from then on; 0: the current key."""
    counts: SealCounts


def seal_key_of(session: bytes, key_id: bytes) -> bytes:
    """The key of the entry: `key_id` has component 0."""
    return SEAL_KEY.pack({"session": session, "key_be32": key_id})


def seal_value_of(keys: SealKeys, before: bytes = NO_KEY) -> bytes:
    """A new entry: nothing sealed, nothing accepted."""
    return SEAL.pack(
        {
            "before_be32": before,
            "open_key": keys.open_key,
            "open_iv": keys.open_iv,
            "seal_key": keys.seal_key,
            "seal_iv": keys.seal_iv,
        }
    )


def seal_holds(value: bytes, keys: SealKeys) -> bool:
    """Whether the entry is of these very keys, in the same time for all."""
    fields = SEAL.unpack(value)
    held = b"".join(_octets(fields[name]) for name in ("open_key", "open_iv", "seal_key", "seal_iv"))
    return compare_digest(held, keys.open_key + keys.open_iv + keys.seal_key + keys.seal_iv)


def seal_held_of(key: bytes, value: bytes) -> SealHeld:
    """An entry read back."""
    names, fields = SEAL_KEY.unpack(key), SEAL.unpack(value)
    counts = SealCounts(_int(fields["opened"]), _int(fields["next"]), _int(fields["forged"]), _int(fields["replayed"]))
    return SealHeld(
        _octets(names["session"]), _octets(names["key_be32"]), _octets(fields["before_be32"]), _int(fields["ends_ns"]), counts
    )


def ending_of(key: bytes, ends_ns: int, *, wipe: bool = False) -> bytes:
    """A record for the control program: from `ends_ns` on the key is not known; with `wipe` it becomes zeros in its place."""
    return ENDING.pack({**{f"key.{name}": value for name, value in SEAL_KEY.unpack(key).items()}, "wipe": int(wipe), "ends_ns": ends_ns})


def ended_of(record: bytes) -> SealCounts | None:
    """The control program's answer; None when there is no such key."""
    fields = ENDING.unpack(record)
    if not fields["found"]:
        return None
    return SealCounts(_int(fields["opened"]), _int(fields["sealed"]), _int(fields["forged"]), _int(fields["replayed"]))


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value


def _octets(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value
