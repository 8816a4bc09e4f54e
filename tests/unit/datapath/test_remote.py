"""The helper's socket as octets: what goes in comes out, and nothing else is taken for it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.datapath import remote
from chainrelay.datapath.mapping import Counters, Done, Failed, Install, LiveFlow, Mapping, Operation, Outcome, Rekey, Remove, Renew
from chainrelay.datapath.remote import Question, Verb
from chainrelay.errors import DatapathError, ProtocolError
from chainrelay.limits import BATCH
from chainrelay.wire import cbor
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import SealKeys

ENDS = tuple(map(Endpoint.parse, ("10.0.0.5:5000", "10.0.0.1:20000", "10.0.2.1:20001", "10.0.2.2:20100")))
MAPPING = Mapping(bytes(range(16)), Protocol.UDP, 2, *ENDS)
SIX = Mapping(bytes(16), Protocol.TCP, 1, *(Endpoint(IPv6Address(f"fd00::{n}"), 65535) for n in range(1, 5)))
SEALED = replace(MAPPING, sealed=True)
KEYS = SealKeys(bytes((0xD0, 1, 2, 4)), bytes(range(32)), bytes(range(12)), bytes(range(32, 64)), bytes(range(64, 76)))
OCTETS = KEYS.key_id + KEYS.open_key + KEYS.open_iv + KEYS.seal_key + KEYS.seal_iv
PACKED = [bytes(16), 17, 1, False, *(bytes((10, 0, 0, n, 0, 80)) for n in range(1, 5))]


def test_operations_survive() -> None:
    sent: tuple[Operation, ...] = (Install(MAPPING, 122.0), Renew(SIX, 0.25), Remove(MAPPING), Remove(SIX, linger=True))
    assert remote.read_question(remote.apply(sent)) == Question(Verb.APPLY, operations=sent)
    assert remote.read_question(remote.counters([MAPPING, SIX, SEALED])).mappings == (MAPPING, SIX, SEALED)


def test_sealed_mappings_and_their_keys_survive() -> None:
    sent: tuple[Operation, ...] = (Install(SEALED, 122.0, KEYS), Renew(SEALED, 0.25), Rekey(SEALED, KEYS), Remove(SEALED))
    assert remote.read_question(remote.apply(sent)) == Question(Verb.APPLY, operations=sent)


@pytest.mark.parametrize(
    "operation",
    [
        [1, 1000, *PACKED[:3], True, *PACKED[4:]],
        [4, 1000, OCTETS, *PACKED],
        [5, OCTETS, *PACKED],
        [4, 1000, OCTETS[:-1], *PACKED[:3], True, *PACKED[4:]],
        [4, 1000, b"\x40" + OCTETS[1:], *PACKED[:3], True, *PACKED[4:]],
        [4, 1000, OCTETS[:3] + b"\x05" + OCTETS[4:], *PACKED[:3], True, *PACKED[4:]],
        [5, *PACKED[:3], True, *PACKED[4:]],
        [2, 1000, PACKED[0], 6, 1, True, *PACKED[4:]],
    ],
    ids=["no keys", "plain with keys", "plain rekey", "short", "no key id", "component 1", "rekey without", "TCP"],
)
def test_keys_belong_to_sealed_mappings_of_udp(operation: list[object]) -> None:
    with pytest.raises(ProtocolError) as refused:
        remote.read_question(cbor.encode([int(Verb.APPLY), [operation]]))
    assert OCTETS.hex()[8:72] not in str(refused.value)
    assert repr(OCTETS[4:36])[2:-1] not in str(refused.value), "nor within a longer text"


@pytest.mark.parametrize("verb", [Verb.SETUP, Verb.FLOWS, Verb.FLUSH_OWN, Verb.INTACT, Verb.SEALS])
def test_verbs_without_arguments(verb: Verb) -> None:
    assert remote.read_question(remote.plain(verb)) == Question(verb)


def test_answers_survive() -> None:
    found: list[Outcome] = [Done(Counters(1, 2, 3, 2**63)), Failed("no room", full=True), Failed("lost", keyless=True)]
    assert remote.read_outcomes(remote.outcomes(found), 3) == found
    assert remote.read_counted(remote.counted([Counters(4, 3, 2, 1)]), 1) == [Counters(4, 3, 2, 1)]
    assert remote.read_whether(Verb.INTACT, remote.whether(Verb.INTACT, False)) is False
    assert remote.read_whether(Verb.SEALS, remote.whether(Verb.SEALS, True)) is True
    for other in (remote.whether(Verb.INTACT, True), cbor.encode([int(Verb.SEALS), 1]), remote.plain(Verb.SEALS)):
        with pytest.raises(ProtocolError):
            remote.read_whether(Verb.SEALS, other)
    assert remote.read_answer(Verb.HELLO, remote.hello()) == [remote.VERSION]
    with pytest.raises(DatapathError, match="a reason") as refused:
        remote.read_answer(Verb.SETUP, remote.refused(DatapathError("a reason", full=True)))
    assert refused.value.full


@pytest.mark.parametrize("count", [0, 1, BATCH, 2 * BATCH + 1])
def test_flows_come_in_pages(count: int) -> None:
    sent = [LiveFlow(Protocol.UDP, Endpoint(ENDS[0].address, 1 + n), ENDS[1], 1.5, n, 2 * n, sealed=n % 2 == 0) for n in range(count)]
    packets = remote.flows(sent)
    assert max(map(len, packets)) <= remote.PACKET
    pages = [remote.read_flows(each) for each in packets]
    assert [flow for page, _ in pages for flow in page] == sent
    assert [more for _, more in pages] == [True] * (len(pages) - 1) + [False]


def test_the_largest_batch_fits_into_a_packet() -> None:
    whole = remote.apply([Install(replace(SIX, protocol=Protocol.UDP, sealed=True), 3600.0, KEYS)] * BATCH)
    assert len(whole) <= remote.PACKET
    assert len(remote.read_question(whole).operations) == BATCH
    assert len(remote.outcomes([Failed("x" * 100)] * BATCH)) <= remote.PACKET


@pytest.mark.parametrize(
    "question",
    [
        [],
        {0: 1},
        "run this",
        [99],
        [-1],
        [True],
        [Verb.REFUSED, "x", False],
        [Verb.SETUP, 1],
        [Verb.HELLO],
        [Verb.HELLO, "1"],
        [Verb.APPLY],
        [Verb.APPLY, "flush ruleset"],
        [Verb.APPLY, [[1, 1000, *PACKED]] * (BATCH + 1)],
        [Verb.APPLY, [[6, 1000, *PACKED]]],
        [Verb.APPLY, [[1, -1, *PACKED]]],
        [Verb.APPLY, [[1, 2**63, *PACKED]]],
        [Verb.APPLY, [[3, 0, *PACKED]]],
        [Verb.APPLY, [[1, 1000, *PACKED, 0]]],
        [Verb.APPLY, [[1, 1000, bytes(15), *PACKED[1:]]]],
        [Verb.APPLY, [[1, 1000, PACKED[0], 1, *PACKED[2:]]]],
        [Verb.APPLY, [[1, 1000, *PACKED[:2], 3, *PACKED[3:]]]],
        [Verb.APPLY, [[1, 1000, *PACKED[:7], bytes((10, 0, 0, 4, 0, 0))]]],
        [Verb.APPLY, [[1, 1000, *PACKED[:7], bytes((224, 0, 0, 4, 0, 9))]]],
        [Verb.APPLY, [[1, 1000, *PACKED[:7], bytes(4) + b"\0\x09"]]],
        [Verb.APPLY, [[1, 1000, *PACKED[:7], b"\xfd" + bytes(16) + b"\x09"]]],
        [Verb.APPLY, [[1, 1000, *PACKED[:7], bytes(10) + b"\xff\xff\x0a\0\0\x01\0\x09"]]],
        [Verb.COUNTERS, [[1, 1000, *PACKED]]],
    ],
)
def test_what_is_no_question_is_refused(question: object) -> None:
    encoded = cbor.encode([int(each) if isinstance(each, Verb) else each for each in question] if type(question) is list else question)
    with pytest.raises(ProtocolError):
        remote.read_question(encoded)


def test_the_last_port_has_no_next() -> None:
    with pytest.raises(ProtocolError):
        remote.read_question(remote.apply([Remove(replace(MAPPING, server_partner=Endpoint(ENDS[3].address, 65535)))]))


@given(st.binary(max_size=300))
def test_random_octets_raise_nothing_else(octets: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        remote.read_question(octets)
    for verb in Verb:
        with contextlib.suppress(ProtocolError, DatapathError):
            remote.read_answer(verb, octets)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_octet_raises_nothing_else(at: int, octet: int) -> None:
    packet = bytearray(remote.apply([Install(MAPPING, 1.0), Remove(SIX), Install(SEALED, 1.0, KEYS), Rekey(SEALED, KEYS)]))
    packet[at % len(packet)] = octet
    with contextlib.suppress(ProtocolError):
        remote.read_question(bytes(packet))


@pytest.mark.parametrize("answer", [[], ["x"], [[]], [[[1, 2, 3]]], [[[1, 2, 3, -4]]], [[["why", False]]], [[[True, 0, 0, 0]]]])
def test_what_is_no_answer_is_refused(answer: list[Any]) -> None:
    with pytest.raises(ProtocolError):
        remote.read_outcomes(cbor.encode([int(Verb.APPLY), *answer]), 1)
