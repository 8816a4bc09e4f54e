"""routes.toml (M19) -> RouteTable. At a client a route says besides how the chain is walked, who ends it and what is sealed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from chainrelay.config.files import read_file
from chainrelay.config.kinds import Boolean, Choice, Destination, EndpointKind, Identifier
from chainrelay.config.peers import Partners
from chainrelay.config.problems import Problems
from chainrelay.config.schema import Key, Rows, Schema, Values
from chainrelay.session.events import NextHop
from chainrelay.session.prefixes import Prefix
from chainrelay.session.tables import DIRECT, Direct, Kind, PeerTable, Route, RouteTable
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Way

_NO_TEXT: str | None = None
_NO_ENDPOINT: Endpoint | None = None

TO = Key("to", Destination(), 'the destinations: the longest prefix or suffix wins, `"*"` takes what is left')
VIA = Key("via", Identifier(), "id of the next relay, a peer of kind relay", _NO_TEXT, "none")
AT = Key("at", EndpointKind(), "where its agent listens; goes with `via`", _NO_ENDPOINT, "none")
NO_RELAY = Key("direct", Boolean(), "true: no further relay; instead of `via` and `at`", False, "false")
WAY = Key(
    "way",
    Choice({"recursive": Way.RECURSIVE, "iterative": Way.ITERATIVE}),
    "how the chain is walked (M12, M13); clients only",
    Way.RECURSIVE,
    '"recursive"',
)
LAST = Key(
    "last",
    Identifier(),
    "id of the relay that must be the last one, a peer of kind relay with a key; clients only",
    _NO_TEXT,
    "whoever is",
)
SEAL = Key(
    "seal",
    Boolean(),
    "true: UDP sessions are sealed up to the last relay (M17), which takes `last`; clients only",
    False,
    "false",
)
ROUTE = Schema("route", (TO, VIA, AT, NO_RELAY), "The next relay toward a destination, or none (M19).")
CLIENT_ROUTE = Schema("route", (*ROUTE.keys, WAY, LAST, SEAL), ROUTE.doc)
ROUTE_ROWS = Key("route", Rows(ROUTE), ROUTE.doc, ())
CLIENT_ROUTE_ROWS = Key("route", Rows(CLIENT_ROUTE), ROUTE.doc, ())
ROUTES = Schema("routes.toml", (ROUTE_ROWS,))
CLIENT_ROUTES = Schema("routes.toml", (CLIENT_ROUTE_ROWS,))


def read_routes(directory: Path, problems: Problems, partners: Partners, own: tuple[Endpoint, ...]) -> RouteTable:
    """A relay's routes; `own`: the endpoints at which it listens itself."""
    file = read_file(directory, ROUTES, problems)
    if file.complete and not file[ROUTE_ROWS]:
        file.place.warn("there is no route, so every request is refused", 'the last relay has to = "*", direct = true')
    return _table(file.get(ROUTE_ROWS, ()), partners, own, lambda _values, route: route)


def read_client_routes(directory: Path, problems: Problems, partners: Partners, peers: PeerTable) -> RouteTable:
    """A client's routes; without the file there are none. `peers`: those whose rows are right."""
    file = read_file(directory, CLIENT_ROUTES, problems, optional=True)

    def finish(values: Values, route: Route) -> Route:
        _check_seal(values, partners, peers)
        return replace(route, way=values[WAY], last=values[LAST] or "", seal=values[SEAL])

    return _table(file.get(CLIENT_ROUTE_ROWS, ()), partners, (), finish)


def _table(
    rows: tuple[Values, ...], partners: Partners, own: tuple[Endpoint, ...], finish: Callable[[Values, Route], Route]
) -> RouteTable:
    routes: dict[Prefix | str, Route] = {}
    for values in rows:
        if not values.complete:
            continue
        to, via = values[TO], _next(values, partners, own)
        if to in routes:
            values.at(TO).wrong(f"{str(to)!r} stands in two routes; the second is never used", "remove one of them")
        elif via is not None:
            routes[to] = finish(values, Route(to, via))
    return RouteTable(tuple(routes.values()))


def _check_seal(values: Values, partners: Partners, peers: PeerTable) -> None:
    """Whether `last` and `seal` can be kept."""
    last, seal = values[LAST], values[SEAL]
    if values[NO_RELAY]:
        if last is not None:
            values.at(LAST).wrong("direct = true contradicts last: there is no relay", "remove last")
        if seal:
            values.at(SEAL).wrong("direct = true contradicts seal: there is no relay that could open", "remove seal")
        return
    if seal and last is None:
        why = "seal without last: whichever relay has a key with this client could say that it is the last one, and read"
        values.at(SEAL).wrong(why, 'add last = "ID OF THE LAST RELAY"')
    if last is None:
        return
    partners.expect_relay(values, LAST, last)
    row = peers.get(last)
    if row is not None and row.kind is Kind.RELAY and not row.keys:
        why = f"peers.toml has no key of {last!r}, so it can't prove that it is the last relay"
        values.at(LAST).wrong(why, "add a key to its [[peer]] row, the same as there")


def _next(values: Values, partners: Partners, own: tuple[Endpoint, ...]) -> NextHop | Direct | None:
    """The next hop; None when the keys contradict each other."""
    via, at = values[VIA], values[AT]
    match via, at, values[NO_RELAY]:
        case None, None, True:
            return DIRECT
        case None, None, False:
            values.place.wrong("leads nowhere", 'write via = "…" and at = "address:port", or direct = true')
        case _, _, True:
            values.at(NO_RELAY).wrong("direct = true contradicts via and at", "keep one of the two")
        case None, _, _:
            values.at(AT).wrong("at without via", "write via = the id of the relay that listens there")
        case _, None, _:
            values.at(VIA).wrong("via without at", 'write at = "address:port" where its agent listens')
        case str(), Endpoint(), _:
            partners.expect_relay(values, VIA, via)
            if at in own:
                values.at(AT).wrong(f"{at} is our own control port: a loop", "write where the next relay listens")
            return NextHop(via, at)
    return None
