"""What the program must do with a frame, in plain Python: the reference for the random frames. Shares no code with the product.

Written from docs/design.md §11 and the RFCs, octet by octet; arithmetic modulo 65535 instead of folding.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from chainrelay.datapath.xdp_layout import Verdict
from unit.ebpf.sealed_world import pair
from unit.ebpf.world import CASES, ENDED, LOOPBACK, WAYS, Case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chainrelay.wire.endpoint import Endpoint

LONGEST_COMPLETED = 3584
EXTENSIONS = {0, 43, 60, 135, 139, 140}


class Key(NamedTuple):
    """A tuple as it stands in a packet."""

    source: bytes
    destination: bytes
    source_port: bytes
    destination_port: bytes


def _key(source: Endpoint, destination: Endpoint) -> Key:
    return Key(source.address.packed, destination.address.packed, struct.pack("!H", source.port), struct.pack("!H", destination.port))


FLOWS: dict[Key, tuple[Case, Key]] = {
    _key(case.flow.source, case.flow.destination): (case, _key(case.flow.new_source, case.flow.new_destination))
    for cases in CASES.values()
    for case in cases.values()
}


SEALED: set[Key] = {_key(flow.source, flow.destination) for family in (4, 6) for flow in pair(family)}
"""What arrives of a sealed session. Of such a frame the model says OPENED and nothing else: fuzz.py judges it by what it may never do."""


def expect(frame: bytes, mode: str) -> tuple[Verdict, bytes]:
    """The verdict and the frame afterwards."""
    kind = frame[12:14]
    if kind == b"\x08\x00":
        return _ipv4(frame, mode)
    if kind == b"\x86\xdd":
        return _ipv6(frame, mode)
    return Verdict.NOT_IP, frame


def _ipv4(frame: bytes, mode: str) -> tuple[Verdict, bytes]:
    ip = frame[14:]
    if len(ip) < 20 or ip[0] >> 4 != 4 or ip[0] & 15 < 5:
        return Verdict.MALFORMED, frame
    if ip[0] & 15 > 5:
        return Verdict.OPTIONS, frame
    length = int.from_bytes(ip[2:4])
    if not 20 <= length <= len(ip):
        return Verdict.MALFORMED, frame
    if int.from_bytes(ip[6:8]) & 0x3FFF:
        return Verdict.FRAGMENT, frame
    if ip[9] == 17:
        return _udp(frame, 4, 34, length, mode)
    if ip[9] == 1:
        return _error(frame, 4, 34, length)
    return Verdict.OTHER_PROTOCOL, frame


def _ipv6(frame: bytes, mode: str) -> tuple[Verdict, bytes]:
    ip = frame[14:]
    if len(ip) < 40 or ip[0] >> 4 != 6:
        return Verdict.MALFORMED, frame
    length = 40 + int.from_bytes(ip[4:6])
    if length > len(ip):
        return Verdict.MALFORMED, frame
    if ip[6] == 44:
        return Verdict.FRAGMENT, frame
    if ip[6] in EXTENSIONS:
        return Verdict.OPTIONS, frame
    if ip[6] == 17:
        return _udp(frame, 6, 54, length, mode)
    if ip[6] == 58:
        return _error(frame, 6, 54, length)
    return Verdict.OTHER_PROTOCOL, frame


def _udp(frame: bytes, family: int, at: int, length: int, mode: str) -> tuple[Verdict, bytes]:
    carried = length - (at - 14)
    if len(frame) < at + 8 or carried < 8 or int.from_bytes(frame[at + 4 : at + 6]) != carried:
        return Verdict.MALFORMED, frame
    source, destination = _addresses(frame, family)
    key = Key(source, destination, frame[at : at + 2], frame[at + 2 : at + 4])
    if key in SEALED:
        return Verdict.OPENED, frame
    if key not in FLOWS:
        return Verdict.NO_SESSION, frame
    case, new = FLOWS[key]
    verdict = _admit(frame, family, case, length)
    if verdict:
        return verdict, frame
    check = frame[at + 6 : at + 8]
    if family == 6 and check == b"\0\0":
        return Verdict.NO_CHECKSUM, frame
    pseudo = source + destination + b"\0\x11" + frame[at + 4 : at + 6]
    udp = bytearray(frame[at : at + carried])
    udp[0:2], udp[2:4] = new.source_port, new.destination_port
    if check != b"\0\0" and int.from_bytes(check) == _sum(pseudo):
        if mode == "generic" or length > LONGEST_COMPLETED:
            return Verdict.PARTIAL_CHECKSUM, frame
        udp[6:8] = b"\0\0"
        total = _sum(new.source + new.destination + b"\0\x11" + frame[at + 4 : at + 6] + bytes(udp) + bytes(carried % 2))
        udp[6:8] = (0xFFFF - total or 0xFFFF).to_bytes(2)
    elif check != b"\0\0":
        udp[6:8] = (_changed(check, b"".join(key), b"".join(new)) or 0xFFFF).to_bytes(2)
    out = _network(frame, family, case, new)
    return Verdict.FORWARDED, out[:at] + bytes(udp) + frame[at + carried :]


def _error(frame: bytes, family: int, at: int, length: int) -> tuple[Verdict, bytes]:
    header = 20 if family == 4 else 40
    inner = at + 8
    end = inner + header + 8
    if len(frame) < end or length < end - 14 or frame[at] not in ({3, 11, 12} if family == 4 else {1, 2, 3, 4}):
        return Verdict.ICMP_OTHER, frame
    quote = bytearray(frame[inner:end])
    if family == 4:
        right = quote[0] == 0x45 and quote[9] == 17 and not int.from_bytes(quote[6:8]) & 0x1FFF
        first, second = slice(12, 16), slice(16, 20)
    else:
        right = quote[0] >> 4 == 6 and quote[6] == 17
        first, second = slice(8, 24), slice(24, 40)
    outer = _addresses(frame, family)
    if not right or quote[first] != outer[1]:
        return Verdict.ICMP_OTHER, frame
    ports = slice(header, header + 2), slice(header + 2, header + 4)
    key = Key(bytes(quote[second]), bytes(quote[first]), bytes(quote[ports[1]]), bytes(quote[ports[0]]))
    if key in SEALED:
        return Verdict.OPENED, frame
    if key not in FLOWS:
        return Verdict.ICMP_OTHER, frame
    case, new = FLOWS[key]
    verdict = _admit(frame, family, case, length)
    if verdict:
        return verdict, frame
    before = bytes(quote)
    check = quote[header + 6 : header + 8]
    quote[first], quote[second] = new.destination, new.source
    quote[ports[0]], quote[ports[1]] = new.destination_port, new.source_port
    if family == 4:
        quote[10:12] = _changed(quote[10:12], key.source + key.destination, new.source + new.destination).to_bytes(2)
    if check != b"\0\0":
        quote[header + 6 : header + 8] = (_changed(check, b"".join(key), b"".join(new)) or 0xFFFF).to_bytes(2)
    out = bytearray(_network(frame, family, case, new))
    out[inner:end] = quote
    covered = (b"".join(outer), new.source + new.destination) if family == 6 else (b"", b"")
    out[at + 2 : at + 4] = _changed(frame[at + 2 : at + 4], covered[0] + before, covered[1] + bytes(quote)).to_bytes(2)
    return Verdict.ICMP_TRANSLATED, bytes(out)


def _admit(frame: bytes, family: int, case: Case, length: int) -> Verdict | None:
    hops_left = frame[22] if family == 4 else frame[21]
    if case.lease_ns == ENDED:
        return Verdict.LEASE_ENDED
    if case.arrives.ifindex != LOOPBACK:
        return Verdict.OTHER_INTERFACE
    if frame[:6] != case.arrives.own:
        return Verdict.OTHER_STATION
    if hops_left <= 1:
        return Verdict.TTL_ENDS
    way = WAYS.get(case.hop)
    if way is None or not way.ready or way.ifindex != LOOPBACK:
        return Verdict.NO_NEXT_HOP
    if length > way.mtu:
        return Verdict.TOO_LARGE
    return None


def _network(frame: bytes, family: int, case: Case, new: Key) -> bytes:
    """Ethernet and IP headers rewritten."""
    way = WAYS[case.hop]
    out = bytearray(frame)
    out[0:6], out[6:12] = way.neighbour, way.own
    if family == 4:
        out[22] -= 1
        out[26:30], out[30:34] = new.source, new.destination
        old = frame[22:24] + frame[26:34]
        out[24:26] = _changed(frame[24:26], old, bytes(out[22:24] + out[26:34])).to_bytes(2)
    else:
        out[21] -= 1
        out[22:38], out[38:54] = new.source, new.destination
    return bytes(out)


def _addresses(frame: bytes, family: int) -> tuple[bytes, bytes]:
    return (frame[26:30], frame[30:34]) if family == 4 else (frame[22:38], frame[38:54])


def _words(octets: bytes) -> Iterator[int]:
    return (word for (word,) in struct.iter_unpack("!H", octets))


def _sum(octets: bytes) -> int:
    """The ones' complement sum as 1..65535, or 0 when every octet is 0."""
    total = sum(_words(octets))
    return (total - 1) % 65535 + 1 if total else 0


def _changed(check: bytes | bytearray, old: bytes, new: bytes) -> int:
    """RFC 1624, equation 3, for `old` replaced by `new`."""
    total = (0xFFFF - int.from_bytes(check)) + sum(0xFFFF - word for word in _words(old)) + sum(_words(new))
    return 0xFFFF - ((total - 1) % 65535 + 1 if total else 0)
