"""Requests packed by hand: attributes, and the kernel's refusal in its own words."""

from __future__ import annotations

import errno
import struct

import pytest

from chainrelay.privileged.rtnetlink import ACK, RTM_GETLINK, RTM_NEWNEIGH, Refused, Rtnetlink, attribute, attributes

LINK = struct.Struct("=BxHiII")


def test_attributes_come_back_padded_or_not() -> None:
    octets = attribute(1, b"a") + attribute(2 | 0x8000, b"four") + attribute(3, b"")
    assert len(octets) % 4 == 0
    assert attributes(octets) == {1: b"a", 2: b"four", 3: b""}
    assert attributes(b"\x00\x00\x01\x00") == {}


def test_an_answer_and_a_refusal() -> None:
    with Rtnetlink() as netlink:
        answer = netlink.request(RTM_GETLINK, 0, LINK.pack(0, 0, 1, 0, 0))
        assert attributes(answer[LINK.size :])[3] == b"lo\0"
        with pytest.raises(Refused) as refused:
            netlink.request(RTM_GETLINK, 0, LINK.pack(0, 0, 2**30, 0, 0))
    assert refused.value.number == errno.ENODEV


@pytest.mark.root
def test_the_kernels_words_are_in_the_error() -> None:
    with Rtnetlink() as netlink, pytest.raises(Refused, match=r"Invalid argument \(.+\)"):
        netlink.request(RTM_NEWNEIGH, ACK, bytes(12))
