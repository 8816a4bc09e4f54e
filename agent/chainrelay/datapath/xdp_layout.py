"""The keys and values of the BPF maps, as ebpf/layout.h and ebpf/verdict.h have them. Pure: names, sizes and offsets.

tests/unit/datapath/test_xdp_layout.py compiles the C side and compares every size, offset and verdict with what stands here, so
neither side can change alone. Fields whose name ends in `_be16` or `_be32` are octets as in a packet; all others are
integers of the machine's byte order. What the fields mean is told in layout.h, once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from chainrelay.limits import SEAL_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping as Dictionary

LAYOUT_VERSION: Final = 4

Value = int | bytes


class Verdict(IntEnum):
    """How the program left a packet; ebpf/verdict.h tells each. Plain flows: the first two have been redirected, the others went up
    to the stack untouched. Sealed flows, from OPENED on: the first four have been redirected, the others dropped."""

    FORWARDED = 1
    ICMP_TRANSLATED = 2
    NOT_IP = 3
    MALFORMED = 4
    OPTIONS = 5
    FRAGMENT = 6
    OTHER_PROTOCOL = 7
    NO_SESSION = 8
    LEASE_ENDED = 9
    OTHER_INTERFACE = 10
    OTHER_STATION = 11
    TTL_ENDS = 12
    NO_NEXT_HOP = 13
    TOO_LARGE = 14
    PARTIAL_CHECKSUM = 15
    NO_CHECKSUM = 16
    ICMP_OTHER = 17
    OPENED = 18
    SEALED = 19
    SEALED_ICMP = 20
    SEALED_ANSWERED = 21
    SEALED_NO_PROGRAM = 22
    SEALED_GONE = 23
    SEALED_LEASE_ENDED = 24
    SEALED_OTHER_INTERFACE = 25
    SEALED_OTHER_STATION = 26
    SEALED_TTL_ENDS = 27
    SEALED_NO_NEXT_HOP = 28
    SEALED_TOO_LARGE = 29
    SEALED_TOO_SHORT = 30
    SEALED_PARTIAL_CHECKSUM = 31
    SEALED_NO_CHECKSUM = 32
    SEALED_BAD_CHECKSUM = 33
    SEALED_NO_ROOM = 34
    WRONG_COMPONENT = 35
    UNKNOWN_KEY = 36
    COUNTER_TOO_HIGH = 37
    REPLAYED = 38
    FORGED = 39
    FORGE_LIMIT = 40
    KEY_EXHAUSTED = 41


VERDICTS: Final = 42  # places in the map; 0 is never counted


class Kind(IntEnum):
    """`state.kind`: whether a flow lies in the place, and what happens to its datagrams beyond rewriting."""

    FREE = 0
    PLAIN = 1
    OPEN = 2
    SEAL = 3


class What(IntEnum):
    """`asked.what`: what a control run does with a flow that stays."""

    RENEW = 0
    REKEY = 1


class Layout:
    """A C struct: its fields in order with their `struct` codes, padding by name."""

    def __init__(self, name: str, *fields: tuple[str, str]) -> None:
        self.name = name
        self.fields = fields
        self._struct = struct.Struct("=" + "".join(code for _, code in fields))
        self.size = self._struct.size
        self.offsets: dict[str, int] = {}
        at = 0
        for field, code in fields:
            self.offsets[field] = at
            at += struct.calcsize("=" + code)

    def inside(self, prefix: str) -> tuple[tuple[str, str], ...]:
        """The fields as members of another struct: `prefix.field`."""
        return tuple((f"{prefix}.{field}", code) for field, code in self.fields)

    def pack(self, values: Dictionary[str, Value]) -> bytes:
        """Octets; fields that are not named are zero. Raises KeyError for a name that the struct has not."""
        unknown = values.keys() - self.offsets.keys()
        if unknown:
            raise KeyError(f"{self.name} has no {', '.join(sorted(unknown))}")
        return self._struct.pack(*(values.get(name, b"" if code.endswith("s") else 0) for name, code in self.fields))

    def unpack(self, octets: bytes) -> dict[str, Value]:
        """All fields by name. Raises struct.error when the size is another."""
        return dict(zip(self.offsets, self._struct.unpack(octets), strict=True))


TUPLE4: Final = Layout(
    "tuple4",
    ("source_be32", "4s"),
    ("destination_be32", "4s"),
    ("source_port_be16", "2s"),
    ("destination_port_be16", "2s"),
)
TUPLE6: Final = Layout(
    "tuple6",
    ("source_be32", "16s"),
    ("destination_be32", "16s"),
    ("source_port_be16", "2s"),
    ("destination_port_be16", "2s"),
)
STATE: Final = Layout(
    "state",
    ("lease_ticks", "Q"),
    ("arrives_on", "I"),
    ("arrives_at", "6s"),
    ("hop", "H"),
    ("kind", "B"),
    ("owner", "B"),
    ("reach", "B"),
    ("padding", "B"),
)
COUNT: Final = Layout("count", ("packets", "Q"), ("octets", "Q"))
FLOW4: Final = Layout(
    "flow4", *TUPLE4.inside("key"), *TUPLE4.inside("leaves"), *STATE.inside("state"), *COUNT.inside("own")
)
FLOW6: Final = Layout(
    "flow6",
    *TUPLE6.inside("key"),
    ("padding", "4s"),
    *STATE.inside("state"),
    *TUPLE6.inside("leaves"),
    ("padding_end", "12s"),
    *COUNT.inside("own"),
)
REACH: Final = 63  # places behind its home in which a flow may lie
AT_ONCE: Final = 8  # flows in one control run
HOMES_PER_FLOW: Final = 2  # so half of a full table is empty, and a flow lies at home or close by
RECORD: Final = Layout(
    "record",
    *COUNT.inside("others"),
    ("packets_told", "Q"),
    ("octets_told", "Q"),
    ("session", "16s"),
    ("lease_ns", "Q"),
    ("place", "I"),
    ("key_be32", "4s"),
    ("component", "I"),
    ("padding", "I"),
)
ENTRY4: Final = Layout("entry4", *FLOW4.fields, *RECORD.inside("record"))
ENTRY6: Final = Layout("entry6", *FLOW6.fields, *RECORD.inside("record"))
"""A flow and its record, one after the other, as they go between the backend and its kernel."""
HOP: Final = Layout(
    "hop", ("to", "6s"), ("from", "6s"), ("ifindex", "I"), ("mtu", "I"), ("family", "I"), ("address_be32", "16s")
)
ASKED: Final = Layout(
    "asked",
    ("hop", "H"),
    ("what", "B"),
    ("found", "B"),
    ("key_be32", "4s"),
    ("lease_ns", "Q"),
    ("arrives_on", "I"),
    ("arrives_at", "6s"),
    ("padding", "6s"),
    ("packets", "Q"),
    ("octets", "Q"),
)
RENEWAL4: Final = Layout("renewal4", *TUPLE4.inside("key"), ("padding", "4s"), *ASKED.inside("asked"))
RENEWAL6: Final = Layout("renewal6", *TUPLE6.inside("key"), ("padding", "4s"), *ASKED.inside("asked"))
PLACING4: Final = Layout("placing4", *FLOW4.inside("flow"), ("place", "I"), ("padding", "I"))
PLACING6: Final = Layout("placing6", *FLOW6.inside("flow"), ("place", "I"), ("padding", "I"))
SEAL_KEY: Final = Layout("seal_key", ("session", "16s"), ("key_be32", "4s"))
WINDOW: Final = 1024
SEAL: Final = Layout(
    "seal",
    ("lock", "I"),
    ("before_be32", "4s"),
    ("open_key", "32s"),
    ("open_iv", "12s"),
    ("seal_key", "32s"),
    ("seal_iv", "12s"),
    ("ends_ns", "Q"),
    ("next", "Q"),
    ("top", "Q"),
    ("window", f"{WINDOW // 8}s"),
    ("opened", "Q"),
    ("forged", "Q"),
    ("replayed", "Q"),
    ("budget_ns", "Q"),
    ("budget_used", "Q"),
    ("answered_ns", "Q"),
)
SEALED_MOST: Final = 2**32  # datagrams that are sealed with one key
ENDING: Final = Layout(
    "ending",
    *SEAL_KEY.inside("key"),
    ("wipe", "I"),
    ("ends_ns", "Q"),
    ("found", "Q"),
    ("opened", "Q"),
    ("sealed", "Q"),
    ("forged", "Q"),
    ("replayed", "Q"),
)
SEALED_LONGEST: Final = SEAL_TEXT
SCRATCH: Final = Layout(
    "scratch",
    ("key", "32s"),
    ("nonce", "12s"),
    ("poly_r", "20s"),
    ("poly_s", "20s"),
    ("poly_pad", "16s"),
    ("stream", "64s"),
    ("tag", "16s"),
    ("received", "16s"),
    ("length", "I"),
    ("padding", "12s"),
    ("header", "12s"),
    ("text", f"{SEALED_LONGEST + 512}s"),
)
LAYOUTS: Final = (
    TUPLE4, TUPLE6, STATE, COUNT, FLOW4, FLOW6, RECORD, HOP, ASKED, RENEWAL4, RENEWAL6, PLACING4, PLACING6, SEAL_KEY, SEAL, ENDING, SCRATCH
)  # fmt: skip


class Slot(IntEnum):
    """Places of the sealing programs in the map `programs`."""

    OPEN4 = 0
    OPEN6 = 1
    SEAL4 = 2
    SEAL6 = 3
    ERROR4 = 4
    ERROR6 = 5
    ANSWER4 = 6
    ANSWER6 = 7


class MapKind(IntEnum):
    """Kinds of BPF maps that we use, by the kernel's numbers (enum bpf_map_type)."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_ARRAY = 6
    DEVMAP_HASH = 25


@dataclass(frozen=True, slots=True)
class MapLayout:
    """One map: its pin's name, kind and sizes. `entries` None: as the configuration says (`entries_of`)."""

    name: str
    kind: MapKind
    key_size: int
    value_size: int
    entries: int | None = None
    preallocated: bool = True
    locked: bool = False
    """The value begins with a bpf_spin_lock."""
    mapped: bool = False
    """Readable by mmap, so its values begin at a page: each of 64 octets is a cache line."""


EXITS: Final = 1024  # interfaces that take the fast path, by their index
MAPS: Final = (
    MapLayout("flows4", MapKind.ARRAY, 4, FLOW4.size, mapped=True),
    MapLayout("flows6", MapKind.ARRAY, 4, FLOW6.size, mapped=True),
    MapLayout("records4", MapKind.HASH, TUPLE4.size, RECORD.size, preallocated=False),
    MapLayout("records6", MapKind.HASH, TUPLE6.size, RECORD.size, preallocated=False),
    MapLayout("hops", MapKind.ARRAY, 4, HOP.size),
    MapLayout("exits", MapKind.DEVMAP_HASH, 4, 4, entries=EXITS),
    MapLayout("verdicts", MapKind.PERCPU_ARRAY, 4, 8, entries=VERDICTS),
    MapLayout("seals", MapKind.HASH, SEAL_KEY.size, SEAL.size, preallocated=False, locked=True),
    MapLayout("scratches", MapKind.PERCPU_ARRAY, 4, SCRATCH.size, entries=1),
    MapLayout("programs", MapKind.PROG_ARRAY, 4, 4, entries=len(Slot)),
)


def entries_of(layout: MapLayout, flows: int, hops: int) -> int:
    """How large a map is, by what the configuration says: flows per family and partner addresses.

    `seals` has room for both keys of every session: a session's flows are two a family.
    """
    if layout.entries is not None:
        return layout.entries
    match layout.name:
        case "hops":
            return hops
        case "seals":
            return 2 * flows
        case "flows4" | "flows6":
            return homes_of(flows) + REACH
        case _:
            return flows


def homes_of(flows: int) -> int:
    """How many places of a table are a tuple's home."""
    return HOMES_PER_FLOW * flows
