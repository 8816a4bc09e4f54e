"""XDP programs on interfaces, by rtnetlink: what is attached, attach, replace in one step, detach.

By messages of our own, since pyroute2 0.7 can't encode IFLA_XDP_FLAGS. An attachment made so outlives its maker and goes
with `ip link set dev X xdp off`. A program that is not ours is never replaced: the kernel compares (XDP_FLAGS_REPLACE
with the descriptor that we expect, or "only if there is none"), so there is no moment between look and act.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chainrelay.errors import DatapathError
from chainrelay.privileged.rtnetlink import ACK, NESTED, RTM_GETLINK, RTM_SETLINK, Refused, Rtnetlink, attribute, attributes

IFLA_XDP: Final = 43
XDP_FD, XDP_ATTACHED, XDP_FLAGS, XDP_PROG_ID, XDP_EXPECTED_FD = 1, 2, 3, 4, 8
FLAG_ONLY_IF_NONE, FLAG_GENERIC, FLAG_NATIVE, FLAG_REPLACE = 1, 2, 4, 16
NETLINK_GENERIC, GENERIC_CONTROL, CTRL_GET_FAMILY, CTRL_FAMILY_ID, CTRL_FAMILY_NAME = 16, 16, 3, 1, 2
NETDEV_DEV_GET, NETDEV_IFINDEX, NETDEV_XDP_FEATURES, NDO_XMIT = 1, 1, 3, 4
_LINK: Final = struct.Struct("=BxHiII")
_GENERIC: Final = struct.Struct("=BBxx")


class Mode(IntEnum):
    """Where a program runs; the values are the kernel's attach flags."""

    GENERIC = FLAG_GENERIC
    NATIVE = FLAG_NATIVE


@dataclass(frozen=True, slots=True)
class Attached:
    """The program on an interface: its id and mode; id 0 = none."""

    program: int
    mode: Mode | None


NOTHING: Final = Attached(0, None)


def interface_index(name: str) -> int:
    """The interface's number. Raises DatapathError when there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        here = ", ".join(each for _, each in socket.if_nameindex())
        raise DatapathError(f"interface {name!r} does not exist; there are: {here}") from None


def attached(index: int) -> Attached:
    """What is attached now. Raises DatapathError when the interface has gone."""
    with Rtnetlink() as netlink:
        answer = netlink.request(RTM_GETLINK, 0, _LINK.pack(0, 0, index, 0, 0))
    xdp = attributes(attributes(answer[_LINK.size :]).get(IFLA_XDP, b""))
    program = struct.unpack("=I", xdp[XDP_PROG_ID])[0] if XDP_PROG_ID in xdp else 0
    where = xdp.get(XDP_ATTACHED, b"\0")[0]
    return Attached(program, {1: Mode.NATIVE, 2: Mode.GENERIC}.get(where))


def takes_frames(index: int) -> bool:
    """Whether the driver sends what a native program of another interface redirects to it. True where the kernel can't tell (before 6.3).

    By the family "netdev" of generic netlink: NETDEV_CMD_DEV_GET, NETDEV_A_DEV_XDP_FEATURES, NETDEV_XDP_ACT_NDO_XMIT (linux/netdev.h).
    """
    with Rtnetlink(NETLINK_GENERIC) as netlink:
        try:
            name = attribute(CTRL_FAMILY_NAME, b"netdev\0")
            family = attributes(netlink.request(GENERIC_CONTROL, 0, _GENERIC.pack(CTRL_GET_FAMILY, 1) + name)[_GENERIC.size :])
            (number,) = struct.unpack("=H", family[CTRL_FAMILY_ID])
            asked = _GENERIC.pack(NETDEV_DEV_GET, 1) + attribute(NETDEV_IFINDEX, struct.pack("=I", index))
            told = attributes(netlink.request(number, 0, asked)[_GENERIC.size :])
        except (Refused, KeyError):
            return True
    features = told.get(NETDEV_XDP_FEATURES)
    return features is None or bool(int.from_bytes(features, sys.byteorder) & NDO_XMIT)


def attach(index: int, descriptor: int, mode: Mode, expected: int | None = None) -> None:
    """Put the program in place of `expected` (a descriptor), or where there is none. Raises DatapathError with the kernel's word."""
    flags = mode | (FLAG_ONLY_IF_NONE if expected is None else FLAG_REPLACE)
    _set(index, descriptor, flags, expected)


def detach(index: int, mode: Mode, expected: int) -> None:
    """Take the program `expected` (a descriptor) off. Raises DatapathError when it is another by now."""
    _set(index, -1, mode | FLAG_REPLACE, expected)


def _set(index: int, descriptor: int, flags: int, expected: int | None) -> None:
    content = attribute(XDP_FD, struct.pack("=i", descriptor)) + attribute(XDP_FLAGS, struct.pack("=I", flags))
    if expected is not None:
        content += attribute(XDP_EXPECTED_FD, struct.pack("=i", expected))
    with Rtnetlink() as netlink:
        netlink.request(RTM_SETLINK, ACK, _LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_XDP | NESTED, content))
