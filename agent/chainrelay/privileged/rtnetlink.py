"""Requests to rtnetlink packed by hand: the few that pyroute2 0.7 can't encode (IFLA_XDP_FLAGS, NDA_FLAGS_EXT).

One request, one answer, with the kernel's own words in the error (extended acknowledgements). No policy.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final, Self

from chainrelay.errors import DatapathError

RTM_GETLINK, RTM_SETLINK, RTM_NEWNEIGH = 18, 19, 28
REQUEST, ACK, REPLACE, CREATE = 0x1, 0x4, 0x100, 0x400
NESTED: Final = 0x8000
_ERROR: Final = 2
_ACK_TLVS: Final = 0x200
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_HEADER: Final = struct.Struct("=IHHII")


class Refused(DatapathError):
    """The kernel's refusal; `number` is the errno."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{os.strerror(number)}{f' ({text})' if text else ''}")
        self.number = number


class Rtnetlink:
    """A socket for requests, of the network namespace in which it was opened. Not for several threads at once."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.bind((0, 0))

    def request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send one message; the body of the answer, empty for an acknowledgement. Raises Refused."""
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, 1, 0) + body)
        answer = self._socket.recv(65536)
        length, got, got_flags, _, _ = _HEADER.unpack_from(answer)
        payload = answer[_HEADER.size : length]
        if got != _ERROR:
            return payload
        number = -struct.unpack_from("=i", payload)[0]
        if number == 0:
            return b""
        said = attributes(payload[4 + _HEADER.size :]).get(1, b"") if got_flags & _ACK_TLVS else b""
        raise Refused(number, said.rstrip(b"\0").decode("ascii", "replace"))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def attribute(kind: int, content: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(content)
    return struct.pack("=HH", length, kind) + content + bytes(-length % 4)


def attributes(octets: bytes) -> dict[int, bytes]:
    """Type (flags stripped) -> value; the last of a kind counts."""
    found = {}
    while len(octets) >= 4:
        length, kind = struct.unpack_from("=HH", octets)
        if length < 4:
            break
        found[kind & 0x3FFF] = octets[4:length]
        octets = octets[(length + 3) // 4 * 4 :]
    return found
