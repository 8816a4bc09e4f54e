"""The socket's own part: what an error means, how much goes out at once."""

from __future__ import annotations

import errno

import pytest

from chainrelay.errors import DatapathError
from chainrelay.privileged.netlink import ERROR, Message
from chainrelay.privileged.netlink_socket import _SEND, _chunks, raise_unless


def error(number: int) -> Message:
    return Message(ERROR, 0, 0, (-number).to_bytes(4, "little", signed=True))


def test_expected_and_acknowledged_pass() -> None:
    raise_unless(error(0), errno.ENOENT)
    raise_unless(error(errno.ENOENT), errno.ENOENT)


@pytest.mark.parametrize(("number", "said"), [(errno.EPERM, "CAP_NET_ADMIN"), (errno.EINVAL, "Invalid argument")])
def test_anything_else_is_an_error_that_tells(number: int, said: str) -> None:
    with pytest.raises(DatapathError, match=said):
        raise_unless(error(number), errno.ENOENT)


def test_requests_go_out_in_order_and_below_the_limit() -> None:
    requests = [bytes([n % 256]) * 76 for n in range(2000)]
    chunks = list(_chunks(requests))
    assert b"".join(chunks) == b"".join(requests)
    assert all(len(each) <= _SEND for each in chunks)
    assert len(chunks) == 3
    assert list(_chunks([])) == []
