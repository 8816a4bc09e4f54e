"""Scenarios that hold for every datapath."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chainrelay import limits
from chainrelay.datapath.mapping import Counters, Done, Failed, Flow, Install, Mapping, Remove, Renew
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from conformance.world import Arrival, Side, World

LONG = 60.0
SHORT = 1.0  # seconds; a lease that a test waits for. An ipset counts whole seconds
NOTHING = Done(Counters())

protocols = pytest.mark.parametrize("protocol", list(Protocol), ids=lambda p: p.name.lower())
sides = pytest.mark.parametrize("first", list(Side), ids=lambda side: f"{side.value}-first")
components = pytest.mark.parametrize("components", [1, 2], ids=["single", "pair"])


def send(world: World, side: Side, flow: Flow, *, expect: bool) -> Arrival | None:
    return world.send(flow.protocol, side, flow.source, flow.destination, expect=expect)


def translated(world: World, side: Side, flow: Flow) -> bool:
    arrival = send(world, side, flow, expect=True)
    return arrival is not None and (arrival.source, arrival.destination) == (flow.new_source, flow.new_destination)


def silent(world: World, mapping: Mapping) -> bool:
    return all(
        send(world, Side.CLIENT, to_server, expect=False) is None and send(world, Side.SERVER, to_client, expect=False) is None
        for to_server, to_client in mapping.flows()
    )


def carried(world: World, mapping: Mapping, first: Side = Side.CLIENT) -> bool:
    """Both directions of all components, with the exact tuples. A TCP connection has both in it."""
    order = (first,) if mapping.protocol is Protocol.TCP else (first, first.other, first)
    results = []
    for pair in mapping.flows():
        directions = dict(zip(Side, pair, strict=True))
        results += [translated(world, side, directions[side]) for side in order]
    return all(results)


def installed(world: World, mapping: Mapping, lease: float = LONG) -> Mapping:
    world.listen(mapping)
    assert world.backend.apply([Install(mapping, lease)]) == [NOTHING]
    return mapping


@protocols
@components
@sides
def test_both_directions_carry_the_exact_tuples_whoever_is_first(
    world: World, protocol: Protocol, components: int, first: Side
) -> None:
    assert carried(world, installed(world, world.mapping(protocol, components)), first)


def strangers(world: World, mapping: Mapping) -> list[tuple[Side, Endpoint, Endpoint]]:
    """Everything that is wrong by one field, from both sides."""
    found = []
    for side, partner, own in (
        (Side.CLIENT, mapping.client_partner, mapping.client_side),
        (Side.SERVER, mapping.server_partner, mapping.server_side),
    ):
        bystander = world.address(side, 3)
        found += [
            (side, Endpoint(bystander, partner.port), own),
            (side, Endpoint(partner.address, partner.port + 3000), own),
            (side, partner, Endpoint(own.address, own.port + 1)),
        ]
    other_side = Endpoint(mapping.server_side.address, mapping.client_side.port)
    return [*found, (Side.CLIENT, mapping.client_partner, other_side)]


@protocols
def test_a_wrong_field_delivers_nothing_before_during_and_after(world: World, protocol: Protocol) -> None:
    mapping = world.mapping(protocol)
    world.listen(mapping)

    def delivered() -> list[Arrival]:
        attempts = [world.send(protocol, *each, expect=False) for each in strangers(world, mapping)]
        return [arrival for arrival in attempts if arrival is not None]

    assert delivered() == []
    installed(world, mapping)
    assert delivered() == []
    assert carried(world, mapping)
    assert delivered() == []
    world.backend.apply([Remove(mapping)])
    assert delivered() == []


@protocols
@sides
def test_an_early_packet_leaves_no_trace_and_the_session_works(world: World, protocol: Protocol, first: Side) -> None:
    mapping = world.mapping(protocol)
    world.listen(mapping)
    assert silent(world, mapping)
    assert world.known(mapping) == 0
    assert carried(world, installed(world, mapping), first)


@protocols
@components
@sides
def test_removal_stops_both_directions_though_the_connection_was_known(
    world: World, protocol: Protocol, components: int, first: Side
) -> None:
    mapping = installed(world, world.mapping(protocol, components))
    assert carried(world, mapping, first)
    assert world.known(mapping) >= components
    world.backend.apply([Remove(mapping)])
    assert world.known(mapping) == 0
    assert silent(world, mapping)
    assert world.known(mapping) == 0


@protocols
def test_the_lease_ends_without_anybody_acting(world: World, protocol: Protocol) -> None:
    mapping = installed(world, world.mapping(protocol), SHORT)
    assert carried(world, mapping)
    world.let_pass(SHORT + 0.3)
    assert silent(world, mapping)
    assert world.backend.counters([mapping]) == [Counters()]
    assert mapping.client_partner not in {flow.source for flow in world.backend.flows()}


@protocols
def test_renewal_outlasts_the_first_lease(world: World, protocol: Protocol) -> None:
    mapping = installed(world, world.mapping(protocol), SHORT)
    assert isinstance(world.backend.apply([Renew(mapping, LONG)])[0], Done)
    world.let_pass(SHORT + 0.3)
    assert carried(world, mapping)


@protocols
@components
def test_renewal_just_after_the_lease_ended_puts_the_session_back(world: World, protocol: Protocol, components: int) -> None:
    mapping = installed(world, world.mapping(protocol, components), SHORT)
    assert carried(world, mapping)
    world.let_pass(SHORT + 0.05)
    assert world.backend.apply([Renew(mapping, LONG)]) == [NOTHING]
    assert carried(world, mapping)


@protocols
def test_renewal_of_a_removed_session_puts_it_back_whole(world: World, protocol: Protocol) -> None:
    mapping = installed(world, world.mapping(protocol))
    world.backend.apply([Remove(mapping)])
    assert world.backend.apply([Renew(mapping, LONG)]) == [NOTHING]
    assert carried(world, mapping)


@components
def test_counters_are_exact(world: World, components: int) -> None:
    mapping = installed(world, world.mapping(components=components))
    sent = 50
    assert world.burst(mapping, sent) == 2 * components * sent
    (counted,) = world.backend.counters([mapping])
    assert (counted.to_server_packets, counted.to_client_packets) == (components * sent, components * sent)
    assert counted.to_server_bytes == counted.to_client_bytes
    assert counted.to_server_bytes // counted.to_server_packets in range(limits.IP_UDP_HEADERS[world.family] + 5, 60)
    assert world.backend.apply([Renew(mapping, LONG)]) == [Done(counted)]
    assert world.backend.counters([mapping]) == [Counters()]
    assert world.burst(mapping, 3) == 6 * components
    (rest,) = world.backend.apply([Remove(mapping)])
    assert isinstance(rest, Done)
    assert (rest.counters.to_server_packets, rest.counters.to_client_packets) == (3 * components, 3 * components)


def test_install_and_remove_twice_are_no_errors(world: World) -> None:
    mapping = installed(world, world.mapping())
    assert carried(world, mapping)
    assert world.backend.apply([Install(mapping, LONG)]) == [NOTHING]
    assert carried(world, mapping)
    (removed,) = world.backend.apply([Remove(mapping)])
    assert isinstance(removed, Done)
    assert removed.counters.to_server_packets == 4
    assert world.backend.apply([Remove(mapping)]) == [NOTHING]
    assert world.backend.apply([Remove(mapping), Remove(mapping), Install(mapping, LONG), Remove(mapping)]) == [NOTHING] * 4
    assert silent(world, mapping)


@pytest.mark.parametrize("shared", ["entry", "partners"])
def test_a_key_in_use_fails_alone_and_changes_nothing(world: World, shared: str) -> None:
    holder, before, after = (world.mapping() for _ in range(3))
    for mapping in (holder, before, after):
        world.listen(mapping)
    other = world.mapping()
    if shared == "entry":
        thief = replace(other, client_partner=holder.client_partner, client_side=holder.client_side)
    else:
        thief = replace(other, client_partner=holder.client_partner, server_partner=holder.server_partner)
    installed(world, holder)
    outcomes = world.backend.apply([Install(before, LONG), Install(thief, LONG), Install(after, LONG)])
    assert [type(each) for each in outcomes] == [Done, Failed, Done]
    assert isinstance(outcomes[1], Failed)
    assert not outcomes[1].full
    assert str(holder.client_partner) in outcomes[1].why
    assert all(carried(world, mapping) for mapping in (holder, before, after))
    assert isinstance(world.backend.apply([Renew(thief, LONG)])[0], Failed)
    assert world.backend.apply([Remove(thief)]) == [NOTHING]
    assert carried(world, holder)


def test_more_than_a_batch_at_once(world: World) -> None:
    mappings = [world.mapping() for _ in range(limits.BATCH + 3)]
    installed(world, mappings[0])
    world.listen(mappings[-1])
    assert world.backend.apply([Install(each, LONG) for each in mappings]) == [NOTHING] * len(mappings)
    assert carried(world, mappings[0])
    assert carried(world, mappings[-1])
    outcomes = world.backend.apply([Renew(each, LONG) for each in mappings])
    assert all(isinstance(each, Done) for each in outcomes)
    assert [each.counters.to_client_packets for each in outcomes if isinstance(each, Done)].count(0) == len(mappings) - 2
    outcomes = world.backend.apply([Remove(each) for each in mappings])
    assert all(isinstance(each, Done) for each in outcomes)
    assert not {flow.source for flow in world.backend.flows()} & {each.client_partner for each in mappings}


def test_operations_on_one_session_keep_their_order(world: World) -> None:
    mapping = world.mapping()
    world.listen(mapping)
    successor = replace(mapping, server_side=mapping.server_side.next(1000))
    outcomes = world.backend.apply([Install(mapping, LONG), Remove(mapping), Install(successor, LONG), Renew(successor, LONG)])
    assert outcomes == [NOTHING] * 4
    assert carried(world, successor)


def test_flows_lists_both_directions(world: World) -> None:
    mapping = installed(world, world.mapping(components=2))
    listed = {flow.source: flow for flow in world.backend.flows()}
    for to_server, to_client in mapping.flows():
        for flow in (to_server, to_client):
            assert listed[flow.source].destination == flow.destination
            assert LONG - 10 < listed[flow.source].expires <= LONG


def test_setup_again_keeps_what_lives_and_forgets_what_ended(world: World) -> None:
    living, ended = installed(world, world.mapping()), installed(world, world.mapping(), SHORT)
    assert carried(world, living)
    assert carried(world, ended)
    world.let_pass(SHORT + 0.3)
    world.setup()
    assert carried(world, living)
    assert world.known(ended) == 0
    heir = replace(world.mapping(), client_partner=ended.client_partner, client_side=ended.client_side)
    assert carried(world, installed(world, heir))


def test_flush_own_ends_everything_and_setup_begins_anew(world: World) -> None:
    mapping = installed(world, world.mapping())
    assert carried(world, mapping)
    world.flush()
    assert world.known(mapping) == 0
    assert world.backend.flows() == []
    world.setup()
    assert silent(world, mapping)
    assert carried(world, installed(world, mapping))
