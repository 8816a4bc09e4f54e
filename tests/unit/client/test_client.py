"""The whole flow: a real Offering, a real client, and a relay in between that forwards over loopback; and without a relay."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import operator
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network

import pytest

from chainrelay import client
from chainrelay.client import TCP, UDP, Offering, Visitor
from chainrelay.client.client import parse_server
from chainrelay.errors import Code, Refusal
from chainrelay.session.tables import DIRECT, Route
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import Close, Offer, Open, Protocol, Renew, Way
from unit.client.fake_relay import CLIENT, EXIT, HOP, SERVER, FakeRelay, config, run, until
from unit.client.sealed_chain import SealedChain


class Service:
    """A server's program: an Offering whose handler echoes at P6."""

    def __init__(self, protocol: Protocol = UDP, components: int = 1) -> None:
        self.protocol, self.components = protocol, components
        self.visitors: list[Visitor] = []
        self.left: list[Visitor] = []
        kind = socket.SOCK_DGRAM if protocol is UDP else socket.SOCK_STREAM
        while True:
            self.sockets = [socket.socket(socket.AF_INET, kind)]
            self.sockets[0].bind((str(SERVER), 0))
            self.port = self.sockets[0].getsockname()[1]
            if components == 1:
                break
            with contextlib.suppress(OSError):
                if self.port % 2 == 0:
                    self.sockets.append(socket.socket(socket.AF_INET, kind))
                    self.sockets[1].bind((str(SERVER), self.port + 1))
                    break
            for each in self.sockets:
                each.close()
        for each in self.sockets:
            each.setblocking(False)

    async def serve(self, visitor: Visitor) -> None:
        self.visitors.append(visitor)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.left.append(visitor)

    @contextlib.asynccontextmanager
    async def open(self, port: int = 0) -> AsyncIterator[str]:
        offering = Offering(
            Endpoint(SERVER, port), self.serve, ports=[self.port], protocol=self.protocol, components=self.components
        )
        async with offering:
            yield str(offering.listening)
        for each in self.sockets:
            each.close()

    async def receive(self, component: int = 0) -> tuple[bytes, tuple[str, int]]:
        return await asyncio.get_running_loop().sock_recvfrom(self.sockets[component], 2048)

    async def send(self, data: bytes, to: Endpoint, component: int = 0) -> None:
        await asyncio.get_running_loop().sock_sendto(
            self.sockets[component], data, (str(to.address), to.port + component)
        )


async def talk(session: client.Session, service: Service, component: int = 0) -> None:
    """One datagram each way; the server sees the exit, the client the entry."""
    loop = asyncio.get_running_loop()
    sock = session.sockets[component]
    await loop.sock_sendall(sock, b"ping")
    data, sender = await asyncio.wait_for(service.receive(component), 5)
    assert data == b"ping"
    assert sender == (str(session.exit.address), session.exit.port + component)
    await service.send(b"pong", session.exit, component)
    assert await asyncio.wait_for(loop.sock_recv(sock, 2048), 5) == b"pong"


def test_direct_takes_the_same_call_and_the_same_exchange() -> None:
    async def scenario() -> None:
        service = Service()
        async with service.open() as at, client.Client(config(Route("*", DIRECT))) as owner, owner.open(at) as session:
            assert service.visitors[0].peer == session.exit == session.local
            assert session.entry == Endpoint(SERVER, service.port)
            assert session.mtu > 1000
            assert await session.counters() == ()
            await talk(session, service)
            await session.close()
            await until(lambda: len(service.left) == 1)

    run(scenario())


def test_through_a_relay_the_server_is_told_the_exit() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        async with service.open() as at, relay.client() as owner:
            session = await owner.open(at, protocol=UDP, components=1)
            assert session.exit.address == EXIT
            assert service.visitors == [Visitor(session.id, session.exit, session_peer(session), "")]
            assert session.local.address == CLIENT
            assert session.mtu == 1400
            await talk(session, service)
            assert [hop.to_server_packets for hop in await session.counters()] == [1]
            counters = await session.close()
            assert [(hop.hop, hop.to_server_packets, hop.to_client_packets) for hop in counters] == [("fw1", 1, 1)]
            assert await session.close() == counters
            assert relay.sessions == {}, "the TCP session of the control connection is closed as well"
            await until(lambda: len(service.left) == 1)

    run(scenario())


def session_peer(session: client.Session) -> Endpoint:
    assert not isinstance(session.peer.host, str)
    return Endpoint(session.peer.host, session.peer.port)


def test_the_server_may_speak_first_and_strangers_are_not_heard() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        async with service.open() as at, relay.client() as owner, owner.open(at) as session:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(b"stranger", (str(session.local.address), session.local.port))
            await service.send(b"first", session.exit)
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(session.socket, 2048), 5) == b"first"

    run(scenario())


def test_a_pair_of_components() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service(components=2)
        async with service.open() as at, relay.client() as owner, owner.open(at) as session:
            assert session.local.port % 2 == 0
            assert [each.getsockname()[1] - session.local.port for each in session.sockets] == [0, 1]
            await talk(session, service, 0)
            await talk(session, service, 1)

    run(scenario())


def test_a_tcp_session_is_connected_even_if_the_program_starts_late() -> None:
    async def scenario() -> None:
        service = Service(TCP)

        async def late(visitor: Visitor) -> None:
            await asyncio.sleep(0.3)
            service.sockets[0].listen()
            accepted, sender = await asyncio.get_running_loop().sock_accept(service.sockets[0])
            assert sender == (str(visitor.peer.address), visitor.peer.port)
            with accepted:
                await asyncio.get_running_loop().sock_sendall(accepted, b"welcome")

        service.serve = late  # type: ignore[method-assign]
        async with service.open() as at, client.Client(config()) as owner, owner.open(at) as session:
            assert session.protocol is TCP
            assert await asyncio.get_running_loop().sock_recv(session.socket, 100) == b"welcome"

    run(scenario())


def test_open_to_a_known_endpoint_asks_no_server() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        async with relay.client() as owner, owner.open_to(f"{SERVER}:{service.port}") as session:
            await talk(session, service)
            assert relay.count(Open) == 1
        for each in service.sockets:
            each.close()

    run(scenario())


def test_nobody_guesses_a_sessions_id_from_others() -> None:
    """16 octets, of which no two ids share more than a few by chance: neither counted nor made of the time."""

    async def scenario() -> None:
        async with FakeRelay().client() as owner:
            ids = []
            for _ in range(8):
                async with owner.reserve(str(SERVER)) as session:
                    ids.append(session.id)
            assert {len(each) for each in ids} == {16}
            assert all(sum(map(operator.eq, one, other)) < 6 for one, other in itertools.combinations(ids, 2))

    run(scenario())


@pytest.mark.parametrize("direct", [True, False])
def test_reserve_tells_the_exit_before_the_server_is_known(*, direct: bool) -> None:
    async def scenario() -> None:
        service = Service()
        owner = client.Client(config(Route("*", DIRECT))) if direct else FakeRelay().client()
        async with owner, owner.reserve(str(SERVER)) as session:
            announced = session.exit
            await session.bind(f"{SERVER}:{service.port}")
            assert session.exit == announced
            assert session.peer == Target(SERVER, service.port)
            await talk(session, service)
        for each in service.sockets:
            each.close()

    run(scenario())


def test_p1_for_another_program() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        async with service.open() as at, relay.client() as owner:
            async with owner.open(at, sockets=False) as session:
                assert session.sockets == []
                with pytest.raises(Refusal, match="another program"):
                    _ = session.socket
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
                    theirs.bind((str(session.local.address), session.local.port))
            async with owner.open(at, sockets=False, local=41000) as session:
                assert session.local == Endpoint(CLIENT, 41000)

    run(scenario())


def test_what_was_not_asked_for_is_refused_before_anything_is_opened() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        async with service.open() as at, relay.client() as owner:
            for wish in ({"protocol": TCP}, {"components": 2}):
                with pytest.raises(Refusal, match="not what was asked for"):
                    await owner.open(at, **wish)
            assert relay.sessions == {}
            assert all(message.protocol is TCP for message in relay.asked if isinstance(message, Open))

    run(scenario())


def test_a_refusal_in_the_middle_leaves_nothing() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        async with service.open() as at, relay.client() as owner:
            refusal = Refusal(Code.ACCESS_DENIED, "no row", "fw2")
            asked = owner._establish

            async def establish(*args: object) -> client.Session:
                if args[2] is UDP:
                    relay.refuse[Open] = [refusal]
                return await asked(*args)  # type: ignore[arg-type]

            owner._establish = establish  # type: ignore[method-assign, assignment]
            with pytest.raises(Refusal) as caught:
                await owner.open(at)
            assert (caught.value.code, caught.value.hop) == (Code.ACCESS_DENIED, "fw2")
            assert relay.sessions == {}
            assert service.visitors == []
            owner._establish = asked  # type: ignore[method-assign]
            async with owner.open(at) as session:  # the server's only port is free again
                await talk(session, service)

    run(scenario())


def test_an_entry_elsewhere_than_at_the_relay_is_denied_and_given_back() -> None:
    async def scenario() -> None:
        relay = FakeRelay()
        relay.entry_address = IPv4Address("127.0.0.9")
        async with relay.client() as owner:
            with pytest.raises(Refusal) as caught:
                await owner.open_to("127.0.0.4:5004")
            assert caught.value.code is Code.ANSWER_DENIED
            assert relay.count(Close) == 1
            assert relay.sessions == {}

    run(scenario())


def test_no_route_says_which_file_to_edit() -> None:
    async def scenario() -> None:
        async with client.Client(config(Route(".example.org", HOP))) as owner:
            with pytest.raises(Refusal, match=r"routes\.toml") as caught:
                await owner.open_to("10.0.0.1:5004")
            assert caught.value.code is Code.NO_ROUTE

    run(scenario())


def test_a_server_may_not_offer_a_third_party() -> None:
    check = client.client.ServerCheck("", ())
    offer = Offer(UDP, 1, Endpoint(IPv4Address("198.51.100.1"), 5004))
    with pytest.raises(Refusal) as caught:
        check.offer(offer, Target(SERVER, 9799), None, None)
    assert caught.value.code is Code.ANSWER_DENIED
    check.offer(offer, Target("server.example", 9799), None, None)
    client.client.ServerCheck("", (IPv4Network("198.51.100.0/24"),)).offer(offer, Target(SERVER, 9799), None, None)


def test_the_session_survives_its_control_connection() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        async with service.open() as at, relay.client() as owner, owner.open(at) as session:
            control = next(each for name, each in relay.sessions.items() if name != session.id)
            control.cut()
            await until(lambda: relay.count(Open) == 3)  # a TCP session of its own for the next control connection
            await talk(session, service)
            await asyncio.sleep(0.1)
            assert len(service.visitors) == 1
            assert service.left == [], "the server has recognised the session"

    run(scenario())


def test_a_relay_that_forgot_gets_the_same_session_again_and_the_server_the_new_exit() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        moved: list[Endpoint] = []
        async with service.open() as at, relay.client() as owner, owner.open(at) as session:
            session.on_moved = lambda it: moved.append(it.exit)
            before = session.exit
            relay.forget(session.id)
            assert relay.on_lost is not None
            relay.on_lost()
            await until(lambda: len(service.visitors) == 2)
            assert moved == [session.exit]
            assert session.exit != before
            assert service.visitors[1].peer == session.exit
            assert service.visitors[1].session == session.id
            assert service.left == [service.visitors[0]], "the handler was started anew for the new exit"
            await talk(session, service)

    run(scenario())


def test_a_session_that_is_withdrawn_says_so() -> None:
    async def scenario() -> None:
        relay, service = FakeRelay(), Service()
        async with service.open() as at, relay.client() as owner, owner.open(at) as session:
            relay.refuse[Renew] = [Refusal(Code.REVOKED, "key withdrawn", "fw1")] * 2
            assert relay.on_lost is not None
            relay.on_lost()
            with pytest.raises(Refusal) as caught:
                await asyncio.wait_for(session.ended(), 5)
            assert caught.value.code is Code.REVOKED

    run(scenario())


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("server.example", Target("server.example", 9799)),
        ("Server.Example:80", Target("server.example", 80)),
        ("192.0.2.1", Target(IPv4Address("192.0.2.1"), 9799)),
        ("[2001:db8::1]:80", Target.parse("[2001:db8::1]:80")),
        ("2001:db8::1", Target.parse("[2001:db8::1]:9799")),
    ],
)
def test_servers_as_people_write_them(text: str, target: Target) -> None:
    assert parse_server(text) == target


@pytest.mark.parametrize("text", ["", "a:b", "host:0x10", "host:70000", "fe80::1%eth0"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match="is not a server"):
        parse_server(text)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda one: one.open_to("127.0.0.4:0"), "names no port"),
        (lambda one: one.open_to("127.0.0.4:5004", lease=-5), "lease is -5"),
        (lambda one: one.open_to("127.0.0.4:5004", lease=10**11), "lease is 100000000000"),
        (lambda one: one.open_to("127.0.0.4:5004", components=2, local=7001), "local port 7001 is odd"),
        (lambda one: one.reserve("127.0.0.4", components=2, local=7001), "local port 7001 is odd"),
        (lambda one: one.open_to("127.0.0.4:5004", protocol=TCP, components=2), "a TCP session has one"),
        (lambda one: one.open_to("127.0.0.4:5004", components=3), "components is 3"),
        (lambda one: one.open_to("127.0.0.4:5004", lease=1.5), "whole seconds"),
        (lambda one: one.open_to("127.0.0.4:5004", local=70000), "local port 70000 is none"),
        (lambda one: one.open("127.0.0.4:5004", local=-1), "local port -1 is none"),
        (lambda one: one.open_to("127.0.0.4:5004", protocol="udp"), "protocol is 'udp'"),
        (lambda one: one.open_to(f"{'x' * 300}:5004"), "neither an address nor a host name"),
        (lambda one: one.open("not_a_name"), "is not a server"),
    ],
)
def test_wrong_arguments_are_told_before_anything_happens(make: Callable[[client.Client], object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make(client.Client(config()))


def test_p1_and_the_server_are_of_one_family_without_a_relay_too() -> None:
    async def scenario() -> None:
        async with client.Client(config(Route("*", DIRECT))) as owner:
            with pytest.raises(Refusal, match="not of one address family") as caught:
                await owner.open_to("127.0.0.1:5004", local=Endpoint.parse("[::1]:7000"))
            assert caught.value.code is Code.MIXED_FAMILIES

    run(scenario())


# sealed, with the server's control connection -----------------------------------------


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("way", list(Way), ids=lambda way: way.name.lower())
def test_the_session_is_sealed_and_its_control_connection_is_not(way: Way, hops: int) -> None:
    async def scenario() -> None:
        chain, service = SealedChain(hops), Service(components=2)
        async with service.open() as at, chain.owner(way) as owner, owner.open(at) as session:
            assert {(each.protocol, each.sealed) for each in chain.asked if isinstance(each, Open)} == {(TCP, False), (UDP, True)}
            assert service.visitors[0].peer == session.exit
            for component in (0, 1):
                await service.send(b"the server first", session.exit, component)
                assert await asyncio.wait_for(session.receive(component), 5) == b"the server first"
                await session.send(b"and then the client", component)
                data, sender = await asyncio.wait_for(service.receive(component), 5)
                assert data == b"and then the client"
                assert sender == (str(session.exit.address), session.exit.port + component)
            assert not any(b"server" in each or b"client" in each for each in chain.captured)
        assert chain.sessions == {}

    run(scenario())


def test_a_server_that_offers_tcp_gets_no_sealed_session() -> None:
    async def scenario() -> None:
        chain, service = SealedChain(2), Service(TCP)
        async with service.open() as at, chain.owner(Way.RECURSIVE) as owner:
            with pytest.raises(Refusal, match="TCP session can't be sealed") as refused:
                await owner.open(at)
            assert refused.value.code is Code.SEAL_NOT_AVAILABLE
            assert chain.sessions == {}

    run(scenario())


def test_a_sealed_session_that_moves_tells_the_server_and_gets_new_keys() -> None:
    async def scenario() -> None:
        chain, service = SealedChain(2), Service()
        async with service.open() as at, chain.owner(Way.ITERATIVE) as owner, owner.open(at) as session:
            before = session.exit
            chain.forget(session.id)
            session._leg.look_now()  # type: ignore[attr-defined]
            await until(lambda: session.exit != before and any(visitor.peer == session.exit for visitor in service.visitors))
            await service.send(b"at the new exit", session.exit)
            assert await asyncio.wait_for(session.receive(), 5) == b"at the new exit"

    run(scenario())
