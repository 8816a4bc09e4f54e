"""What is particular to the legacy tables: everybody shares their chains, so somebody may come before us or take ours away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chainrelay.datapath.mapping import Install, Remove
from chainrelay.wire.messages import Protocol
from conformance.test_sessions import LONG, NOTHING, carried, installed
from conformance.world import LegacyWorld, Side
from lab import legacy

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=[4, 6], ids=["v4", "v6"])
def world(request: pytest.FixtureRequest) -> Iterator[LegacyWorld]:
    made = LegacyWorld(request.param)
    try:
        yield made
    finally:
        made.close()


def test_a_tcp_session_ends_with_its_lease_though_his_accept_comes_before_our_reset(world: LegacyWorld) -> None:
    assert carried(world, installed(world, world.mapping()))  # neighbours are known now: a SYN sent again would outlast the lease
    mapping = world.mapping(Protocol.TCP)
    world.listen(mapping)
    assert world.backend.apply([Install(mapping, 1.0)]) == [NOTHING]
    ((to_server, _),) = mapping.flows()
    near, far = world.connect(Side.CLIENT, to_server.source, to_server.destination, to_server.new_destination)
    command = legacy.COMMANDS[world.family]
    world.relay.host.run([command, "-w", "-I", "FORWARD", "-j", "ACCEPT"])
    with near, far:
        near.sendall(b"before")
        assert far.recv(100) == b"before"
        world.let_pass(1.2)
        near.sendall(b"after")
        far.settimeout(0.5)
        with pytest.raises(TimeoutError):
            far.recv(100)
    world.relay.host.run([command, "-w", "-D", "FORWARD", "-j", "ACCEPT"])
    world.backend.apply([Remove(mapping)])


@pytest.mark.parametrize("table", ["mangle", "nat", "filter"])
def test_a_restored_table_is_noticed_and_setup_brings_every_session_back(world: LegacyWorld, table: str) -> None:
    mappings = [installed(world, world.mapping()) for _ in range(3)]
    assert carried(world, mappings[0])
    assert world.backend.intact()
    world.relay.host.run([f"{legacy.COMMANDS[world.family]}-restore", "--wait"], stdin=f"*{table}\nCOMMIT\n")
    assert not world.backend.intact()
    world.setup()
    world.reload_administrator()
    assert all(carried(world, each) for each in mappings)
    assert world.backend.intact()


def test_his_rule_before_ours_is_noticed_and_setup_is_first_again(world: LegacyWorld) -> None:
    command = legacy.COMMANDS[world.family]
    world.relay.host.run([command, "-w", "-t", "nat", "-I", "PREROUTING", "-p", "udp", "-j", "RETURN"])
    assert not world.backend.intact()
    world.setup()
    assert world.backend.intact()
    assert carried(world, installed(world, world.mapping()))
    world.relay.host.run([command, "-w", "-t", "nat", "-D", "PREROUTING", "-p", "udp", "-j", "RETURN"])


def test_a_restart_adopts_the_sessions_of_the_sets(world: LegacyWorld) -> None:
    mapping = installed(world, world.mapping())
    assert carried(world, mapping)
    world.backend.close()
    with world.relay.host.enter():
        world.backend = world.open()
    world.setup()
    assert carried(world, mapping)
    later = world.mapping()
    assert world.backend.apply([Install(mapping, LONG), Install(later, LONG), Remove(later)]) == [NOTHING] * 3
    assert carried(world, mapping)
