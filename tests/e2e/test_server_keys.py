"""M15 on the client–server control connection: who lacks the key gets no OFFER and no session, and nothing is left of the try.

The server's half and the client's are the library; between them two real relays carry the control connection.
"""

from __future__ import annotations

import queue
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from chainrelay.client import Client, Offering, Visitor
from chainrelay.client.control import Identity
from chainrelay.config.client import load_client
from chainrelay.errors import Code, Refusal
from chainrelay.session.tables import Kind, PeerRow, PeerTable
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.keys import PairKey
from e2e.chain import OFFER_PORT, SERVICE, Chain
from lab import wait
from lab.configuration import USER

pytestmark = pytest.mark.root

STUDIO = "studio"
KEY = PairKey("k1", secrets.token_bytes(32))
OTHER = PairKey("k1", secrets.token_bytes(32))
LATER = PairKey("k2", KEY.secret)


@dataclass(frozen=True)
class Sides:
    """Which key the client has for the server, and the server for whom; None: that side uses no keys."""

    client: PairKey | None
    server: dict[str, PairKey] | None


WRONG = {
    "another key": Sides(KEY, {USER: OTHER}),
    "another key id": Sides(KEY, {USER: LATER}),
    "a client that it does not know": Sides(KEY, {"bob": KEY}),
    "a server without keys": Sides(KEY, None),
    "a client without keys": Sides(None, {USER: KEY}),
}


def test_the_right_key_opens(two: Chain) -> None:
    assert attempt(two, Sides(KEY, {USER: KEY})) == USER


@pytest.mark.parametrize("kind", WRONG)
def test_without_the_right_key_there_is_no_session(two: Chain, kind: str) -> None:
    why = attempt(two, WRONG[kind])
    assert isinstance(why, Refusal)
    assert why.code is (Code.NEXT_HOP_AUTHENTICATION if WRONG[kind].client else Code.ACCESS_DENIED), why
    assert "key" in why.text + why.mend
    wait.until(lambda: not two.leftovers(), "nothing to be left")
    assert attempt(two, Sides(KEY, {USER: KEY})) == USER


def attempt(chain: Chain, sides: Sides) -> str | Refusal:
    """The id under which the server served the client, or what the client heard; then nobody was served."""
    configuration = load_client(chain.relays.client_directory)
    rows = [*configuration.peers.rows, *([row(STUDIO, sides.client)] if sides.client else [])]
    server_id = STUDIO if sides.client else ""

    async def open_once() -> None:
        async with Client(replace(configuration, peers=PeerTable(tuple(rows)))) as client:
            control = Endpoint(chain.row.server_end.address(4), OFFER_PORT)
            async with client.open(str(control), server_id=server_id):
                pass

    with offering(chain, sides.server) as visitors:
        try:
            chain.client_loop.call(open_once)
        except Refusal as why:
            assert visitors.empty()
            return why
        return visitors.get(timeout=5).principal


@contextmanager
def offering(chain: Chain, keys: dict[str, PairKey] | None) -> Iterator[queue.Queue[Visitor]]:
    """A server that has these keys."""
    visitors: queue.Queue[Visitor] = queue.Queue()
    identity = Identity(STUDIO, PeerTable(tuple(row(peer, key) for peer, key in keys.items()))) if keys is not None else None
    at = Endpoint(chain.row.server_end.address(4), OFFER_PORT)

    async def serve(visitor: Visitor) -> None:
        visitors.put(visitor)

    async def start() -> Offering:
        return await Offering(at, serve, ports=[SERVICE], shared=True, identity=identity).__aenter__()

    running = chain.server_loop.call(start)
    try:
        yield visitors
    finally:
        chain.server_loop.call(lambda: running.__aexit__(None, None, None))


def row(peer: str, key: PairKey) -> PeerRow:
    """A row of a peer table."""
    return PeerRow(peer, Kind.CLIENT, (key,), frozenset())
