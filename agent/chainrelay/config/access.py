"""access.toml (M21, and M16 for answers) -> AccessTable and AnswerTable."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from chainrelay.config.files import read_file
from chainrelay.config.kinds import Choice, Destination, Identifier, Integer, ListOf, NetworkKind, Ports
from chainrelay.config.peers import Partners
from chainrelay.config.problems import Problems
from chainrelay.config.schema import Key, Rows, Schema, Values, nearest
from chainrelay.session.prefixes import ANY_PORT, ANYWHERE, Prefix, Prefixes
from chainrelay.session.tables import EVERYBODY, AccessTable, Allow, AnswerRow, AnswerTable
from chainrelay.wire.messages import Protocol

_EVERYWHERE: tuple[Prefix, ...] = ANYWHERE.prefixes
_EVERY_DESTINATION: tuple[Prefix | str, ...] = (EVERYBODY,)
_EVERY_PROTOCOL: tuple[Protocol, ...] = (Protocol.UDP, Protocol.TCP)
_EVERY_PORT = '"1-65535"'


class Demand(Enum):
    """Whether an access row insists on something."""

    OPTIONAL = "optional"
    REQUIRED = "required"


USER = Key("user", Identifier(wildcard=True), 'the user; `"*"`: everybody')
SOURCE = Key("source", ListOf(NetworkKind()), "the client's own address", _EVERYWHERE, "anywhere")
SOURCE_PORTS = Key("source_ports", Ports(), "the client's port (P1)", ANY_PORT, _EVERY_PORT)
DESTINATION = Key(
    "destination",
    ListOf(Destination()),
    "the server: a prefix permits its resolved address, a name lets a relay before the last pass it on",
    _EVERY_DESTINATION,
    '"*"',
)
DESTINATION_PORTS = Key("destination_ports", Ports(), "the server's port (P6)", ANY_PORT, _EVERY_PORT)
PROTOCOL = Key(
    "protocol",
    ListOf(Choice({"udp": Protocol.UDP, "tcp": Protocol.TCP})),
    "what may be relayed",
    _EVERY_PROTOCOL,
    '["udp", "tcp"]',
)
SESSIONS = Key("sessions", Integer(0, 1_000_000), "sessions at once, per user; 0: no limit of its own", 0, "0")
OPENS = Key("opens_per_second", Integer(0, 1_000_000), "new sessions per second, per user; 0: no limit", 0, "0")
DEMAND = Choice({each.value: each for each in Demand})
SEAL = Key("seal", DEMAND, "whether sessions must be sealed (M17)", Demand.OPTIONAL, '"optional"')
NEIGHBOUR_KEY = Key(
    "neighbour_key",
    DEMAND,
    "iterative way: whether the relay before this one must have authenticated as well",
    Demand.OPTIONAL,
    '"optional"',
)
ALLOW = Schema(
    "allow",
    (USER, SOURCE, SOURCE_PORTS, DESTINATION, DESTINATION_PORTS, PROTOCOL, SESSIONS, OPENS, SEAL, NEIGHBOUR_KEY),
    "Who may open what (M21). The first row that matches permits; what no row permits is refused.",
)

RELAY = Key("relay", Identifier(), "the relay that answers, a peer of kind relay")
ENTRY = Key("entry", ListOf(NetworkKind()), "its client-facing address (P2, P4)", _EVERYWHERE, "anywhere")
ENTRY_PORTS = Key("entry_ports", Ports(), "its client-facing port", ANY_PORT, _EVERY_PORT)
EXIT = Key("exit", ListOf(NetworkKind()), "the exit address (P5)", _EVERYWHERE, "anywhere")
EXIT_PORTS = Key("exit_ports", Ports(), "the exit port", ANY_PORT, _EVERY_PORT)
ANSWER = Schema(
    "answer",
    (RELAY, ENTRY, ENTRY_PORTS, EXIT, EXIT_PORTS),
    "What a relay may answer (M16), beyond the built-in rules. Where a relay has rows, one of them must match.",
)
ALLOW_ROWS = Key("allow", Rows(ALLOW), ALLOW.doc, ())
ANSWER_ROWS = Key("answer", Rows(ANSWER), ANSWER.doc, ())
ACCESS = Schema("access.toml", (ALLOW_ROWS, ANSWER_ROWS))


def read_access(
    directory: Path, problems: Problems, partners: Partners, *, optional: bool = False
) -> tuple[AccessTable, AnswerTable]:
    """Both tables. `optional` (a client): without the file there are no rows, and none of [[allow]] is missed."""
    file = read_file(directory, ACCESS, problems, optional=optional)
    allow = tuple(_allow(values, partners) for values in file.get(ALLOW_ROWS, ()) if values.complete)
    if file.complete and not allow and not optional:
        file.place.warn("there is no [[allow]] row, so every request is refused", 'write at least [[allow]] user = "…"')
    answers = tuple(_answer(values, partners) for values in file.get(ANSWER_ROWS, ()) if values.complete)
    return AccessTable(allow), AnswerTable(answers)


def _allow(values: Values, partners: Partners) -> Allow:
    user = values[USER]
    if not {user, EVERYBODY} & partners.users and user != EVERYBODY and partners.certain:
        mend = nearest(user, sorted(partners.users), "write users = [\"…\"] in the peer's row")
        values.at(USER).warn(f"no partner in peers.toml may speak for {user!r}, so this row never matches", mend)
    destinations, protocols = values[DESTINATION], values[PROTOCOL]
    prefixes = tuple(entry for entry in destinations if not isinstance(entry, str))
    names = frozenset(entry for entry in destinations if isinstance(entry, str))
    return Allow(
        user=user,
        source=_prefixes(values[SOURCE]),
        source_ports=values[SOURCE_PORTS],
        # ANYWHERE itself, not its equal: only that also covers names that are not resolved yet
        destination=ANYWHERE if EVERYBODY in names else Prefixes(prefixes),
        destination_names=names - {EVERYBODY},
        destination_ports=values[DESTINATION_PORTS],
        protocols=frozenset(protocols),
        sessions=values[SESSIONS],
        opens_per_second=values[OPENS],
        seal=values[SEAL] is Demand.REQUIRED,
        neighbour_key=values[NEIGHBOUR_KEY] is Demand.REQUIRED,
    )


def _answer(values: Values, partners: Partners) -> AnswerRow:
    partners.expect_relay(values, RELAY, values[RELAY])
    return AnswerRow(
        relay=values[RELAY],
        entry=_prefixes(values[ENTRY]),
        entry_ports=values[ENTRY_PORTS],
        exit=_prefixes(values[EXIT]),
        exit_ports=values[EXIT_PORTS],
    )


def _prefixes(prefixes: tuple[Prefix, ...]) -> Prefixes:
    return ANYWHERE if prefixes == _EVERYWHERE else Prefixes(prefixes)
