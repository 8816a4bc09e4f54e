"""What may be wished for: contradictions are found before anybody is asked, and say what to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from chainrelay.client import TCP, UDP, Client
from chainrelay.client.wishes import Wish, check_ports, is_sealed
from chainrelay.errors import Code, Refusal
from chainrelay.session.tables import DIRECT, Kind, PeerRow, PeerTable, Route
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Way
from unit.client.fake_relay import HOP, SERVER, config, run
from unit.client.sealed_chain import SealedChain, pair_key

PEERS = PeerTable((PeerRow("fw1", Kind.RELAY, (pair_key("fw1"),)), PeerRow("fw2", Kind.RELAY, ())))
SEALED = Route("*", HOP, Way.RECURSIVE, "fw1", True)


def wish(*, sockets: bool = True, seal: bool | None = None, local: int | Endpoint = 0) -> Wish:
    return Wish(local, sockets, 0, seal)


@pytest.mark.parametrize(
    ("route", "asked", "expected"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_the_call_wins_over_the_route(route: bool, asked: bool | None, expected: bool) -> None:
    row = Route("*", HOP, last="fw1", seal=route)
    assert is_sealed(row, UDP, wish(seal=asked), PEERS) is expected


@pytest.mark.parametrize(
    ("route", "protocol", "wanted", "code", "text"),
    [
        (Route("10.0.0.0/8", DIRECT), UDP, wish(seal=True), Code.SEAL_NOT_AVAILABLE, "route to 10.0.0.0/8 is direct"),
        (SEALED, TCP, wish(), Code.SEAL_NOT_AVAILABLE, "TCP session can't be sealed"),
        (SEALED, UDP, wish(sockets=False), Code.SEAL_NOT_AVAILABLE, "forward --seal"),
        (Route("*", HOP), UDP, wish(seal=True), Code.SEAL_NOT_AVAILABLE, r'add last = "ITS ID" to the route to \* in routes.toml'),
        (Route("*", HOP, last="fw2"), UDP, wish(seal=True), Code.NEXT_HOP_AUTHENTICATION, "no key for fw2 in peers.toml"),
        (Route("*", HOP, last="fw9"), UDP, wish(seal=True), Code.NEXT_HOP_AUTHENTICATION, "no key for fw9 in peers.toml"),
    ],
)
def test_what_can_not_be_sealed(route: Route, protocol: type, wanted: Wish, code: Code, text: str) -> None:
    with pytest.raises(Refusal, match=text) as refused:
        is_sealed(route, protocol, wanted, PEERS)  # type: ignore[arg-type]
    assert refused.value.code is code
    unsealed = Wish(wanted.local, wanted.sockets, 0, False)
    assert not is_sealed(route, protocol, unsealed, PEERS)  # type: ignore[arg-type]


def test_two_components_are_a_pair_of_udp_ports() -> None:
    check_ports(UDP, 2, wish(local=5004))
    check_ports(TCP, 1, wish(local=5005))
    with pytest.raises(ValueError, match="odd"):
        check_ports(UDP, 2, wish(local=5005))
    with pytest.raises(ValueError, match="TCP"):
        check_ports(TCP, 2, wish())


Call = Callable[[Client], Awaitable[object]]


@pytest.mark.parametrize(
    "call",
    [
        lambda owner: owner.open_to(f"{SERVER}:5004", seal=True, protocol=TCP),
        lambda owner: owner.open_to(f"{SERVER}:5004", seal=True, sockets=False),
        lambda owner: owner.reserve(str(SERVER), seal=True, sockets=False),
        lambda owner: owner.open(f"{SERVER}:9799", seal=True, sockets=False),
        lambda owner: owner.open(f"{SERVER}:9799", seal=True, protocol=TCP),
    ],
    ids=["tcp", "open_to", "reserve", "open", "open tcp"],
)
def test_nobody_is_asked_for_what_can_not_be(call: Call) -> None:
    async def scenario() -> None:
        chain = SealedChain(2)
        async with chain.owner(Way.RECURSIVE, seal=False) as owner:
            with pytest.raises(Refusal) as refused:
                await call(owner)
            assert refused.value.code is Code.SEAL_NOT_AVAILABLE
            assert chain.asked == []

    run(scenario())


def test_a_client_may_seal_all_of_its_sessions() -> None:
    async def scenario() -> None:
        async with Client(config(Route("*", DIRECT)), seal=True) as owner:
            with pytest.raises(Refusal, match="direct"):
                await owner.open_to(f"{SERVER}:5004")
            async with owner.open_to(f"{SERVER}:5004", seal=False) as session:
                assert not session.sealed

    run(scenario())
