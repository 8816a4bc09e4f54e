"""A chain ready to use: a row with agents, the client library on the client, a server's offer on the server.

    with Chain(hops=2, families=(4,)) as chain, chain.server(4) as server, chain.open(server) as call:
        call.near ... call.far          # sockets at P1 and P6; call.session has the endpoints

`Call.proves_flow` sends numbered datagrams in one direction and demands each exactly once, from the right source.
"""

from __future__ import annotations

import asyncio
import json
import queue
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

from chainrelay.client import Client, Offering, Session, Visitor
from chainrelay.errors import ChainrelayError
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import HopCounters, Protocol
from lab import rulesets
from lab.datagrams import Port, Stream, Tally
from lab.host import Host
from lab.link import connect
from lab.loop import Loop
from lab.relays import Agent, Relays
from lab.remains import remains
from lab.row import Firewall, Row, links_for
from lab.tap import Taps

OFFER_PORT = 9799
SERVICE = 5004
LEAST_WAIT = 0.02  # seconds: a wait of none would be over before what has arrived was looked at


class Chain:
    """Row, agents, client and a place for servers. `wishes` are lab.configuration.Configuration's fields."""

    def __init__(
        self,
        hops: int,
        families: tuple[int, ...] = (4, 6),
        *,
        policy: rulesets.Policy = "drop",
        rules: rulesets.Rules = "nftables",
        filtered: tuple[int, ...] = (),
        tapped: bool = False,
        **wishes: Any,
    ) -> None:
        """`tapped`: between two relays stands a host where their wire can be captured (lab/tap.py)."""
        with ExitStack() as stack:
            links = links_for(wishes.get("xdp", "off"))
            self.taps = stack.enter_context(Taps())
            join = self.taps.join if tapped else connect
            self.row = stack.enter_context(Row(hops, families, policy=policy, rules=rules, filtered=filtered, join=join, **links))
            self.relays = stack.enter_context(Relays(self.row, **wishes))
            self.client_loop = stack.enter_context(Loop(self.row.client))
            self.server_loop = stack.enter_context(Loop(self.row.server))
            self.client = self.client_loop.call(self._make_client)
            stack.callback(self.client_loop.call, self.client.close)
            self._stack = stack.pop_all()

    async def _make_client(self) -> Client:
        return Client(self.relays.client_directory)

    @property
    def firewalls(self) -> list[Firewall]:
        """The row's."""
        return self.row.firewalls

    def server(self, family: int, *, components: int = 1, protocol: Protocol = Protocol.UDP, port: int = SERVICE) -> Server:
        """A server that offers `port`."""
        return Server(self, family, components, protocol, port)

    def open(self, server: Server, **wishes: Any) -> Call:
        """A session with `server` by its control address (M1 to M7). Raises Refusal."""
        control = str(server.control)
        session = self.client_loop.call(lambda: self.client.open(control, **wishes))
        return Call(self, session, server)

    def open_to(self, peer: Endpoint, **wishes: Any) -> Session:
        """A session with a known endpoint. Raises Refusal."""
        return self.client_loop.call(lambda: self.client.open_to(str(peer), **wishes))

    def close_session(self, session: Session) -> tuple[HopCounters, ...]:
        """CLOSE."""
        return self.client_loop.call(session.close)

    @contextmanager
    def fast_path_only(self, datagrams: int) -> Iterator[None]:
        """What happens within makes every relay's fast path forward exactly so many, and the rules of live sessions count no more."""
        before = [self._forwarded(agent) for agent in self.relays.agents]
        yield
        after = [self._forwarded(agent) for agent in self.relays.agents]
        for agent, (fast, slow), (fast_now, slow_now) in zip(self.relays.agents, before, after, strict=True):
            assert (fast_now - fast, slow_now - slow) == (datagrams, 0), f"{agent.host.name}: {agent.fast_path()}"

    @contextmanager
    def sealed_only(self, to_server: int, to_client: int) -> Iterator[None]:
        """Within, the last relay's program opens and seals exactly so many, the others' forward them, and rules count none."""
        last = self.relays.agents[-1]
        before = [self._counted(agent) for agent in self.relays.agents]
        yield
        for agent, earlier in zip(self.relays.agents, before, strict=True):
            grown = [now - then for now, then in zip(self._counted(agent), earlier, strict=True)]
            expected = [0, to_server, to_client, 0] if agent is last else [to_server + to_client, 0, 0, 0]
            assert grown == expected, f"{agent.host.name}: forwarded, opened, sealed, by the rules: {grown}; {agent.fast_path()}"

    def _counted(self, agent: Agent) -> list[int]:
        verdicts = agent.fast_path()["verdicts"]
        return [*(verdicts[name] for name in ("forwarded", "opened", "sealed")), slow_datagrams(agent.host)]

    def _forwarded(self, agent: Agent) -> tuple[int, int]:
        """By the fast path, by the rules."""
        return agent.fast_path()["verdicts"]["forwarded"], slow_datagrams(agent.host)

    def leftovers(self) -> dict[str, tuple[str, ...]]:
        """What the kernels hold of sessions, by relay; relays with nothing are not in it."""
        left = {each.name: remains(each.host).of_sessions for each in self.firewalls}
        return {name: lines for name, lines in left.items() if lines}

    def close(self) -> None:
        """Everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Server:
    """The server's half on the library: an offer, and a socket at P6 (two for a pair, none for TCP)."""

    def __init__(self, chain: Chain, family: int, components: int, protocol: Protocol, port: int) -> None:
        self._loop = chain.server_loop
        self.address = chain.row.server_end.address(family)
        self.endpoint = Endpoint(self.address, port)
        self.control = Endpoint(self.address, OFFER_PORT)
        self.visitors: queue.Queue[Visitor] = queue.Queue()
        offsets = range(components) if protocol is Protocol.UDP else ()
        self.ports = [Port(chain.row.server, self.address, port + offset) for offset in offsets]

        async def start() -> Offering:
            offering = Offering(self.control, self._serve, ports=[port], shared=True, protocol=protocol, components=components)
            return await offering.__aenter__()

        self._offering = self._loop.call(start)

    async def _serve(self, visitor: Visitor) -> None:
        self.visitors.put(visitor)
        await asyncio.get_running_loop().create_future()

    def close(self) -> None:
        """End the offer, close the sockets."""
        self._loop.call(lambda: self._offering.__aexit__(None, None, None))
        for port in self.ports:
            port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Call:
    """An open session with its sockets at both ends."""

    def __init__(self, chain: Chain, session: Session, server: Server) -> None:
        self.chain, self.session, self.server = chain, session, server
        self.nears: list[Port] = []
        if session.sealed:
            self.nears += [SealedPort(chain, session, component) for component in range(session.components)]
        else:
            self.nears += [Port.adopt(each) for each in session.sockets]
        self.visitor = server.visitors.get(timeout=5)

    @property
    def near(self) -> Port:
        """P1."""
        return self.nears[0]

    @property
    def far(self) -> Port:
        """P6."""
        return self.server.ports[0]

    def to_client(self, count: int = 20, component: int = 0) -> Tally:
        """Numbered datagrams from P6 to P5."""
        stream = Stream()
        stream.send(self.server.ports[component], self.visitor.peer.next(component), count)
        return stream.tally(self.nears[component])

    def to_server(self, count: int = 20, component: int = 0) -> Tally:
        """Numbered datagrams from P1 to P2."""
        stream = Stream()
        stream.send(self.nears[component], self.session.entry.next(component), count)
        return stream.tally(self.server.ports[component])

    def proves_flow(self, *, server_first: bool = True, count: int = 20, component: int = 0) -> None:
        """Both directions, every datagram once, from where the exchange said."""
        directions = [self.to_client, self.to_server] if server_first else [self.to_server, self.to_client]
        sources = {self.to_client: self.session.entry, self.to_server: self.session.exit}
        for send in directions:
            tally = send(count, component)
            found = (tally.lost, tally.duplicates, tally.foreign, tally.sources)
            assert found == (0, 0, 0, {sources[send].next(component)}), f"{send.__name__}: {found}\n{self.chain.relays.logs()}"

    def close(self) -> tuple[HopCounters, ...]:
        """CLOSE; closing again tells the same."""
        return self.chain.close_session(self.session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ChainrelayError):
            self.close()


class SealedPort(Port):
    """P1 of a sealed session: datagrams pass through the library, which seals and opens them on the client's loop."""

    def __init__(self, chain: Chain, session: Session, component: int) -> None:
        self._chain, self._session, self._component = chain, session, component
        self.socket = Port.adopt(session.bound[component]).socket

    def send(self, to: Endpoint, payload: bytes) -> None:
        """To the entry, the only one that it sends to."""
        assert to == self._session.entry.next(self._component)
        self._chain.client_loop.call(lambda: self._session.send(payload, self._component))

    def receive(self, timeout: float = 2.0) -> tuple[bytes, Endpoint] | None:
        """The next text. Its socket is connected, so it came from the entry."""

        async def within() -> bytes | None:
            try:
                return await asyncio.wait_for(self._session.receive(self._component), max(timeout, LEAST_WAIT))
            except TimeoutError:
                return None

        payload = self._chain.client_loop.call(within)
        return None if payload is None else (payload, self._session.entry.next(self._component))


def slow_datagrams(host: Host) -> int:
    """UDP that live elements of the rules have counted."""
    counted = 0
    for item in json.loads(host.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]:
        if "set" in item and item["set"]["name"] == "live":
            elements = [each["elem"] for each in item["set"].get("elem", ())]
            counted += sum(each["counter"]["packets"] for each in elements if "udp" in each["val"]["concat"])
    return counted


def stranger_label() -> bytes:
    """A payload that no stream has."""
    return secrets.token_bytes(32)
