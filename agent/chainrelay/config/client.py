"""A client's or a server's directory (client.toml, and what there is of routes, peers and access) -> ClientConfig."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from chainrelay import limits
from chainrelay.config.access import read_access
from chainrelay.config.files import read_file
from chainrelay.config.kinds import Boolean, EndpointKind, Identifier, Integer
from chainrelay.config.peers import Partners, read_peers
from chainrelay.config.problems import Problems
from chainrelay.config.routes import read_client_routes
from chainrelay.config.schema import Key, Schema, Values, nearest
from chainrelay.session.tables import AnswerTable, PeerTable, RouteTable
from chainrelay.wire.endpoint import Endpoint

_NO_ID: str | None = None

ID = Key("id", Identifier(), "own id, the one in the peers.toml of relay 1")
USER = Key("user", Identifier(), "user on whose behalf sessions are opened", _NO_ID, "the id")
LEASE = Key(
    "lease",
    Integer(0, limits.LEASE_LONGEST, "seconds"),
    "lease to ask for; 0: what the relay gives",
    0,
)
LISTEN = Key(
    "listen",
    EndpointKind(limits.OFFER_PORT),
    "server half: where clients connect",
    Endpoint(IPv4Address(0), limits.OFFER_PORT),
    f'"0.0.0.0:{limits.OFFER_PORT}"',
)
SERVER = Key("server", Identifier(), "client half: id of the server in peers.toml; its key is then demanded", _NO_ID, "none")
AUTHENTICATE = Key(
    "authenticate",
    Boolean(),
    "server half: only clients that have a key in peers.toml",
    False,
    "false",
)
CONTROL = Key(
    "control",
    Schema("control", (LISTEN, AUTHENTICATE, SERVER)),
    "The connection between client and server (M1, M7, M15).",
)
CLIENT = Schema("client.toml", (ID, USER, LEASE, CONTROL))


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Everything that a client, or a server's half of the control connection, is told by its files."""

    id: str
    user: str
    lease: int
    """Seconds to ask for; 0 = the relay's default."""
    listen: Endpoint
    """Server half: where it listens for clients."""
    authenticate: bool
    """Server half: whether a client must have a key of `peers`."""
    server: str | None
    """Client half: the peer whose key the server must have; None = no authentication of the server."""
    routes: RouteTable
    peers: PeerTable
    answers: AnswerTable


def load_client(directory: Path) -> ClientConfig:
    """Read a client's directory; only client.toml must be there. Raises ConfigErrors with everything that is wrong."""
    problems = Problems()
    config = read_client(directory, problems)
    problems.raise_errors()
    assert config is not None, "no error, so there is a configuration"
    return config


def read_client(directory: Path, problems: Problems) -> ClientConfig | None:
    """The same, with everything that is wrong, warnings too, put into `problems`; None if there are errors."""
    values = read_file(directory, CLIENT, problems)
    peers, partners = read_peers(directory, problems, values.get(ID), optional=True)
    routes = read_client_routes(directory, problems, partners, peers)
    _, answers = read_access(directory, problems, partners, optional=True)
    control = values.get(CONTROL)
    server = control.get(SERVER) if control else None
    if control and server is not None:
        _expect_peer(control, partners, server)
    if control and control.get(AUTHENTICATE) and partners.certain and not partners.kinds:
        control.at(AUTHENTICATE).wrong("there is no peer in peers.toml, so no client could connect", "add [[peer]] rows")
    if problems.errors or control is None:
        return None
    return ClientConfig(
        id=values[ID],
        user=values[USER] or values[ID],
        lease=values[LEASE],
        listen=control[LISTEN],
        authenticate=control[AUTHENTICATE],
        server=server,
        routes=routes,
        peers=peers,
        answers=answers,
    )


def _expect_peer(control: Values, partners: Partners, server: str) -> None:
    if partners.certain and server not in partners.kinds:
        mend = nearest(server, sorted(partners.kinds), "add a [[peer]] row with its key")
        control.at(SERVER).wrong(f"there is no peer {server!r} in peers.toml", mend)
