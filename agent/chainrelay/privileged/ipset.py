"""The sets that hold leases and counters for iptables-legacy: elements written and read by netlink, many at a time.

pyroute2 makes and destroys the sets (it knows their revisions); elements are packed here, since 0.3 ms for each would be most of a
renewal. A set can only be read whole, so a reading is used again for a while by who need not have the latest.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from pyroute2 import IPSet
from pyroute2.netlink.exceptions import NetlinkError

from chainrelay import limits
from chainrelay.datapath.legacy_backend import Counted, Put
from chainrelay.datapath.legacy_ruleset import SETS, Element, Key, comment, flow_of
from chainrelay.datapath.mapping import Flow
from chainrelay.errors import DatapathError
from chainrelay.privileged import netlink
from chainrelay.privileged.netlink import ACK, ADDRESS_FAMILY, DUMP, GENERIC, HEADER, REQUEST, attribute, nest
from chainrelay.privileged.netlink_socket import NetlinkSocket
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Protocol

_TYPE: Final = "hash:ip,port,ip"
_LIST, _ADD, _DELETE = (6 << 8 | command for command in (7, 9, 10))
_PROTOCOL, _SET_NAME, _DATA, _LISTED = 1, 2, 7, 8
_PROTOCOL_VERSION: Final = b"\x06"
_NETWORK_ORDER: Final = 0x4000
_IP, _PORT, _TIMEOUT, _NUMBER, _IP2, _OCTETS, _PACKETS, _COMMENT = 1, 4, 6, 7, 20, 24, 25, 26
_ADDRESS: Final = {4: 1, 6: 2}
_FULL: Final = 4352  # IPSET_ERR_HASH_FULL
_REUSE: Final = 10.0  # times as long as it took: reading then costs at most a tenth of the time


class Ipsets:
    """The sets of the network namespace in which the object was made."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket()
        self._sets = IPSet()
        self._read: dict[int, tuple[float, bytes]] = {}
        """Per family: until when a reading may be used again, and the reading."""

    def create(self, family: int, sessions: int = limits.LEGACY_SESSIONS) -> None:
        """Create the set unless it is there. Raises DatapathError."""
        address_family = ADDRESS_FAMILY[family]
        try:
            self._sets.create(
                SETS[family], _TYPE, address_family, exclusive=False, counters=True, comment=True, timeout=0, maxelem=2 * sessions
            )
        except NetlinkError as refused:
            advice = "is CONFIG_IP_SET_HASH_IPPORTIP in the kernel (module ip_set_hash_ipportip)?"
            if refused.code == errno.EPERM:
                advice = "the agent needs CAP_NET_ADMIN in this network namespace"
            raise DatapathError(f"ipset {SETS[family]}: {_reason(refused.code)}; {advice}") from refused

    def destroy(self, family: int) -> None:
        """Destroy the set; no error when there is none. Raises DatapathError."""
        self._read.pop(family, None)
        try:
            self._sets.destroy(SETS[family])
        except NetlinkError as refused:
            if refused.code != errno.ENOENT:
                raise DatapathError(f"ipset {SETS[family]}: {_reason(refused.code)}") from refused

    def elements(self, family: int) -> list[Element]:
        """All that is alive; empty where the set is missing. Raises DatapathError."""
        return [_element(each) for each in _listed(self._dump(family))]

    def counters(self, family: int, keys: Iterable[Key], *, fresh: bool) -> Counted:
        """Packets and bytes of those of `keys` that are alive. Raises DatapathError."""
        until, reading = self._read.get(family, (0.0, b""))
        if fresh or time.monotonic() >= until:
            reading = self._dump(family)
        counted: Counted = {}
        for key in keys:
            place = reading.find(_packed(key, listed=True))
            if place >= 0:
                parts = _leading(reading, place)
                counted[key] = int.from_bytes(parts[_PACKETS]), int.from_bytes(parts[_OCTETS])
        return counted

    def put(self, family: int, elements: Sequence[Put]) -> list[DatapathError | None]:
        """Write them; what went wrong with each. Raises DatapathError when the socket fails."""
        return self._write(family, _ADD, [_lasting(each) for each in elements])

    def delete(self, family: int, flows: Sequence[Flow]) -> None:
        """Delete elements; a missing one is no error. Raises DatapathError."""
        for fault in self._write(family, _DELETE, [_packed(Key.of(flow)) for flow in flows]):
            if fault is not None:
                raise fault

    def close(self) -> None:
        """Close both sockets."""
        self._sets.close()
        self._socket.close()

    def _dump(self, family: int) -> bytes:
        begin = time.monotonic()
        answer = self._socket.dump(self._message(_LIST, DUMP, family, b""))
        reading = b"".join(
            value for message in answer for kind, value in netlink.attributes(message.body[GENERIC.size :]) if kind == _LISTED
        )
        end = time.monotonic()
        self._read[family] = end + _REUSE * (end - begin), reading
        return reading

    def _write(self, family: int, command: int, elements: Sequence[bytes]) -> list[DatapathError | None]:
        requests = [self._message(command, ACK, family, nest(_DATA, each)) for each in elements]
        numbers = {HEADER.unpack_from(request)[3]: place for place, request in enumerate(requests)}
        faults: list[DatapathError | None] = [DatapathError("ipset: no answer")] * len(requests)
        for answer in self._socket.exchange(requests):
            if answer.sequence in numbers and answer.kind == netlink.ERROR:
                number = netlink.error_number(answer)
                fault = DatapathError(f"ipset {SETS[family]}: {_reason(number)}", full=number == _FULL)
                faults[numbers[answer.sequence]] = fault if number else None
        return faults

    def _message(self, command: int, flags: int, family: int, data: bytes) -> bytes:
        body = GENERIC.pack(ADDRESS_FAMILY[family], 0, 0) + attribute(_PROTOCOL, _PROTOCOL_VERSION)
        body += attribute(_SET_NAME, SETS[family].encode() + b"\0") + data
        return HEADER.pack(HEADER.size + len(body), command, REQUEST | flags, self._socket.next_sequence(), 0) + body


def _reason(number: int) -> str:
    return "the set is full" if number == _FULL else f"{os.strerror(number)} ({number})"


def _packed(key: Key, *, listed: bool = False) -> bytes:
    """The key, in the order in which the kernel lists it. Addresses: the kernel wants a flag that it does not give."""
    flag = 0 if listed else _NETWORK_ORDER

    def address(kind: int, value: Address) -> bytes:
        return nest(kind, attribute(_ADDRESS[value.version] | flag, value.packed))

    own = key.own
    return (
        address(_IP, key.partner)
        + address(_IP2, own.address)
        + attribute(_PORT | _NETWORK_ORDER, own.port.to_bytes(2))
        + attribute(_NUMBER, bytes([key.protocol]))
    )


def _lasting(put: Put) -> bytes:
    text = attribute(_TIMEOUT | _NETWORK_ORDER, int(min(put.seconds, limits.LEGACY_TIMEOUT)).to_bytes(4))
    text += attribute(_COMMENT, comment(put.flow).encode() + b"\0")
    if put.new:
        text += b"".join(attribute(kind | _NETWORK_ORDER, bytes(8)) for kind in (_OCTETS, _PACKETS))
    return _packed(Key.of(put.flow)) + text


def _listed(reading: bytes) -> Iterator[bytes]:
    return (value for kind, value in netlink.attributes(reading) if kind == _DATA)


def _leading(reading: bytes, place: int) -> dict[int, bytes]:
    """The attributes of the one element that begins at `place`: its own header stands before."""
    length = int.from_bytes(reading[place - 4 : place - 2], _ORDER) - 4
    return dict(netlink.attributes(reading[place : place + length]))


_ORDER: Final = "little" if HEADER.pack(1, 0, 0, 0, 0)[0] else "big"


def _element(octets: bytes) -> Element:
    parts = dict(netlink.attributes(octets))
    own = Endpoint(_address(parts[_IP2]), int.from_bytes(parts[_PORT]))
    key = Key(Protocol(parts[_NUMBER][0]), _address(parts[_IP]), own)
    flow = flow_of(key, parts[_COMMENT].rstrip(b"\0").decode("ascii"))
    left, packets, total = (int.from_bytes(parts[kind]) for kind in (_TIMEOUT, _PACKETS, _OCTETS))
    return Element(flow, left, packets, total)


def _address(octets: bytes) -> Address:
    return next(ip_address(value) for _, value in netlink.attributes(octets))
