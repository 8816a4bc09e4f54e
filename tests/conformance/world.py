"""What a scenario needs, over the fake or over a real relay between two hosts: send something, see what arrives, let time pass.

A `World` hides how packets come about: sockets in namespaces, or values handed to the fake. Addresses are the same in both.
For TCP "a packet" is a connection attempt; it arrives when the far side accepts it, and bytes go both ways.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar, Final

from chainrelay.datapath.fake import FakeBackend, Packet
from chainrelay.datapath.legacy_backend import LegacyBackend
from chainrelay.datapath.mapping import Mapping
from chainrelay.datapath.nft_backend import NftBackend
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.privileged.kernel import open_nft_backend
from chainrelay.privileged.legacy_kernel import open_legacy_backend
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Protocol
from lab import legacy, rulesets
from lab.datagrams import Port
from lab.row import Row

if TYPE_CHECKING:
    from chainrelay.datapath.backend import Backend

SILENCE: Final = 0.2  # seconds without an arrival that count as "nothing arrives", on a link that takes microseconds
ARRIVAL: Final = 10.0  # seconds for what does arrive, on a very busy machine


class Side(Enum):
    """Of the relay."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> Side:
        """The opposite one."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True)
class Arrival:
    """What a partner got: the tuple that it saw."""

    source: Endpoint
    destination: Endpoint
    payload: bytes


class World(ABC):
    """One relay with a client and a server."""

    backend: Backend

    def __init__(self, family: int) -> None:
        self.family = family
        self._serial = 0

    def address(self, side: Side, number: int) -> Address:
        """Number 1 is the client or the relay's server side, 2 the relay's client side or the server; 3 a bystander there."""
        link = 1 if side is Side.CLIENT else 2
        return ip_address(f"10.{link}.0.{number}" if self.family == 4 else f"fd00:{link}::{number}")

    def mapping(self, protocol: Protocol = Protocol.UDP, components: int = 1) -> Mapping:
        """A fresh mapping: no two of a world share a port."""
        self._serial += 2
        n = self._serial
        return Mapping(
            n.to_bytes(16, "big"),
            protocol,
            components,
            client_partner=Endpoint(self.address(Side.CLIENT, 1), 10000 + n),
            client_side=Endpoint(self.address(Side.CLIENT, 2), 20000 + n),
            server_side=Endpoint(self.address(Side.SERVER, 1), 25000 + n),
            server_partner=Endpoint(self.address(Side.SERVER, 2), 15000 + n),
        )

    @abstractmethod
    def listen(self, mapping: Mapping) -> None:
        """The partners of this mapping are ready to receive."""

    @abstractmethod
    def send(self, protocol: Protocol, side: Side, source: Endpoint, to: Endpoint, *, expect: bool) -> Arrival | None:
        """Send from a host on `side`; what arrived at the other side. `expect` only says how long to wait for it."""

    @abstractmethod
    def burst(self, mapping: Mapping, count: int) -> int:
        """Send `count` datagrams each way as fast as the sockets take them; how many arrived."""

    @abstractmethod
    def known(self, mapping: Mapping) -> int:
        """How many connections of this mapping the relay remembers."""

    @abstractmethod
    def let_pass(self, seconds: float) -> None:
        """Time passes."""

    @abstractmethod
    def setup(self) -> None:
        """backend.setup, where it belongs."""

    @abstractmethod
    def flush(self) -> None:
        """backend.flush_own, where it belongs."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""


class FakeWorld(World):
    """Over the in-memory fake."""

    def __init__(self, family: int) -> None:
        super().__init__(family)
        self.now = 1000.0
        self.fake = FakeBackend(clock=lambda: self.now)
        self.backend = self.fake
        self._partners: set[Endpoint] = set()

    def listen(self, mapping: Mapping) -> None:
        for to_server, to_client in mapping.flows():
            self._partners |= {to_server.source, to_client.source}

    def send(self, protocol: Protocol, side: Side, source: Endpoint, to: Endpoint, *, expect: bool) -> Arrival | None:  # noqa: ARG002
        out = self.fake.pass_packet(Packet(protocol, source, to, b"payload"))
        if not isinstance(out, Packet) or out.reset or out.destination not in self._partners:
            return None
        return Arrival(out.source, out.destination, out.payload)

    def burst(self, mapping: Mapping, count: int) -> int:
        arrived = 0
        for to_server, to_client in mapping.flows():
            for flow in (to_server, to_client):
                for _ in range(count):
                    arrived += self.send(flow.protocol, Side.CLIENT, flow.source, flow.destination, expect=True) is not None
        return arrived

    def known(self, mapping: Mapping) -> int:
        return sum(
            connection.source == mapping.server_side.next(offset)
            for connection in self.fake._connections.values()
            for offset in range(mapping.components)
        )

    def let_pass(self, seconds: float) -> None:
        self.now += seconds

    def setup(self) -> None:
        self.backend.setup()

    def flush(self) -> None:
        self.backend.flush_own()

    def close(self) -> None:
        self.backend.close()


class KernelWorld(World):
    """A real relay that an administrator looks after (forward policy drop, state rules, masquerade), in namespaces."""

    rules: ClassVar[rulesets.Rules] = "nftables"

    def __init__(self, family: int) -> None:
        super().__init__(family)
        self.row = Row(1, (family,), rules=self.rules)
        try:
            self.relay = self.row.firewalls[0]
            for side, end in ((Side.CLIENT, self.row.client_end), (Side.SERVER, self.row.server_end)):
                bystander = f"{self.address(side, 3)}/{24 if family == 4 else 64}"
                nodad = ["nodad"] if family == 6 else []
                end.host.run(["ip", "address", "add", bystander, "dev", end.name, *nodad])
            with self.relay.host.enter():
                self._static = self.open()
            self.backend: Backend = self._static
            self.setup()
        except BaseException:
            self.row.close()
            raise
        self.hosts = {Side.CLIENT: self.row.client, Side.SERVER: self.row.server}
        self._ports: dict[Endpoint, Port] = {}
        self._listeners: dict[Endpoint, socket.socket] = {}

    def open(self) -> NftBackend | LegacyBackend:
        """The backend, in the relay's namespace."""
        return open_nft_backend(Ruleset(Firewall.GUEST))

    def reconfigure(self, ruleset: Ruleset) -> None:
        """The backend's, where it belongs."""
        with self.relay.host.enter():
            self._static.reconfigure(ruleset)

    def administrators(self) -> str:
        """His rules, as his tools show them."""
        return self.relay.host.run(["nft", "-s", "list", "table", "inet", "admin"]).stdout

    def ours(self) -> list[str]:
        """Our tables, or chains, as the tools show them."""
        listed = self.relay.host.run(["nft", "list", "chains"]).stdout + self.relay.host.run(["nft", "list", "tables"]).stdout
        table = ""
        found = []
        for line in listed.splitlines():
            table = line if line.startswith("table") else table
            if "chainrelay" in table:
                found.append(line.strip())
        return found

    def lose_rules(self) -> None:
        """Somebody removes our rules."""
        self.relay.host.run(["nft", "delete", "table", "ip" if self.family == 4 else "ip6", "chainrelay"])

    def dismiss_administrator(self) -> None:
        """His rules go."""
        self.relay.host.run(["nft", "delete", "table", "inet", "admin"])

    def reload_administrator(self) -> None:
        """He loads his rules."""
        rulesets.load(self.relay.host, self.row.administrator(self.relay).ruleset())

    def listen(self, mapping: Mapping) -> None:
        for to_server, to_client in mapping.flows():
            for side, partner in ((Side.CLIENT, to_server.source), (Side.SERVER, to_client.source)):
                if mapping.protocol is Protocol.UDP:
                    self.port(side, partner)
                elif partner not in self._listeners:
                    self._listeners[partner] = self._stream(side, partner)
                    self._listeners[partner].listen()
                    self._listeners[partner].settimeout(ARRIVAL)

    def port(self, side: Side, endpoint: Endpoint) -> Port:
        """The UDP socket at `endpoint`, opened at first use."""
        if endpoint not in self._ports:
            self._ports[endpoint] = Port(self.hosts[side], endpoint.address, endpoint.port)
        return self._ports[endpoint]

    def send(self, protocol: Protocol, side: Side, source: Endpoint, to: Endpoint, *, expect: bool) -> Arrival | None:
        if protocol is Protocol.TCP:
            return self._connect(side, source, to, expect=expect)
        sender = self.port(side, source)
        others = [port for port in self._ports.values() if port is not sender]
        for port in others:
            port.drain()
        payload = time.monotonic_ns().to_bytes(8, "big")
        sender.send(to, payload)
        deadline = time.monotonic() + (ARRIVAL if expect else SILENCE)
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([port.socket for port in others], [], [], left)
            for port in others:
                if port.socket in ready:
                    for got, seen in port.drain():
                        if got == payload:
                            return Arrival(seen, port.endpoint, got)
        return None

    def burst(self, mapping: Mapping, count: int) -> int:
        arrived = 0
        for to_server, to_client in mapping.flows():
            client, server = self.port(Side.CLIENT, to_server.source), self.port(Side.SERVER, to_client.source)
            for sender, receiver, to in ((client, server, to_server.destination), (server, client, to_client.destination)):
                receiver.drain()
                for _ in range(count):
                    sender.send(to, b"burst")
                arrived += sum(receiver.receive(ARRIVAL) is not None for _ in range(count))
        return arrived

    def known(self, mapping: Mapping) -> int:
        ports = {side.port + offset for side in (mapping.client_side, mapping.server_side) for offset in range(mapping.components)}
        listed = self.relay.host.run(["conntrack", "-L", "-f", f"ipv{self.family}"]).stdout
        return sum(any(f"port={port} " in line for port in ports) for line in listed.splitlines())

    def let_pass(self, seconds: float) -> None:
        time.sleep(seconds)  # the kernel's clock is what is tested

    def setup(self) -> None:
        with self.relay.host.enter():
            self.backend.setup()

    def flush(self) -> None:
        with self.relay.host.enter():
            self.backend.flush_own()

    def connect(self, side: Side, source: Endpoint, to: Endpoint, listener: Endpoint) -> tuple[socket.socket, socket.socket]:
        """A TCP connection that stays: the connecting and the accepting socket."""
        near = self._stream(side, source)
        near.settimeout(ARRIVAL)
        near.connect((str(to.address), to.port))
        far, _ = self._listeners[listener].accept()
        return near, far

    def close(self) -> None:
        for port in self._ports.values():
            port.close()
        for listener in self._listeners.values():
            listener.close()
        self.backend.close()
        self.row.close()

    def _connect(self, side: Side, source: Endpoint, to: Endpoint, *, expect: bool) -> Arrival | None:
        with self._stream(side, source) as near:
            near.settimeout(ARRIVAL if expect else SILENCE)
            try:
                near.connect((str(to.address), to.port))
            except OSError:  # refused, reset or no answer
                return None
            near.sendall(b"payload")
            waiting, _, _ = select.select(list(self._listeners.values()), [], [], ARRIVAL)
            with waiting[0].accept()[0] as far:
                far.settimeout(ARRIVAL)
                payload = far.recv(100)
                far.sendall(b"answer")
                answer = near.recv(100)
                assert answer == b"answer"
                seen, own = far.getpeername(), far.getsockname()
                _abort(far)
                _abort(near)
        return Arrival(_endpoint(seen), _endpoint(own), payload)

    def _stream(self, side: Side, endpoint: Endpoint) -> socket.socket:
        with self.hosts[side].enter():
            made = socket.socket(socket.AF_INET if self.family == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        # one port listens and connects: either end may be first
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((str(endpoint.address), endpoint.port))
        return made


class LegacyWorld(KernelWorld):
    """The same, with everybody's rules in the legacy tables."""

    rules = "iptables-legacy"

    def open(self) -> LegacyBackend:
        return open_legacy_backend(Ruleset(Firewall.GUEST))

    def administrators(self) -> str:
        return "\n".join(legacy.saved(self.relay.host, ours=False))

    def ours(self) -> list[str]:
        return legacy.saved(self.relay.host, ours=True) + legacy.sets(self.relay.host)

    def lose_rules(self) -> None:
        """He restores his tables without --noflush."""
        command = legacy.COMMANDS[self.family]
        for table in ("mangle", "nat"):
            self.relay.host.run([f"{command}-restore", "--wait"], stdin=f"*{table}\nCOMMIT\n")
        self.reload_administrator()

    def dismiss_administrator(self) -> None:
        legacy.unload(self.relay.host)


def _abort(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT at the port


def _endpoint(name: tuple[str, int]) -> Endpoint:
    return Endpoint(ip_address(name[0]), name[1])
