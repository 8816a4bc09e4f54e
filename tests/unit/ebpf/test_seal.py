"""seal.c packet by packet against `cryptography`: what is opened and sealed, and that nothing else ever is."""

from __future__ import annotations

import os
import random
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from chainrelay.datapath.xdp_entries import key_of, value_of
from chainrelay.datapath.xdp_layout import ENTRY4, ENTRY6, SEAL, SEALED_LONGEST, WINDOW, Slot, Verdict
from chainrelay.datapath.xdp_seals import ended_of, ending_of
from chainrelay.privileged.xdp_bpf import Map, Program
from chainrelay.wire.sealed import SEALED_OVERHEAD, SealKeys
from unit.ebpf.sealed_world import SESSION, Peer, SealedWorld, frame, leaving, payload_of
from unit.ebpf.world import NARROW, NO_EXIT, UNRESOLVED, Case, World, lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = pytest.mark.root

DROP, REDIRECT = 1, 4
FAMILIES = pytest.mark.parametrize("family", [4, 6])
MODES = pytest.mark.parametrize("mode", ["native", "generic"])


def text_of(length: int) -> bytes:
    return bytes((7 * number + length) % 256 for number in range(length))


def opens(sealed: SealedWorld, given: bytes, text: bytes, mode: str = "native") -> None:
    """The frame leaves opened, octet by octet what a plain datagram with this text would have left as."""
    assert sealed.world.run(given, mode) == (Verdict.OPENED, REDIRECT, leaving(sealed.there, text))


def dropped(sealed: SealedWorld, given: bytes, expected: Verdict, mode: str = "native") -> None:
    verdict, action, _ = sealed.world.run(given, mode)
    assert (verdict, action) == (expected, DROP)


@contextmanager
def counting(world: World, **wanted: int) -> Iterator[None]:
    """Exactly these verdicts are given inside: where thousands of frames run, asking after each would take longer than they do."""
    before = world.counts()
    yield
    given = {verdict.name: count - before[verdict] for verdict, count in world.counts().items() if count != before[verdict]}
    assert given == wanted


@FAMILIES
def test_every_length_is_opened(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    lengths = range(1500 - (28 if family == 4 else 48) + 1)
    with counting(world, OPENED=len(lengths)):
        for length in lengths:
            text = text_of(length)
            action, after, _ = world.programs["native"].run(sealed.sealed(text))
            assert (action, after) == (REDIRECT, leaving(sealed.there, text)), length
    assert sealed.held().counts.opened == len(lengths)


@FAMILIES
def test_every_length_is_sealed(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    room = 1500 - SEALED_OVERHEAD - (28 if family == 4 else 48)
    with counting(world, SEALED=room + 1):
        for length in range(room + 1):
            text = text_of(length)
            action, after, _ = world.programs["native"].run(sealed.clear(text))
            payload = payload_of(after)
            assert (action, len(payload)) == (REDIRECT, length + SEALED_OVERHEAD)
            assert sealed.peer.open(payload) == text
            assert after == leaving(sealed.back, payload), length
    assert sealed.peer.seen == set(range(room + 1))
    assert sealed.held().counts.sealed == room + 1


@MODES
@FAMILIES
@pytest.mark.parametrize("component", [0, 1])
def test_both_components_and_modes(world: World, family: int, component: int, mode: str) -> None:
    sealed = SealedWorld(world, family, component=component)
    opens(sealed, sealed.sealed(b"text"), b"text", mode)
    payload = payload_of(world.run(sealed.clear(b"answer"), mode)[2])
    assert sealed.peer.open(payload) == b"answer"
    other = Peer(sealed.keys, 1 - component, counter=10)
    dropped(sealed, frame(sealed.there.source, sealed.there.destination, other.seal(b"text")), Verdict.WRONG_COMPONENT, mode)


@FAMILIES
@pytest.mark.parametrize("length", [0, 5, 70])
def test_every_flipped_bit_is_found(world: World, family: int, length: int) -> None:
    sealed = SealedWorld(world, family)
    payload = sealed.peer.seal(text_of(length), 2**40)
    bits = 8 * len(payload)
    with counting(world, UNKNOWN_KEY=31, WRONG_COMPONENT=1, COUNTER_TOO_HIGH=1, FORGED=bits - 33):
        for bit in range(bits):
            forged = bytearray(payload)
            forged[bit // 8] ^= 128 >> bit % 8
            assert world.programs["native"].run(frame(sealed.there.source, sealed.there.destination, bytes(forged)))[0] == DROP, bit
    counts = sealed.held().counts
    assert (counts.opened, counts.replayed) == (0, 0)
    assert counts.forged == bits - 33
    opens(sealed, frame(sealed.there.source, sealed.there.destination, payload), text_of(length))


@FAMILIES
def test_short_datagrams_are_dropped(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    payload = sealed.peer.seal(b"")
    for length in range(len(payload)):
        dropped(sealed, frame(sealed.there.source, sealed.there.destination, payload[:length]), Verdict.SEALED_TOO_SHORT)
    opens(sealed, frame(sealed.there.source, sealed.there.destination, payload), b"")


def test_what_is_longer_than_the_program_takes_is_dropped(world: World) -> None:
    sealed = SealedWorld(world, 4)
    dropped(sealed, sealed.sealed(bytes(SEALED_LONGEST + 1)), Verdict.SEALED_TOO_LARGE)
    dropped(sealed, sealed.sealed(bytes(1473)), Verdict.SEALED_TOO_LARGE)


def window(counters: Iterable[int]) -> list[bool]:
    """Which of these counters a receiver accepts: docs/protocol.md §13, in sets."""
    accepted: set[int] = set()
    answers = []
    for counter in counters:
        fresh = counter not in accepted and (not accepted or max(accepted) - counter < WINDOW)
        answers.append(fresh)
        if fresh:
            accepted.add(counter)
    return answers


def shuffled(rng: random.Random, count: int) -> list[int]:
    """Counters of a disturbed path: forward by small and large steps, back inside and beyond the window, repeated."""
    at, made = rng.randrange(3) * rng.randrange(2**40), []
    for _ in range(count):
        step = rng.choice((1, 1, 1, 1, 2, 63, 64, 65, rng.randrange(1, 200), rng.choice((960, 1023, 1024, 1025, 5000))))
        at += step if rng.randrange(4) else 0
        made.append(max(0, at - rng.choice((0, 0, 0, 1, 2, 63, 64, 65, 1022, 1023, 1024, 1025, rng.randrange(1100)))))
    return made


@pytest.mark.parametrize("seed", range(8))
def test_replays_and_reordering_against_a_model(world: World, seed: int) -> None:
    rng = random.Random(seed)
    sealed = SealedWorld(world, rng.choice((4, 6)))
    counters = shuffled(rng, 1500)
    model = window(counters)
    with counting(world, OPENED=sum(model), REPLAYED=len(model) - sum(model)):
        for counter, accepted in zip(counters, model, strict=True):
            text = counter.to_bytes(8)
            action, after, _ = world.programs["native"].run(sealed.sealed(text, counter))
            assert (action == REDIRECT) == accepted, counter
            assert not accepted or after == leaving(sealed.there, text)
    assert sealed.held().counts.opened + sealed.held().counts.replayed == len(counters)


def test_a_forged_counter_moves_nothing(world: World) -> None:
    sealed = SealedWorld(world, 4)
    forged = bytearray(sealed.peer.seal(b"text", 2**16 - 1))
    forged[-1] ^= 1
    dropped(sealed, frame(sealed.there.source, sealed.there.destination, bytes(forged)), Verdict.FORGED)
    opens(sealed, sealed.sealed(b"first", 0), b"first")


def test_limits_of_counters(world: World) -> None:
    sealed = SealedWorld(world, 4)
    dropped(sealed, sealed.sealed(b"x", 2**63), Verdict.COUNTER_TOO_HIGH)
    dropped(sealed, sealed.sealed(b"x", 2**64 - 1), Verdict.COUNTER_TOO_HIGH)
    opens(sealed, sealed.sealed(b"last", 2**63 - 1), b"last")
    dropped(sealed, sealed.sealed(b"x", 2**63 - 1 - WINDOW), Verdict.REPLAYED)
    opens(sealed, sealed.sealed(b"x", 2**63 - WINDOW), b"x")
    sealed.set(next=2**32 - 1)
    payload = payload_of(world.run(sealed.clear(b"the last one"))[2])
    assert payload[4:12] == (2**32 - 1).to_bytes(8)
    assert sealed.peer.open(payload) == b"the last one"
    dropped(sealed, sealed.clear(b"one more"), Verdict.KEY_EXHAUSTED)
    assert sealed.held().counts.sealed == 2**32


def test_two_cpus_offered_the_same_datagrams_accept_each_once(world: World) -> None:
    sealed = SealedWorld(world, 4)
    frames = [sealed.sealed(b"once", counter) for counter in range(6_000)]
    before = world.counts()

    def offer(cpu: int, seed: int) -> None:
        os.sched_setaffinity(0, {cpu})
        rng = random.Random(seed)
        for start in range(0, len(frames), 40):
            some = frames[start : start + 40]
            rng.shuffle(some)
            for each in some:
                world.programs["native"].run(each)

    _on_two_cpus(offer)
    counted = {verdict: count - before[verdict] for verdict, count in world.counts().items() if count != before[verdict]}
    opened = counted[Verdict.OPENED]
    assert counted == {Verdict.OPENED: opened, Verdict.REPLAYED: 2 * len(frames) - opened}
    assert opened <= len(frames), "accepted twice"
    assert opened > len(frames) * 3 // 4, "the CPUs were so far apart that the window left one behind"
    counts = sealed.held().counts
    assert (counts.opened, counts.replayed) == (opened, 2 * len(frames) - opened)


def test_two_cpus_never_seal_with_the_same_counter(world: World) -> None:
    sealed = SealedWorld(world, 4)
    given, out = sealed.clear(b"text"), {0: list[bytes](), 1: list[bytes]()}

    def send(cpu: int, place: int) -> None:
        os.sched_setaffinity(0, {cpu})
        for _ in range(6_000):
            out[place].append(payload_of(world.programs["native"].run(given)[1]))

    _on_two_cpus(send)
    for payload in (*out[0], *out[1]):
        assert sealed.peer.open(payload) == b"text"
    assert sealed.peer.seen == set(range(12_000))


def _on_two_cpus(work: Callable[[int, int], None]) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    assert len(cpus) == 2
    threads = [threading.Thread(target=work, args=(cpu, place)) for place, cpu in enumerate(cpus)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


@FAMILIES
def test_keys_are_the_sessions_own(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    key = key_of(sealed.there.source, sealed.there.destination)
    value = world.flows[family].lookup(key)
    assert value is not None
    world.tables[family].update(key, value.replace(SESSION, SESSION[:-1] + b"\x02"))
    dropped(sealed, sealed.sealed(b"text"), Verdict.UNKNOWN_KEY)


@FAMILIES
def test_a_key_that_has_ended_or_was_wiped_opens_and_seals_nothing(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    opens(sealed, sealed.sealed(b"before"), b"before")
    world.programs["end_keys"].run(ending_of(sealed.key, lease(60)))
    opens(sealed, sealed.sealed(b"overlap"), b"overlap")
    world.programs["end_keys"].run(ending_of(sealed.key, 1))
    dropped(sealed, sealed.sealed(b"over"), Verdict.UNKNOWN_KEY)
    sealed.world.run(sealed.clear(b"sealed"))
    _, after, _ = world.programs["end_keys"].run(ending_of(sealed.key, 1, wipe=True))
    counts = ended_of(after)
    assert counts is not None
    assert (counts.opened, counts.sealed, counts.forged, counts.replayed) == (2, 1, 0, 0)
    value = sealed.seals.lookup(sealed.key)
    assert value is not None
    held = SEAL.unpack(value)
    assert [held[name] for name in ("open_key", "open_iv", "seal_key", "seal_iv")] == [bytes(32), bytes(12), bytes(32), bytes(12)]
    dropped(sealed, sealed.clear(b"by zeros"), Verdict.KEY_EXHAUSTED)
    dropped(sealed, sealed.sealed(b"over"), Verdict.UNKNOWN_KEY)
    sealed.seals.update(sealed.key, SEAL.pack({**held, "ends_ns": 0}))  # as a program sees it that looked at the time before
    zeros = Peer(SealKeys(sealed.keys.key_id, bytes(32), bytes(12), bytes(32), bytes(12)))
    for counter in (0, 2, 2**63 - 1):
        dropped(sealed, frame(sealed.there.source, sealed.there.destination, zeros.seal(b"by zeros", counter)), Verdict.REPLAYED)


@FAMILIES
def test_without_its_key_nothing_goes(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    sealed.seals.delete(sealed.key)
    dropped(sealed, sealed.sealed(b"text"), Verdict.UNKNOWN_KEY)
    dropped(sealed, sealed.clear(b"text"), Verdict.UNKNOWN_KEY)


@FAMILIES
def test_too_many_wrong_tags_cost_no_more_time(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    sealed.set(budget_ns=lease(-0.1), budget_used=16384)
    dropped(sealed, sealed.sealed(b"even a good one"), Verdict.FORGE_LIMIT)
    sealed.set(budget_ns=lease(-1.1), budget_used=16384)
    opens(sealed, sealed.sealed(b"a second later"), b"a second later")
    forged = bytearray(sealed.sealed(b"text"))
    forged[-1] ^= 1
    sealed.set(budget_ns=lease(-0.1), budget_used=16383)
    dropped(sealed, bytes(forged), Verdict.FORGED)
    dropped(sealed, bytes(forged), Verdict.FORGE_LIMIT)
    other = SealedWorld(world, family, keys=replace(sealed.keys, key_id=bytes.fromhex("d1123456")))
    opens(other, other.sealed(b"under another key"), b"under another key")


@FAMILIES
def test_a_wrong_tag_under_a_used_counter_costs_nothing(world: World, family: int) -> None:
    """The counter is looked at before the cipher: whoever repeats what he has seen, changed or not, makes nobody compute."""
    sealed = SealedWorld(world, family)
    opens(sealed, sealed.sealed(b"text", 5), b"text")
    forged = bytearray(sealed.sealed(b"text", 5))
    forged[-1] ^= 1
    dropped(sealed, bytes(forged), Verdict.REPLAYED)
    counts = sealed.held().counts
    assert (counts.replayed, counts.forged) == (1, 0)


@MODES
@FAMILIES
def test_the_servers_sum_is_checked(world: World, family: int, mode: str) -> None:
    sealed = SealedWorld(world, family)
    right = int.from_bytes(sealed.clear(b"text")[(40 if family == 4 else 60) :][:2])
    wrong = frame(sealed.back.source, sealed.back.destination, b"text", check=right ^ 0x0101)
    dropped(sealed, wrong, Verdict.SEALED_BAD_CHECKSUM, mode)
    none = frame(sealed.back.source, sealed.back.destination, b"text", check=0)
    if family == 4:
        assert sealed.peer.open(payload_of(world.run(none, mode)[2])) == b"text"
    else:
        dropped(sealed, none, Verdict.SEALED_NO_CHECKSUM, mode)
        unsummed = frame(sealed.there.source, sealed.there.destination, sealed.peer.seal(b"text"), check=0)
        dropped(sealed, unsummed, Verdict.SEALED_NO_CHECKSUM, mode)
    assert sealed.held().counts.sealed == (family == 4)


@FAMILIES
def test_partial_sums_of_local_sockets(world: World, family: int) -> None:
    """Native: the datagram is as good as any, its sum is made anew. Generic: the stack may still finish it, so it is dropped."""
    sealed = SealedWorld(world, family)
    there = frame(sealed.there.source, sealed.there.destination, payload := sealed.peer.seal(b"text"))
    there = there[: -len(payload) - 2] + _pseudo(there, len(payload)) + payload
    back = sealed.clear(b"answer")
    back = back[:-8] + _pseudo(back, 6) + b"answer"
    dropped(sealed, there, Verdict.SEALED_PARTIAL_CHECKSUM, "generic")
    dropped(sealed, back, Verdict.SEALED_PARTIAL_CHECKSUM, "generic")
    opens(sealed, there, b"text")
    assert sealed.peer.open(payload_of(world.run(back)[2])) == b"answer"


def _pseudo(octets: bytes, length: int) -> bytes:
    addresses = octets[26:34] if octets[12:14] == b"\x08\x00" else octets[22:54]
    total = sum(int.from_bytes(addresses[at : at + 2]) for at in range(0, len(addresses), 2)) + 17 + 8 + length
    return ((total - 1) % 65535 + 1).to_bytes(2)


@FAMILIES
def test_padding_behind_the_packet_does_not_leave(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    opens(sealed, sealed.sealed(b"x") + b"\xaa" * 20, b"x")
    after = world.run(sealed.clear(b"x") + b"\xaa" * 30)[2]
    assert sealed.peer.open(payload_of(after)) == b"x"


ODD: dict[str, tuple[dict[str, int | bytes], Verdict]] = {
    "lease": ({"record.lease_ns": 1}, Verdict.SEALED_LEASE_ENDED),
    "interface": ({"state.arrives_on": 2}, Verdict.SEALED_OTHER_INTERFACE),
    "station": ({"state.arrives_at": bytes(6)}, Verdict.SEALED_OTHER_STATION),
    "hop": ({"state.hop": UNRESOLVED}, Verdict.SEALED_NO_NEXT_HOP),
    "no hop": ({"state.hop": 2**16 - 1}, Verdict.SEALED_NO_NEXT_HOP),
    "no exit": ({"state.hop": NO_EXIT}, Verdict.SEALED_NO_NEXT_HOP),
}


@MODES
@FAMILIES
@pytest.mark.parametrize("odd", ODD)
def test_what_goes_up_of_a_plain_flow_is_dropped_of_a_sealed_one(world: World, family: int, odd: str, mode: str) -> None:
    change, expected = ODD[odd]
    layout = ENTRY4 if family == 4 else ENTRY6
    sealed = SealedWorld(world, family)
    for flow in (sealed.there, sealed.back):
        key = key_of(flow.source, flow.destination)
        value = world.flows[family].lookup(key)
        assert value is not None
        world.tables[family].update(key, layout.pack({**layout.unpack(value), **change}))
    for given in (sealed.sealed(b"text"), sealed.clear(b"text")):
        dropped(sealed, given, expected, mode)
    assert sealed.held().counts.opened == sealed.held().counts.sealed == 0


@MODES
@FAMILIES
def test_the_last_hop_of_a_datagram_is_here(world: World, family: int, mode: str) -> None:
    sealed = SealedWorld(world, family)
    for ttl in (0, 1):
        for flow, payload in ((sealed.there, sealed.peer.seal(b"text")), (sealed.back, b"text")):
            dropped(sealed, frame(flow.source, flow.destination, payload, ttl=ttl), Verdict.SEALED_TTL_ENDS, mode)


@FAMILIES
def test_what_the_way_to_the_server_can_not_take_is_dropped(world: World, family: int) -> None:
    sealed = SealedWorld(world, family, hop=NARROW)
    fits = 600 - (28 if family == 4 else 48)
    opens(sealed, sealed.sealed(bytes(fits)), bytes(fits))
    dropped(sealed, sealed.sealed(bytes(fits + 1)), Verdict.SEALED_TOO_LARGE)


def test_an_empty_place_drops(world: World) -> None:
    sealed = SealedWorld(world, 4)
    with Map.open(world.folder / "programs") as slots:
        for slot in (Slot.OPEN4, Slot.SEAL4):
            slots.delete(slot.to_bytes(4, "little"))
        try:
            dropped(sealed, sealed.sealed(b"text"), Verdict.SEALED_NO_PROGRAM)
            dropped(sealed, sealed.clear(b"text"), Verdict.SEALED_NO_PROGRAM)
        finally:
            for slot in (Slot.OPEN4, Slot.SEAL4):
                with Program.open(world.folder / slot.name.lower()) as program:
                    slots.update(slot.to_bytes(4, "little"), program.descriptor.to_bytes(4, "little"))
    opens(sealed, sealed.sealed(b"text"), b"text")


def test_a_sealing_program_alone_touches_no_plain_flow(world: World) -> None:
    """Called for a flow that has become a plain one meanwhile it drops, too."""
    sealed = SealedWorld(world, 4)
    given = sealed.sealed(b"text")
    world.tables[4].update(
        key_of(sealed.there.source, sealed.there.destination), value_of(sealed.there, SESSION, Case(sealed.there).arrives, 0, lease(60))
    )
    with Program.open(world.folder / "open4") as program:
        assert program.run(given)[0] == DROP
