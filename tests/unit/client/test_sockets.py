"""P1's sockets: pairs, ports in use, foreign addresses, and what is dropped on connecting."""

from __future__ import annotations

import socket
import time
from ipaddress import IPv4Address, IPv6Address

import pytest

from chainrelay.client import sockets
from chainrelay.errors import Code, Refusal
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol

HERE = IPv4Address("127.0.0.1")


@pytest.mark.parametrize("address", [HERE, IPv6Address("::1")])
def test_a_pair_starts_even(address: IPv4Address | IPv6Address) -> None:
    for _ in range(50):
        pair = sockets.bind(Protocol.UDP, address, 0, 2)
        first, second = (sockets.local_endpoint(sock) for sock in pair)
        assert first.port % 2 == 0
        assert second == first.next(1)
        assert not any(sock.getblocking() for sock in pair)
        sockets.close(pair)


def test_a_port_in_use_and_an_address_that_is_not_ours() -> None:
    taken = sockets.bind(Protocol.UDP, HERE, 0, 2)
    port = sockets.local_endpoint(taken[0]).port
    for components in (1, 2):
        with pytest.raises(Refusal) as caught:
            sockets.bind(Protocol.UDP, HERE, port, components)
        assert caught.value.code is Code.ENDPOINT_IN_USE
    taken[0].close()
    with pytest.raises(Refusal) as caught:
        sockets.bind(Protocol.UDP, HERE, port, 2)
    assert caught.value.code is Code.ENDPOINT_IN_USE, "the second of the pair is taken"
    sockets.close(taken)
    with pytest.raises(Refusal) as caught:
        sockets.bind(Protocol.UDP, IPv4Address("192.0.2.1"), 0, 1)
    assert caught.value.code is Code.NOT_PARTNERS_ADDRESS


def test_an_odd_port_is_no_pair() -> None:
    with pytest.raises(Refusal, match="even"):
        sockets.bind(Protocol.UDP, HERE, 41001, 2)


def test_only_the_entry_is_heard() -> None:
    mine = sockets.bind(Protocol.UDP, HERE, 0, 1)
    at = sockets.local_endpoint(mine[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as entry, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        entry.bind((str(HERE), 0))
        stranger.sendto(b"before", (str(at.address), at.port))
        sockets.connect_datagrams(mine, Endpoint(HERE, entry.getsockname()[1]))
        stranger.sendto(b"after", (str(at.address), at.port))
        entry.sendto(b"wanted", (str(at.address), at.port))
        mine[0].settimeout(5)
        assert mine[0].recv(100) == b"wanted"
        mine[0].setblocking(False)
        time.sleep(0.05)
        with pytest.raises(BlockingIOError):
            mine[0].recv(100)
    sockets.close(mine)


def test_datagram_sockets_have_more_room_than_the_kernel_gives_by_itself() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        usual = plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    (bound,) = sockets.bind(Protocol.UDP, HERE, 0, 1)
    assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > usual
    sockets.close([bound])
