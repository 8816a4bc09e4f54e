"""Which key seals and which ones open: whatever is under way while keys change arrives, and what is dropped is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.client.data_keys import KEYS_AT_ONCE, DataKeys, SealCounters
from chainrelay.errors import Code, Refusal
from chainrelay.limits import SEAL_DATAGRAMS_PER_KEY
from chainrelay.wire.sealed import ForgedError, ReplayedError, Sealer, SealKeys, UnknownKeyError, new_key_id
from unit.client.sealed_chain import Seal


def keys(number: int) -> SealKeys:
    filled = bytes([number + 1])
    return SealKeys(new_key_id(filled * 4, number), filled * 32, filled * 12, (filled + b"r") * 16, filled * 12)


def from_relay(number: int) -> Sealer:
    one = keys(number)
    return Sealer(one.key_id, one.seal_key, one.seal_iv)


def session(*numbers: int) -> DataKeys:
    made = DataKeys()
    for number in numbers:
        made.prepare(keys(number))
        made.adopt(keys(number).key_id)
    return made


@given(st.lists(st.sampled_from(["up", "down", "hear up", "hear down", "rekey", "rekeyed", "retire"]), max_size=200))
def test_no_change_of_keys_loses_a_datagram(events: list[str]) -> None:
    """Both ends and two queues between them, in any order that time allows; a key is retired when nothing under it is under way."""
    client, relay = session(0), Seal()
    relay.rekey(keys(0))
    up: list[bytes] = []
    down: list[bytes] = []
    newest, pending, sent, heard = 0, False, 0, 0
    for event in events:
        match event:
            case "up":
                up.append(client.seal(b"up"))
                sent += 1
            case "down":
                datagram = relay.seal(b"down", 0)
                assert datagram is not None
                down.append(datagram)
                sent += 1
            case "hear up" if up:
                assert relay.open(up.pop(), 0) == b"up"  # the latest first: they overtake each other
                heard += 1
            case "hear down" if down:
                assert client.open(down.pop()) == b"down"
                heard += 1
            case "rekey" if not pending and all(each[:4] == keys(newest).key_id for each in up):
                newest, pending = newest + 1, True  # the relay keeps the key before, no older one: nothing under it is on its way
                client.prepare(keys(newest))
                relay.rekey(keys(newest))
            case "rekeyed" if pending:
                client.adopt(keys(newest).key_id)
                pending = False
            case "retire" if not pending and all(each[:4] == keys(newest).key_id for each in down):
                client.retire(keys(newest).key_id)
            case _:
                pass
        if newest == 60:
            break
    assert sent == heard + len(up) + len(down)
    assert relay.refused == []
    counters = client.counters
    assert counters.unknown == counters.forged == counters.replayed == 0


def test_without_a_key_nothing_passes() -> None:
    none = DataKeys()
    with pytest.raises(Refusal) as refused:
        none.seal(b"text")
    assert refused.value.code is Code.SEAL_KEY_MISSING
    with pytest.raises(UnknownKeyError):
        none.open(from_relay(0).seal(b"text"))
    assert none.counters == SealCounters(unknown=1)
    assert none.used == 0


def test_a_prepared_key_does_not_seal() -> None:
    one = session(0)
    one.prepare(keys(1))
    assert one.seal(b"text")[:4] == keys(0).key_id
    one.adopt(keys(1).key_id)
    assert one.seal(b"text")[:4] == keys(1).key_id


def test_the_first_key_seals_when_it_is_adopted_and_not_before() -> None:
    """Until then nobody has compared what the relay says of itself."""
    one = DataKeys()
    one.prepare(keys(0))
    assert one.open(from_relay(0).seal(b"early")) == b"early"
    with pytest.raises(Refusal):
        one.seal(b"text")


def test_a_datagram_under_a_prepared_key_stands_for_rekeyed_and_no_counter_comes_twice() -> None:
    one, before, after = session(0), from_relay(0), from_relay(1)
    one.prepare(keys(1))
    late = before.seal(b"late")
    forged = after.seal(b"text")[:-1] + b"\0"
    with pytest.raises(ForgedError):
        one.open(forged)
    assert one.seal(b"text")[:4] == keys(0).key_id
    assert one.open(after.seal(b"early")) == b"early"
    first = one.seal(b"text")
    assert one.open(late) == b"late"
    one.adopt(keys(1).key_id)
    one.adopt(keys(0).key_id)
    second = one.seal(b"text")
    assert [each[:12] for each in (first, second)] == [keys(1).key_id + bytes(7) + bytes((counter,)) for counter in (0, 1)]
    assert one.counters == SealCounters(sealed=3, opened=2, forged=1)


def test_retiring_forgets_what_was_before() -> None:
    one = session(0, 1)
    relay = from_relay(0)
    assert one.open(relay.seal(b"under way")) == b"under way"
    one.retire(keys(1).key_id)
    with pytest.raises(UnknownKeyError):
        one.open(relay.seal(b"too late"))
    one.retire(keys(0).key_id)
    assert one.open(from_relay(1).seal(b"text")) == b"text", "a late timer of a key that has gone is nobody's"


def test_rekeys_without_an_end_keep_the_key_that_seals() -> None:
    """REKEY after REKEY whose answer was lost."""
    one = session(0)
    for number in range(1, 12):
        one.prepare(keys(number))
    assert len(one._keys) == KEYS_AT_ONCE
    assert len(one._openers) == 2 * KEYS_AT_ONCE
    assert one.open(from_relay(0).seal(b"text")) == b"text"
    assert one.open(from_relay(11).seal(b"text")) == b"text"


def test_everything_that_is_dropped_is_counted_once() -> None:
    one, relay = session(0, 1), from_relay(1)
    good = relay.seal(b"text")
    assert one.open(good) == b"text"
    forged = relay.seal(b"text")[:-1] + b"\0"
    for datagram, error in ((good, ReplayedError), (forged, ForgedError), (b"", UnknownKeyError), (b"plain text" * 9, UnknownKeyError)):
        with pytest.raises(error):
            one.open(datagram)
    with pytest.raises(UnknownKeyError):
        one.open(relay.seal(b"text", 1), 0)
    one.seal(b"out")
    expected = SealCounters(sealed=1, opened=1, forged=1, replayed=1, unknown=3)
    assert one.counters == expected
    one.prepare(keys(2))
    one.adopt(keys(2).key_id)
    one.retire(keys(2).key_id)
    assert one.counters == expected, "and stays when the key has gone"


def test_a_key_is_used_by_either_direction() -> None:
    one, relay = session(0), from_relay(0)
    for _ in range(3):
        one.seal(b"text")
    assert one.used == 3
    relay.counter = 99
    one.open(relay.seal(b"text"))
    assert one.used == 100
    one.prepare(keys(1))
    assert one.used == 100
    one.adopt(keys(1).key_id)
    assert one.used == 0


def test_a_used_up_key_says_so() -> None:
    one = session(0)
    assert one._sealer is not None
    one._sealer.counter = SEAL_DATAGRAMS_PER_KEY
    with pytest.raises(Refusal, match="used up") as refused:
        one.seal(b"text")
    assert refused.value.code is Code.SEAL_KEY_MISSING
