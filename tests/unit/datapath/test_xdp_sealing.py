"""Sealed mappings in the fast path's backend: keys added, switched, ended and wiped, over maps that are dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Mapping, Rekey, Remove, Renew
from chainrelay.datapath.xdp import XdpBackend
from chainrelay.datapath.xdp_entries import held_of, key_of
from chainrelay.datapath.xdp_layout import SEAL, Kind
from chainrelay.datapath.xdp_seals import NO_KEY, SealCounts, seal_key_of
from chainrelay.limits import SEAL_OVERLAP
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import SealKeys
from unit.datapath.fast_maps import Maps, mapping

NOTHING = Done(Counters())


def keys(epoch: int) -> SealKeys:
    return SealKeys(bytes((0xD0 + epoch, 1, 2, 0)), bytes([epoch]) * 32, b"p" * 12, bytes([epoch + 100]) * 32, b"t" * 12)


@pytest.fixture
def maps() -> Maps:
    return Maps([])


@pytest.fixture
def fast(maps: Maps) -> XdpBackend:
    return XdpBackend(maps)


def sealed(number: int = 1, components: int = 1) -> Mapping:
    return replace(mapping(number), sealed=True, components=components)


def ids(fast: XdpBackend) -> dict[bytes, tuple[bytes, int]]:
    """Key id -> (the one before, when it ends)."""
    return {held.key_id: (held.before, held.ends_ns) for held in fast.sealed_keys()}


def test_the_key_comes_before_its_flows_and_goes_after_them(maps: Maps, fast: XdpBackend) -> None:
    assert fast.apply([Install(sealed(), 60, keys(0))]) == [NOTHING]
    assert maps.log == ["key +", "fast +", "fast +"]
    assert [flow.sealed for flow in fast.flows()] == [True, True]
    maps.log.clear()
    assert fast.apply([Remove(sealed())]) == [NOTHING]
    assert maps.log == ["fast -", "fast -", "wipe", "key -"]
    assert (maps.held, maps.sealing) == ({}, {})
    assert fast.apply([Remove(sealed())]) == [NOTHING]


def test_every_flow_says_what_is_done_with_it(maps: Maps, fast: XdpBackend) -> None:
    one = sealed(components=2)
    fast.apply([Install(one, 60, keys(0))])
    for component, (there, back) in enumerate(one.flows()):
        key = key_of(there.source, there.destination)
        held = held_of(maps.held[key]).seal
        assert (held.kind, held.component, held.key_id) == (Kind.OPEN, component, NO_KEY)
        key = key_of(back.source, back.destination)
        held = held_of(maps.held[key]).seal
        assert (held.kind, held.component, held.key_id) == (Kind.SEAL, component, keys(0).key_id)


def test_the_same_keys_again_never_restart_a_counter(maps: Maps, fast: XdpBackend) -> None:
    one = sealed()
    fast.apply([Install(one, 60, keys(0))])
    entry = seal_key_of(one.session, keys(0).key_id)
    counted = SEAL.pack({**SEAL.unpack(maps.sealing[entry]), "next": 77, "top": 88})
    maps.sealing[entry] = counted
    assert fast.apply([Install(one, 60, keys(0)), Rekey(one, keys(0)), Renew(one, 60)]) == [NOTHING] * 3
    assert maps.sealing == {entry: counted}


def test_a_new_key_takes_over_and_the_last_one_ends(maps: Maps, fast: XdpBackend) -> None:
    one = sealed(components=2)
    fast.apply([Install(one, 60, keys(0))])
    maps.now = 10**9
    assert fast.apply([Rekey(one, keys(1))] * 2) == [NOTHING] * 2
    ends = 10**9 + int(SEAL_OVERLAP * 1e9)
    assert ids(fast) == {keys(0).key_id: (NO_KEY, ends), keys(1).key_id: (keys(0).key_id, 0)}
    assert maps.log.count("rekey") == 2, "both components, once"
    fast.apply([Rekey(one, keys(2))])
    assert ids(fast) == {keys(1).key_id: (keys(0).key_id, ends), keys(2).key_id: (keys(1).key_id, 0)}
    maps.now = ends + 1
    assert fast.apply([Renew(one, 60)]) == [NOTHING]
    assert ids(fast) == {keys(2).key_id: (keys(1).key_id, 0)}, "its time is over, so it is wiped"
    refused = fast.apply([Rekey(one, keys(3)), Rekey(one, keys(2))])[1]
    assert isinstance(refused, Failed)
    assert "used before" in refused.why
    fast.apply([Remove(one)])
    assert maps.sealing == {}


def test_a_switch_that_stopped_halfway_is_finished(maps: Maps, fast: XdpBackend) -> None:
    """The new key was inserted, and then the process died; or the flows were switched, and the last key had no end yet."""
    one = sealed()
    fast.apply([Install(one, 60, keys(0))])
    held, sealing = dict(maps.held), dict(maps.sealing)
    fast.apply([Rekey(one, keys(1))])
    new = seal_key_of(one.session, keys(1).key_id)
    after = ids(fast)
    for flows in (held, dict(maps.held)):
        maps.held, maps.sealing = flows, {**sealing, new: maps.sealing[new]}
        assert fast.apply([Rekey(one, keys(1))]) == [NOTHING]
        assert ids(fast) == after


def test_what_is_lost_is_keyless(maps: Maps, fast: XdpBackend) -> None:
    one = sealed()
    for operation in (Renew(one, 60), Rekey(one, keys(0))):
        outcome = fast.apply([operation])[0]
        assert isinstance(outcome, Failed)
        assert outcome.keyless
    fast.apply([Install(one, 60, keys(0))])
    maps.sealing.clear()
    for operation in (Renew(one, 60), Rekey(one, keys(0))):
        outcome = fast.apply([operation])[0]
        assert isinstance(outcome, Failed)
        assert outcome.keyless, operation
        assert maps.sealing == {}, "a lost key is never put back"
    assert fast.apply([Rekey(one, keys(1)), Renew(one, 60)]) == [NOTHING] * 2
    fast.apply([Remove(one)])
    assert maps.sealing == {}


def test_an_install_after_the_key_was_lost_takes_the_flows_over(maps: Maps, fast: XdpBackend) -> None:
    one = sealed()
    fast.apply([Install(one, 60, keys(0))])
    maps.sealing.clear()
    assert fast.apply([Install(one, 60, keys(1)), Renew(one, 60)]) == [NOTHING] * 2
    assert list(ids(fast)) == [keys(1).key_id]


def test_all_or_nothing(maps: Maps, fast: XdpBackend) -> None:
    taken = mapping(1)
    fast.apply([Install(taken, 60)])
    other = replace(sealed(), session=bytes(15) + b"x", server_side=taken.server_side.next(1))
    before = dict(maps.held)
    outcome = fast.apply([Install(other, 60, keys(0))])[0]
    assert isinstance(outcome, Failed)
    assert (maps.held, maps.sealing) == (before, {})
    plain_there = fast.apply([Install(sealed(), 60, keys(0))])[0]
    assert isinstance(plain_there, Failed), "the tuple is a plain session's"
    assert (maps.held, maps.sealing) == (before, {})
    maps.room = 1
    full = fast.apply([Install(sealed(2), 60, keys(0))])[0]
    assert isinstance(full, Failed)
    assert full.full
    assert maps.sealing == {}


def test_a_key_that_has_sealed_before_its_install_failed_is_not_taken_again(maps: Maps, fast: XdpBackend) -> None:
    one = sealed(components=2)
    there = one.flows()[1][0]
    stranger = replace(sealed(2), client_partner=there.source, client_side=there.destination)
    fast.apply([Install(stranger, 60, keys(5))])
    entry, end = seal_key_of(one.session, keys(0).key_id), maps.end_keys

    def after_a_datagram(records: Sequence[bytes]) -> list[SealCounts | None]:
        maps.sealing[entry] = SEAL.pack({**SEAL.unpack(maps.sealing[entry]), "next": 1})
        return end(records)

    maps.end_keys = after_a_datagram  # type: ignore[method-assign]
    assert isinstance(fast.apply([Install(one, 60, keys(0))])[0], Failed)
    fast.apply([Remove(stranger)])
    again = fast.apply([Install(one, 60, keys(0))])[0]
    assert isinstance(again, Failed)
    assert "used before" in again.why
    assert fast.apply([Install(one, 60, keys(1))]) == [NOTHING]


def test_refusals_say_why(maps: Maps, fast: XdpBackend) -> None:
    def why(operation: Install | Rekey) -> str:
        outcome = fast.apply([operation])[0]
        assert isinstance(outcome, Failed)
        assert (maps.held, maps.sealing) == ({}, {})
        return outcome.why

    assert "comes with its keys" in why(Install(sealed(), 60))
    assert "only UDP" in why(Install(replace(sealed(), protocol=Protocol.TCP), 60, keys(0)))
    assert "not sealed" in why(Rekey(mapping(), keys(0)))
    maps.slow.add(sealed().server_partner.address)
    assert "lies behind interface number 1, which has no fast path" in why(Install(sealed(), 60, keys(0)))
    maps.slow.clear()
    maps.can_seal = False
    assert not fast.seals()
    assert "can't open and seal" in why(Install(sealed(), 60, keys(0)))


def test_setup_wipes_what_no_flow_names(maps: Maps, fast: XdpBackend) -> None:
    short, long = sealed(1), sealed(2)
    fast.apply([Install(short, 1, keys(0)), Install(long, 60, keys(0)), Rekey(long, keys(1))])
    maps.now = 2 * 10**9
    XdpBackend(maps).setup()
    assert {held.session for held in fast.sealed_keys()} == {long.session}
    assert set(ids(fast)) == {keys(0).key_id, keys(1).key_id}
    maps.log.clear()
    fast.flush_own()
    assert (maps.held, maps.sealing) == ({}, {})
    assert maps.log.count("wipe") == 2
