"""A sealed session's keys against a row of relays that seals for real: order, comparisons, new keys under traffic, what is refused."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from chainrelay.client import Client, SealCounters, Session
from chainrelay.client import sealing as sealing_module
from chainrelay.client.leg import RelayedLeg
from chainrelay.errors import Code, Refusal
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Answer, Assigned, Bind, Close, Open, Opened, Rekey, Rekeyed, Way
from chainrelay.wire.sealed import SEALED_OVERHEAD
from unit.client.fake_relay import SERVER, run, until
from unit.client.sealed_chain import MTU, SealedChain, pair_key

ELSEWHERE = Endpoint.parse("127.0.0.9:20001")
WAYS = pytest.mark.parametrize("way", list(Way), ids=lambda way: way.name.lower())
HOPS = pytest.mark.parametrize("hops", [1, 2, 3])


class Server:
    """P6."""

    def __init__(self, components: int = 1) -> None:
        while True:
            first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            first.bind((str(SERVER), 0))
            self.port = first.getsockname()[1]
            if components == 1 or self.port % 2 == 0:
                break
            first.close()
        self.sockets = [first]
        if components == 2:
            self.sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self.sockets[1].bind((str(SERVER), self.port + 1))
        for each in self.sockets:
            each.setblocking(False)

    @property
    def at(self) -> str:
        return f"{SERVER}:{self.port}"

    async def receive(self, component: int = 0) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sockets[component], 2048), 5)

    def send(self, data: bytes, session: Session, component: int = 0) -> None:
        self.sockets[component].sendto(data, (str(session.exit.address), session.exit.port + component))

    def close(self) -> None:
        for each in self.sockets:
            each.close()


Scenario = Callable[[SealedChain, Client, Server], Awaitable[None]]


def play(hops: int, way: Way, scenario: Scenario, *, components: int = 1, lease: int = 120) -> None:
    """A chain, its client, a server; nothing may be left behind."""

    async def scene() -> None:
        chain, server = SealedChain(hops, lease), Server(components)
        try:
            async with chain.owner(way) as owner:
                await scenario(chain, owner, server)
        finally:
            server.close()
        assert chain.sessions == {}
        assert chain.seals == {}

    run(scene())


async def talk(session: Session, server: Server, component: int = 0, text: bytes = b"sixteen octets..") -> None:
    """One datagram each way."""
    await session.send(text, component)
    assert await server.receive(component) == text
    server.send(text[::-1], session, component)
    assert await asyncio.wait_for(session.receive(component), 5) == text[::-1]


@WAYS
@HOPS
def test_a_sealed_session(hops: int, way: Way) -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            assert session.sealed
            assert session.relays == tuple(f"fw{k}" for k in range(1, hops + 1))
            assert session.mtu == MTU - SEALED_OVERHEAD
            await talk(session, server)
            assert [len(each) for each in chain.captured] == [16 + SEALED_OVERHEAD] * 2
            assert not any(b"octets" in each or b"stetco" in each for each in chain.captured)
            assert session.seal_counters == SealCounters(sealed=1, opened=1)
            (keys,) = chain.seal().keys
            assert keys.key_id[0] == 0xD0

    play(hops, way, scenario)


@WAYS
@HOPS
def test_the_key_comes_before_anything_is_forwarded(hops: int, way: Way) -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at):
            steps = [kind for _, kind in chain.order]
            assert steps.index(Rekey) < steps.index(Bind)
            assert chain.order[steps.index(Rekey)][0] == f"fw{hops}"
            first = chain.asked[0]
            assert isinstance(first, Open)
            assert first.sealed
            assert bool(first.server.port) == (way is Way.ITERATIVE)

    play(hops, way, scenario)


@WAYS
def test_two_components_share_the_key(way: Way) -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at, components=2) as session:
            await talk(session, server, 0)
            await talk(session, server, 1)
            assert [each[3] & 1 for each in chain.captured] == [0, 0, 1, 1]
            assert [int.from_bytes(each[4:12], "big") for each in chain.captured] == [0, 0, 1, 1]

    play(2, way, scenario, components=2)


@WAYS
@HOPS
def test_a_reserved_session_is_sealed_before_it_is_bound(hops: int, way: Way) -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.reserve(str(SERVER)) as session:
            assert len(chain.seal().keys) == 1
            assert session.exit == chain.sessions[session.id].exit
            await session.bind(server.at)
            assert session.mtu == MTU - SEALED_OVERHEAD
            await talk(session, server)

    play(hops, way, scenario)


# new keys ------------------------------------------------------------------------


@WAYS
@HOPS
def test_a_new_key_loses_nothing(hops: int, way: Way) -> None:
    """Both ends send all the time while keys change; every datagram arrives, once."""

    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            sent: list[list[bytes]] = [[], []]
            arrived: list[list[bytes]] = [[], []]
            over = asyncio.Event()

            async def under_way(direction: int) -> None:
                """Not more than the sockets on the way have room for: they may drop, and it is not their loss that is looked for."""
                await asyncio.sleep(0)
                if len(sent[direction]) - len(arrived[direction]) > 32:
                    await asyncio.sleep(0.002)

            async def from_client() -> None:
                for number in itertools.count():
                    if over.is_set():
                        return
                    sent[0].append(b"up %d" % number)
                    await session.send(sent[0][-1])
                    await under_way(0)

            async def from_server() -> None:
                for number in itertools.count():
                    if over.is_set():
                        return
                    sent[1].append(b"down %d" % number)
                    server.send(sent[1][-1], session)
                    await under_way(1)

            async def hear_client() -> None:
                while True:
                    arrived[0].append(await server.receive())

            async def hear_server() -> None:
                while True:
                    arrived[1].append(await session.receive())

            leg = session._leg
            assert isinstance(leg, RelayedLeg)
            assert leg._rekeying is not None
            senders = [asyncio.ensure_future(work()) for work in (from_client, from_server)]
            hearers = [asyncio.ensure_future(work()) for work in (hear_client, hear_server)]
            for _ in range(20):
                await leg._rekeying.rekey()
                await asyncio.sleep(0.002)
            over.set()
            await asyncio.gather(*senders)
            await until(lambda: [len(each) for each in arrived] == [len(each) for each in sent])
            for hearer in hearers:
                hearer.cancel()
            await asyncio.gather(*hearers, return_exceptions=True)
            assert arrived == sent
            assert len(chain.seal().keys) == chain.connections == 21, "one end-to-end connection per key"
            assert len({keys.open_key for keys in chain.seal().keys}) == 21
            assert [keys.key_id[0] & 15 for keys in chain.seal().keys] == [n % 16 for n in range(21)]
            counters = session.seal_counters
            assert (counters.sealed, counters.opened) == (len(sent[0]), len(sent[1]))
            assert counters.forged == counters.replayed == counters.unknown == 0

    play(hops, way, scenario)


@WAYS
def test_the_old_key_opens_nothing_after_the_overlap(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing_module, "SEAL_OVERLAP", 0.05)

    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            seal = chain.seal()
            old = seal._sealer
            assert old is not None
            await session._leg._rekeying.rekey()  # type: ignore[attr-defined]
            late = [old.seal(b"late", 0) for _ in range(2)]
            assert session.keys is not None
            assert session.keys.open(late[0]) == b"late"
            await asyncio.sleep(0.1)
            with pytest.raises(ValueError, match="no key"):
                session.keys.open(late[1])
            await talk(session, server)
            assert session.seal_counters == SealCounters(sealed=1, opened=2, unknown=1), "what the old key opened still counts"

    play(2, way, scenario)


@WAYS
@pytest.mark.parametrize("what", ["age", "datagrams"])
def test_a_key_is_renewed_in_time(what: str, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "age":
        monkeypatch.setattr(sealing_module, "SEAL_REKEY_AFTER", 0.1)
    else:
        monkeypatch.setattr(sealing_module, "SEAL_REKEY_DATAGRAMS", 3)

    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            leg = session._leg
            assert isinstance(leg, RelayedLeg)
            if what == "datagrams":
                for _ in range(3):
                    server.send(b"only the server speaks", session)
                    await session.receive()
                leg.look_now()  # otherwise within a third of the lease
            await until(lambda: len(chain.seal().keys) >= 2)
            await talk(session, server)

    play(2, way, scenario)


@WAYS
@HOPS
def test_keys_that_the_relay_lost_are_made_again(hops: int, way: Way) -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            chain.seal().lose()
            session._leg.look_now()  # type: ignore[attr-defined]
            await until(lambda: not chain.seal().keyless)
            await until(lambda: session.keys is not None and session.keys._sealer is not None and session.keys.used == 0)
            await talk(session, server)
            assert len([kind for _, kind in chain.order if kind is Open]) == (hops if way is Way.ITERATIVE else 1)

    play(hops, way, scenario)


@WAYS
def test_a_forgotten_session_gets_new_keys(way: Way) -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            (before,) = chain.seal().keys
            chain.forget(session.id)
            moved = asyncio.Event()
            session.on_moved = lambda _session: moved.set()
            session._leg.look_now()  # type: ignore[attr-defined]
            await asyncio.wait_for(moved.wait(), 5)
            (after,) = chain.seal().keys
            assert after.open_key != before.open_key
            assert after.key_id[0] == before.key_id[0] + 1, "the next epoch"
            await talk(session, server)

    play(2, way, scenario)


@WAYS
def test_a_rekey_that_fails_is_tried_again_and_the_old_key_stays(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing_module, "SEAL_REKEY_DATAGRAMS", 1)
    monkeypatch.setattr("chainrelay.client.leg.RENEW_RETRY", 0.01)

    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            chain.refuse[Rekey] = [Refusal(code, "said by the test") for code in (Code.UNEXPECTED, Code.DATAPATH_FULL, Code.INTERNAL)]
            await talk(session, server)
            session._leg.look_now()  # type: ignore[attr-defined]
            await until(lambda: not chain.refuse[Rekey])
            await talk(session, server)
            await until(lambda: len(chain.seal().keys) == 2)
            await until(lambda: session.keys is not None and session.keys.used == 0)
            await talk(session, server)

    play(2, way, scenario)


@WAYS
def test_a_rekey_whose_answer_was_lost_leaves_the_session_whole(way: Way) -> None:
    """The relay seals by a key of which the client never heard that it was taken."""

    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            rekeying = session._leg._rekeying  # type: ignore[attr-defined]

            def lose(_relay: str, answer: Answer) -> Answer:
                if isinstance(answer, Rekeyed):
                    raise Refusal(Code.NEXT_HOP_TIMEOUT, "lost")
                return answer

            chain.lie = lose
            with pytest.raises(Refusal, match="lost"):
                await rekeying.rekey()
            await talk(session, server)
            assert session.keys is not None and session.keys._sealer is not None
            assert session.keys._sealer.key_id == chain.seal().keys[-1].key_id, "the server's datagram was under it"
            chain.lie = lambda _relay, answer: answer
            await rekeying.rekey()
            await talk(session, server)
            assert len(chain.seal().keys) == 3

    play(2, way, scenario)


def test_a_rekey_that_the_relay_refuses_for_good_ends_the_session() -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            chain.refuse[Rekey] = [Refusal(Code.SEAL_NOT_AVAILABLE, "XDP is off by now")]
            chain.seal().lose()
            session._leg.look_now()  # type: ignore[attr-defined]
            with pytest.raises(Refusal, match="XDP is off") as ended:
                await asyncio.wait_for(session.ended(), 5)
            assert ended.value.code is Code.SEAL_NOT_AVAILABLE

    play(2, Way.RECURSIVE, scenario)


# who lies ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hops", "way", "field"),
    [
        (2, Way.RECURSIVE, "server_side"),
        (1, Way.RECURSIVE, "partner"), (1, Way.RECURSIVE, "client_side"), (1, Way.RECURSIVE, "server_side"),
        (2, Way.ITERATIVE, "partner"), (2, Way.ITERATIVE, "client_side"), (3, Way.ITERATIVE, "server_side"),
        (1, Way.ITERATIVE, "partner"), (1, Way.ITERATIVE, "client_side"), (1, Way.ITERATIVE, "server_side"),
    ],
)  # fmt: skip
def test_endpoints_that_differ_close_the_session(hops: int, way: Way, field: str) -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        chain.lie = lambda _relay, answer: replace(answer, **{field: ELSEWHERE}) if isinstance(answer, Rekeyed) else answer  # type: ignore[arg-type]
        with pytest.raises(Refusal, match=str(ELSEWHERE)) as refused:
            await owner.open_to(server.at)
        assert refused.value.code is Code.ANSWER_DENIED
        assert Close in [kind for _, kind in chain.order]
        assert Bind not in [kind for _, kind in chain.order]

    play(hops, way, scenario)


def test_an_exit_that_moved_under_a_standing_session_ends_it() -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        async with owner.open_to(server.at) as session:
            chain.lie = lambda _relay, answer: replace(answer, server_side=ELSEWHERE) if isinstance(answer, Rekeyed) else answer
            chain.seal().lose()
            session._leg.look_now()  # type: ignore[attr-defined]
            with pytest.raises(Refusal, match="lies"):
                await asyncio.wait_for(session.ended(), 5)
            assert chain.sessions == {}, "and closes it at the relays"

    play(2, Way.RECURSIVE, scenario)


@WAYS
def test_another_key_than_was_sent(way: Way) -> None:
    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        chain.lie = lambda _relay, answer: replace(answer, key_id=bytes.fromhex("d0000000")) if isinstance(answer, Rekeyed) else answer
        with pytest.raises(Refusal, match="another key"):
            await owner.open_to(server.at)

    play(2, way, scenario)


@WAYS
def test_a_chain_that_ends_somewhere_else(way: Way) -> None:
    """Relay 2, with whom the client has a key as well, says that it is the last one."""

    async def scenario(chain: SealedChain, owner: Client, server: Server) -> None:
        def lie(relay: str, answer: Answer) -> Answer:
            match answer:
                case Opened():
                    return replace(answer, path=("fw1", "fw2"))
                case Assigned() if relay == "fw2":
                    return replace(answer, next="")
            return answer

        chain.lie = lie
        with pytest.raises(Refusal, match=r"ends at fw2.*demands that fw3") as refused:
            await owner.open_to(server.at)
        assert refused.value.code is Code.ANSWER_DENIED
        assert Rekey not in [kind for _, kind in chain.order], "it gets no key"

    play(3, way, scenario)


@WAYS
def test_a_chain_that_goes_on_behind_the_last_relay(way: Way) -> None:
    async def scene() -> None:
        chain, server = SealedChain(3), Server()
        async with chain.owner(way, last="fw2") as owner:
            with pytest.raises(Refusal, match=r"ends at fw3.*demands that fw2"):
                await owner.open_to(server.at)
        assert chain.sessions == {}
        server.close()

    run(scene())


@WAYS
def test_last_counts_without_a_seal_as_well(way: Way) -> None:
    async def scene() -> None:
        chain, server = SealedChain(2), Server()
        async with chain.owner(way, last="fw1", seal=False) as owner:
            with pytest.raises(Refusal, match="demands that fw1"):
                await owner.open_to(server.at)
            async with chain.owner(way, seal=False).open_to(server.at) as plain:
                assert not plain.sealed
                assert plain.mtu == MTU
        server.close()

    run(scene())


@WAYS
def test_another_key_for_the_last_relay(way: Way) -> None:
    async def scene() -> None:
        chain, server = SealedChain(2), Server()
        async with chain.owner(way, fw2=replace(pair_key("fw2"), secret=bytes(32))) as owner:
            with pytest.raises(Refusal) as refused:
                await owner.open_to(server.at)
            assert refused.value.code is Code.NEXT_HOP_AUTHENTICATION
        assert chain.sessions == {}
        server.close()

    run(scene())
