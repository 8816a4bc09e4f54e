"""The main thing: datagrams both ways through any number of relays, whoever speaks first, and nothing left afterwards."""

from __future__ import annotations

import socket

import pytest

from chainrelay.errors import Refusal
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from e2e.chain import Chain
from lab.kernel import endpoints

pytestmark = pytest.mark.root

HEADERS = {4: 28, 6: 48}
LONG = pytest.mark.long


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("hops", [0, 1, 2, 3, pytest.param(5, marks=LONG)])
def test_both_ways_and_nothing_left(hops: int, family: int) -> None:
    with Chain(hops, (family,)) as chain, chain.server(family) as server:
        with chain.open(server) as call:
            call.proves_flow(server_first=True)
            call.proves_flow(server_first=False)
            counters = call.close()
        octets = 40 * (100 + HEADERS[family])
        assert [each.hop for each in counters] == [each.name for each in chain.firewalls]
        counted = {
            (each.to_server_packets, each.to_server_bytes, each.to_client_packets, each.to_client_bytes) for each in counters
        }
        assert counted == ({(40, octets, 40, octets)} if hops else set())
        assert chain.leftovers() == {}


@pytest.mark.parametrize("server_first", [True, False])
@pytest.mark.parametrize("family", [4, 6])
def test_whoever_speaks_first(two: Chain, family: int, server_first: bool) -> None:
    with two.server(family) as server, two.open(server) as call:
        call.proves_flow(server_first=server_first)


@pytest.mark.parametrize("family", [4, 6])
def test_endpoints_are_those_of_the_kernels(two: Chain, family: int) -> None:
    with two.server(family) as server, two.open(server) as call:
        points = endpoints(two.firewalls, call.session.local, call.session.entry)
        assert points[-2:] == [call.session.exit, server.endpoint]
        assert call.visitor.peer == call.session.exit
        owners = [two.row.client_end, *(end for each in two.firewalls for end in (each.left, each.right)), two.row.server_end]
        assert [point.address for point in points] == [end.address(family) for end in owners]


@pytest.mark.parametrize("family", [4, 6])
def test_a_pair_is_an_even_port_and_the_next(two: Chain, family: int) -> None:
    with two.server(family, components=2) as server, two.open(server) as call:
        assert [end.port % 2 for end in (call.session.local, call.session.entry, call.session.exit)] == [0, 0, 0]
        call.proves_flow(component=0)
        call.proves_flow(component=1)


@pytest.mark.parametrize("family", [4, 6])
def test_tcp_leaves_by_the_same_exit_address(two: Chain, family: int) -> None:
    with two.server(family) as server, two.open(server) as datagrams:
        exit_address = datagrams.session.exit.address
    with two.server(family, protocol=Protocol.TCP) as server, two.row.server.enter():
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        listener = socket.create_server((str(server.address), server.endpoint.port), family=kind)
        with listener, two.open(server) as stream:
            accepted, remote = listener.accept()
            with accepted:
                assert Endpoint.parse(f"[{remote[0]}]:{remote[1]}" if family == 6 else f"{remote[0]}:{remote[1]}") == stream.session.exit
                assert stream.session.exit.address == exit_address
                accepted.settimeout(5)
                accepted.sendall(b"from the server")
                two.client_loop.call(lambda: _send(stream.session.socket, b"from the client"))
                assert accepted.recv(100) == b"from the client"
                assert two.client_loop.call(lambda: _receive(stream.session.socket)) == b"from the server"


def test_many_sessions_keep_apart(two: Chain) -> None:
    with two.server(4) as server:
        calls = [two.open(server) for _ in range(5)]
        try:
            assert len({each.session.exit for each in calls}) == 5
            for call in calls:
                call.proves_flow(count=5)
        finally:
            for call in calls:
                call.close()
    assert two.leftovers() == {}


def test_ports_before_the_servers_endpoint_is_known(two: Chain) -> None:
    """RTSP and SIP: P5 is told at once, nothing flows before BIND, everything after (M10, reserve)."""
    with two.server(4) as server:
        session = two.client_loop.call(lambda: two.client.reserve(str(server.address)))
        try:
            far = server.ports[0]
            far.send(session.exit, b"too early")
            assert two.leftovers() == {}
            two.client_loop.call(lambda: session.bind(str(server.endpoint)))
            far.send(session.exit, b"in time")
            assert two.client_loop.call(lambda: _receive(session.socket)) == b"in time"
        finally:
            two.close_session(session)


def test_a_name_is_resolved_by_the_last_relay() -> None:
    """The client has no view of the far side's names (M19)."""
    with Chain(2, (4,)) as chain, chain.server(4) as server:
        last = chain.relays.agents[1]
        last.stop()
        last.host.know({"camera.example": str(server.address)})
        last.start()
        named = chain.client_loop.call(lambda: chain.client.open_to(f"camera.example:{server.endpoint.port}"))
        try:
            server.ports[0].send(named.exit, b"by name")
            assert chain.client_loop.call(lambda: _receive(named.socket)) == b"by name"
        finally:
            chain.close_session(named)
        with pytest.raises(Refusal, match="name-not-resolved") as caught:
            chain.client_loop.call(lambda: chain.client.open_to("nobody.example:5004"))
        assert caught.value.hop == "fw2"


async def _send(sock: socket.socket, data: bytes) -> None:
    import asyncio

    await asyncio.get_running_loop().sock_sendall(sock, data)


async def _receive(sock: socket.socket) -> bytes:
    import asyncio

    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(sock, 2000)


@pytest.mark.parametrize(("family", "payload"), [(4, 1300 - 28), (6, 1300 - 48)])
def test_the_mtu_is_that_of_the_narrowest_link(family: int, payload: int) -> None:
    """A datagram of that size arrives; of one octet more the sender hears (path MTU discovery), as without relays."""
    with Chain(2, (family,)) as chain, chain.server(family) as server:
        narrow = chain.firewalls[0].right
        narrow.host.run(["ip", "link", "set", narrow.name, "mtu", "1300"])
        with chain.open(server) as call:
            assert call.session.mtu == payload
            call.session.socket.send(bytes(payload))
            received = call.far.receive()
            assert received is not None
            assert len(received[0]) == payload
            call.session.socket.send(bytes(payload + 1))
            assert call.far.receive(0.3) is None
            with pytest.raises(OSError, match="Message too long"):
                call.session.socket.send(bytes(payload + 1))
