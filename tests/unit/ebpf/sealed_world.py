"""A sealed session in the world's maps, a client that seals by `cryptography`, and frames without scapy (there are thousands).

`Peer` is the reference: RFC 8439 by somebody else's code, the wire format written out once more. Shares nothing with ebpf/.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chainrelay.datapath.mapping import Flow
from chainrelay.datapath.xdp_entries import Seal, key_of, value_of
from chainrelay.datapath.xdp_layout import SEAL, Kind
from chainrelay.datapath.xdp_seals import SealHeld, seal_held_of, seal_key_of, seal_value_of
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import SealKeys
from unit.ebpf.world import GOOD, NEVER, OUT, OWN, PEER, STRANGER, Case

if TYPE_CHECKING:
    from unit.ebpf.world import World

SESSION = bytes.fromhex("5ea1ed00000000000000000000000001")
KEYS = SealKeys(
    bytes.fromhex("d0123456"), bytes(range(32)), bytes(range(100, 112)), bytes(range(200, 232)), bytes(range(50, 62))
)


@dataclass
class Peer:
    """The client: seals what the relay opens, opens what the relay seals."""

    keys: SealKeys
    component: int = 0
    counter: int = 0
    seen: set[int] = field(default_factory=set)

    def seal(self, text: bytes, counter: int | None = None) -> bytes:
        """A datagram's payload."""
        if counter is None:
            counter = self.counter
            self.counter += 1
        header = self.key_id + struct.pack("!Q", counter)
        return header + ChaCha20Poly1305(self.keys.open_key).encrypt(_nonce(self.keys.open_iv, counter), text, header)

    def open(self, payload: bytes) -> bytes:
        """The text. Raises AssertionError for a wrong key id or a repeated counter, InvalidTag."""
        assert payload[:4] == self.key_id, payload[:4].hex()
        counter = int.from_bytes(payload[4:12])
        assert counter not in self.seen, f"counter {counter} twice"
        self.seen.add(counter)
        return ChaCha20Poly1305(self.keys.seal_key).decrypt(_nonce(self.keys.seal_iv, counter), payload[12:], payload[:12])

    @property
    def key_id(self) -> bytes:
        """As on the wire."""
        return self.keys.key_id[:3] + bytes([self.keys.key_id[3] | self.component])


def _nonce(iv: bytes, counter: int) -> bytes:
    return bytes(a ^ b for a, b in zip(iv, struct.pack("!IQ", 0, counter), strict=True))


def pair(family: int, port: int = 7000) -> tuple[Flow, Flow]:
    """Client to server, server to client."""
    near, far = ("10.7.0.", "10.7.1.") if family == 4 else ("[fd07::", "[fd07:1::")
    end = "" if family == 4 else "]"
    client, entry, leave, server = (
        Endpoint.parse(text)
        for text in (f"{near}1{end}:{port}", f"{near}2{end}:{port + 1}", f"{far}1{end}:{port + 2}", f"{far}2{end}:{port + 3}")
    )
    return Flow(Protocol.UDP, client, entry, leave, server), Flow(Protocol.UDP, server, leave, entry, client)


ARRIVING = OWN + STRANGER


def frame(
    source: Endpoint, destination: Endpoint, payload: bytes, *, check: int | None = None, ttl: int = 64, macs: bytes = ARRIVING
) -> bytes:
    """A UDP datagram in Ethernet; `check` instead of the right sum."""
    udp = struct.pack("!HHHH", source.port, destination.port, 8 + len(payload), 0)
    addresses = source.address.packed + destination.address.packed
    if check is None:
        check = checksum(addresses + struct.pack("!HH", 17, len(udp + payload)) + udp + payload) or 0xFFFF
    udp = udp[:6] + check.to_bytes(2)
    return network(addresses, 17, udp + payload, ttl=ttl, macs=macs)


def network(addresses: bytes, protocol: int, content: bytes, *, ttl: int = 64, macs: bytes = ARRIVING) -> bytes:
    """Ethernet and IP around `content`."""
    if len(addresses) == 8:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 0, 0x4000, ttl, protocol, 0) + addresses
        return macs + b"\x08\x00" + ip[:10] + checksum(ip).to_bytes(2) + ip[12:] + content
    return macs + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(content), protocol, ttl) + addresses + content


def leaving(flow: Flow, payload: bytes, *, ttl: int = 63) -> bytes:
    """The frame with which a datagram of `flow` must leave."""
    return frame(flow.new_source, flow.new_destination, payload, ttl=ttl, macs=PEER + OUT)


def payload_of(octets: bytes) -> bytes:
    """What a frame's UDP header carries."""
    at = 42 if octets[12:14] == b"\x08\x00" else 62
    return octets[at:]


def checksum(octets: bytes) -> int:
    """RFC 1071, big endian."""
    octets += bytes(len(octets) % 2)
    total: int = sum(word for (word,) in struct.iter_unpack("!H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class SealedWorld:
    """The world with one sealed session in it, fresh keys, and its client."""

    def __init__(self, world: World, family: int, *, component: int = 0, hop: int = GOOD, keys: SealKeys = KEYS) -> None:
        self.world, self.seals, self.family, self.keys = world, world.seals, family, keys
        self.there, self.back = pair(family)
        self.peer = Peer(keys, component)
        self.key = seal_key_of(SESSION, keys.key_id)
        arrives = Case(self.there).arrives
        for flow, seal in (
            (self.there, Seal(Kind.OPEN, component)),
            (self.back, Seal(Kind.SEAL, component, keys.key_id)),
        ):
            value = value_of(flow, SESSION, arrives, hop, NEVER, seal)
            world.tables[family].update(key_of(flow.source, flow.destination), value)
        self.set()

    def set(self, **fields: int | bytes) -> None:
        """The key's entry anew, with these fields."""
        made = SEAL.unpack(seal_value_of(self.keys))
        self.seals.update(self.key, SEAL.pack({**made, **fields}))

    def held(self) -> SealHeld:
        """The key's entry."""
        value = self.seals.lookup(self.key)
        assert value is not None
        return seal_held_of(self.key, value)

    def sealed(self, text: bytes, counter: int | None = None) -> bytes:
        """A frame of the client."""
        return frame(self.there.source, self.there.destination, self.peer.seal(text, counter))

    def clear(self, text: bytes) -> bytes:
        """A frame of the server."""
        return frame(self.back.source, self.back.destination, text)


__all__ = ["InvalidTag", "Peer", "SealedWorld"]
