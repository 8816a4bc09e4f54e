"""BTF for the one thing the kernel wants it for: a map whose values begin with a bpf_spin_lock. Pure: octets.

The kernel finds the lock by its type's name and offset; nothing else of the value need be described. So three types are enough,
and no compiler has to know more than the layouts of datapath/xdp_layout.py.
"""

from __future__ import annotations

import struct
from typing import Final

MAGIC: Final = 0xEB9F
INT, STRUCT = 1, 4  # kinds (linux/btf.h)
KEY_TYPE, VALUE_TYPE = 3, 4
"""The ids that `locked_value` gives to key and value."""


def locked_value(key_size: int, value_size: int) -> bytes:
    """Types of a map with `struct bpf_spin_lock` as the first member of its value."""
    names = b"\0"
    places = {}
    for name in ("u32", "bpf_spin_lock", "val", "key", "value", "lock"):
        places[name] = len(names)
        names += name.encode() + b"\0"

    def struct_of(name: str, size: int, *members: tuple[str, int]) -> bytes:
        head = struct.pack("=III", places[name], STRUCT << 24 | len(members), size)
        return head + b"".join(struct.pack("=III", places[member], kind, 0) for member, kind in members)

    types = struct.pack("=IIII", places["u32"], INT << 24, 4, 32)  # 1
    types += struct_of("bpf_spin_lock", 4, ("val", 1))  # 2
    types += struct_of("key", key_size)  # 3
    types += struct_of("value", value_size, ("lock", 2))  # 4
    return struct.pack("=HBBIIIII", MAGIC, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names
