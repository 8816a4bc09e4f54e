"""A FastKernel whose maps are dictionaries, and mappings to put into them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from chainrelay.datapath.mapping import Mapping
from chainrelay.datapath.xdp_entries import Renewed, Way
from chainrelay.datapath.xdp_layout import ASKED, ENDING, ENTRY4, SEAL, SEAL_KEY, TUPLE4, Verdict, What
from chainrelay.datapath.xdp_seals import SealCounts, seal_held_of
from chainrelay.errors import DatapathError
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Protocol


@dataclass
class Maps:
    """A FastKernel in memory, IPv4 only; `room` entries."""

    log: list[str]
    room: int = 100
    now: int = 0
    held: dict[bytes, bytes] = field(default_factory=dict)
    sealing: dict[bytes, bytes] = field(default_factory=dict)
    """The map `seals`."""
    can_seal: bool = True
    slow: set[Address] = field(default_factory=set)
    """Addresses behind an interface without the fast path."""

    def now_ns(self) -> int:
        return self.now

    def ways(self, addresses: Collection[Address]) -> dict[Address, tuple[int, Way]]:
        return {address: (int(address) & 0xFF, Way(address, 1, ready=True, fast=address not in self.slow)) for address in addresses}

    def insert(self, key: bytes, value: bytes) -> bool:
        if key in self._map(key):
            return False
        if len(self._map(key)) >= self.room:
            raise DatapathError("the fast path is full", full=True)
        self.log.append("key +" if self._map(key) is self.sealing else "fast +")
        self._map(key)[key] = value
        return True

    def lookup(self, key: bytes) -> bytes | None:
        return self._map(key).get(key)

    def take(self, key: bytes) -> bytes | None:
        self.log.append("key -" if self._map(key) is self.sealing else "fast -")
        return self._map(key).pop(key, None)

    def sweep(self) -> None:
        self.log.append("fast swept")

    def seals(self) -> bool:
        return self.can_seal

    def seal_entries(self) -> Iterable[tuple[bytes, bytes]]:
        return list(self.sealing.items())

    def end_keys(self, records: Sequence[bytes]) -> list[SealCounts | None]:
        answers: list[SealCounts | None] = []
        for record in records:
            asked, key = ENDING.unpack(record), record[: SEAL_KEY.size]
            if key not in self.sealing:
                answers.append(None)
                continue
            changed = {"ends_ns": asked["ends_ns"]}
            if asked["wipe"]:
                self.log.append("wipe")
                changed |= dict.fromkeys(("open_key", "open_iv", "seal_key", "seal_iv"), b"")
            answers.append(seal_held_of(key, self.sealing[key]).counts)
            self.sealing[key] = SEAL.pack({**SEAL.unpack(self.sealing[key]), **changed})
        return answers

    def _map(self, key: bytes) -> dict[bytes, bytes]:
        return self.sealing if len(key) == SEAL_KEY.size else self.held

    def renew(self, records: Sequence[bytes]) -> list[Renewed | None]:
        answers: list[Renewed | None] = []
        for record in records:
            asked = ASKED.unpack(record[-ASKED.size :])
            key = record[: TUPLE4.size]
            if key not in self.held:
                answers.append(None)
                continue
            fields = ENTRY4.unpack(self.held[key])
            if asked["what"] == What.REKEY:
                self.log.append("rekey")
                self.held[key] = ENTRY4.pack({**fields, "record.key_be32": asked["key_be32"]})
                answers.append(Renewed(0, 0))
                continue
            packets, told = fields["own.packets"], fields["record.packets_told"]
            assert isinstance(packets, int)
            assert isinstance(told, int)
            answers.append(Renewed(packets - told, 100 * (packets - told)))
            changed = {"record.lease_ns": asked["lease_ns"], "record.packets_told": packets, "record.octets_told": 100 * packets}
            self.held[key] = ENTRY4.pack({**fields, **changed})
        return answers

    def forward(self, packets: int) -> None:
        """As if the program had forwarded so many in every entry."""
        for key, value in self.held.items():
            fields = ENTRY4.unpack(value)
            self.held[key] = ENTRY4.pack({**fields, "own.packets": packets, "own.octets": 100 * packets})

    def entries(self) -> Iterable[tuple[bytes, bytes]]:
        return list(self.held.items())

    def verdicts(self) -> dict[Verdict, int]:
        return dict.fromkeys(Verdict, 0)

    def close(self) -> None:
        self.log.append("fast closed")


def mapping(number: int = 0, protocol: Protocol = Protocol.UDP) -> Mapping:
    ends = (Endpoint.parse(f"10.0.0.{n}:{5000 + 10 * number + n}") for n in range(1, 5))
    return Mapping(number.to_bytes(16, "big"), protocol, 1, *ends)
