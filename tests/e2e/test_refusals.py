"""A request that ends somewhere in the row: the client hears where and why, and no relay keeps anything of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrelay.client import Client
from chainrelay.errors import Code, Refusal
from chainrelay.wire.endpoint import Endpoint
from e2e.chain import Chain
from lab import wait

pytestmark = pytest.mark.root

NOBODY = '[[allow]]\nuser = "bob"\n'
ELSEWHERE = '[[allow]]\nuser = "alice"\nsource = ["192.0.2.0/24"]\n'


@pytest.mark.parametrize("hop", ["fw1", "fw2", "fw3"])
def test_a_relay_that_refuses_leaves_nothing_before_it(hop: str) -> None:
    with Chain(3, (4,), allow={hop: NOBODY}) as chain, chain.server(4) as server:
        refusal = refused(chain, str(server.endpoint))
        assert (refusal.code, refusal.hop) == (Code.ACCESS_DENIED, hop)
        assert chain.leftovers() == {}


def test_the_clients_source_address_counts_at_every_relay() -> None:
    with Chain(2, (4,), allow={"fw2": ELSEWHERE}) as chain, chain.server(4) as server:
        refusal = refused(chain, str(server.endpoint))
        assert (refusal.code, refusal.hop) == (Code.ACCESS_DENIED, "fw2")
        assert "10.1.0.1" in refusal.text


def test_a_next_relay_that_is_down_and_comes_back() -> None:
    with Chain(2, (4,)) as chain, chain.server(4) as server:
        last = chain.relays.agents[1]
        last.stop()
        refusal = refused(chain, str(server.endpoint))
        assert (refusal.code, refusal.hop) == (Code.NEXT_HOP_UNREACHABLE, "fw1")
        assert chain.leftovers() == {}
        last.start()
        wait.until(lambda: opens(chain, str(server.endpoint)), "the relay to be used again", 10)


def test_relays_whose_keys_differ() -> None:
    with Chain(2, (4,)) as chain, chain.server(4) as server:
        key = chain.relays.configuration.directory("fw1") / "keys" / "fw2.key"
        key.write_text((chain.relays.configuration.directory("client") / "keys" / "fw1.key").read_text())
        chain.relays.agents[0].stop()
        chain.relays.agents[0].start()
        refusal = refused(chain, str(server.endpoint))
        assert (refusal.code, refusal.hop) == (Code.NEXT_HOP_AUTHENTICATION, "fw1")
        assert chain.leftovers() == {}


@pytest.mark.parametrize("target", ["127.0.0.1:5004", "169.254.1.1:5004", "224.0.0.1:5004", "0.0.0.0:5004", "10.3.0.1:5004"])
def test_forbidden_targets(two: Chain, target: str) -> None:
    """Loopback, link-local, multicast, unspecified, the last relay's own address."""
    refusal = refused(two, target)
    assert refusal.code in {Code.FORBIDDEN_TARGET, Code.ACCESS_DENIED, Code.LOCAL_TRAFFIC}
    assert two.leftovers() == {}


def test_no_route_at_the_last_relay() -> None:
    with Chain(2, (4,)) as chain, chain.server(4) as server:
        last = chain.relays.agents[1]
        (last.directory / "routes.toml").write_text('[[route]]\nto = "192.0.2.0/24"\ndirect = true\n')
        last.stop()
        last.start()
        refusal = refused(chain, str(server.endpoint))
        assert (refusal.code, refusal.hop) == (Code.NO_ROUTE, "fw2")
        assert chain.leftovers() == {}


def test_a_pool_that_is_exhausted_and_then_not() -> None:
    with Chain(2, (4,), pool="20000-20003") as chain, chain.server(4) as server:
        sessions = [chain.open_to(server.endpoint) for _ in range(4)]
        refusal = refused(chain, str(server.endpoint))
        assert refusal.code is Code.PORTS_EXHAUSTED
        chain.close_session(sessions.pop())
        wait.until(lambda: opens(chain, str(server.endpoint)), "the ports to have rested", 5)
        for session in sessions:
            chain.close_session(session)
        assert chain.leftovers() == {}


@pytest.mark.parametrize("pretended", ["10.1.0.77", "192.0.2.9"])
def test_nobody_aims_a_relay_at_a_third_party(two: Chain, pretended: str) -> None:
    """P1 must lie at the client's own address: what a client behind a NAT hears, too."""
    with pytest.raises(Refusal) as caught:
        local = Endpoint.parse(f"{pretended}:40000")
        two.client_loop.call(lambda: two.client.open_to("10.3.0.2:5004", local=local, sockets=False))
    assert (caught.value.code, caught.value.hop) == (Code.NOT_PARTNERS_ADDRESS, "fw1")
    assert two.leftovers() == {}


def test_families_are_not_mixed(two: Chain) -> None:
    """The way to relay 1 is IPv4, so P1 is, and the server's endpoint is IPv6."""
    first = two.firewalls[0]
    directory = two.relays.client_directory
    before = (directory / "routes.toml").read_text()
    (directory / "routes.toml").write_text(f'[[route]]\nto = "*"\nvia = "fw1"\nat = "{first.bound(4)}:9798"\n')
    try:
        with pytest.raises(Refusal) as caught:
            two.client_loop.call(lambda: _open_alone(directory, str(Endpoint(two.row.server_end.address(6), 5004))))
    finally:
        (directory / "routes.toml").write_text(before)
    assert caught.value.code is Code.MIXED_FAMILIES
    assert two.leftovers() == {}


async def _open_alone(directory: Path, peer: str) -> None:
    async with Client(directory) as client, client.open_to(peer):
        pass


def refused(chain: Chain, peer: str) -> Refusal:
    """The refusal of a session to `peer`."""
    with pytest.raises(Refusal) as caught:
        chain.client_loop.call(lambda: chain.client.open_to(peer))
    return caught.value


def opens(chain: Chain, peer: str) -> bool:
    """Whether a session to `peer` opens (and is closed again)."""
    try:
        session = chain.client_loop.call(lambda: chain.client.open_to(peer))
    except Refusal:
        return False
    chain.close_session(session)
    return True
