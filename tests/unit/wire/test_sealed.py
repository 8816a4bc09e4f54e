"""Sealed datagrams: the format spelled out a second time, the window against a naive model, every way not to be opened."""

from __future__ import annotations

import struct
from dataclasses import astuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import example, given
from hypothesis import strategies as st

from chainrelay.errors import ProtocolError
from chainrelay.limits import SEAL_DATAGRAMS_PER_KEY, SEAL_WINDOW
from chainrelay.wire.sealed import (
    SEALED_OVERHEAD,
    ForgedError,
    Opener,
    OpenError,
    ReplayedError,
    Sealer,
    SealKeys,
    UnknownKeyError,
    Window,
    is_key_id,
    new_key_id,
    of_component,
)
from unit.wire.test_wycheproof import cases, octets

ID = bytes.fromhex("d3a1b2c4")
KEYS = SealKeys(ID, bytes(range(32)), bytes(range(12)), bytes(range(32, 64)), bytes(range(50, 62)))


def by_the_text(key: bytes, iv: bytes, key_id: bytes, counter: int, text: bytes) -> bytes:
    """docs/protocol.md §13, written down once more."""
    associated = key_id + struct.pack(">Q", counter)
    nonce = bytes(a ^ b for a, b in zip(iv, bytes(4) + struct.pack(">Q", counter), strict=True))
    return associated + ChaCha20Poly1305(key).encrypt(nonce, text, associated)


class Naive:
    """The window as the text says it, with a memory that never ends."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.accepted: set[int] = set()

    def fresh(self, counter: int) -> bool:
        return counter < 2**63 and counter not in self.accepted and max(self.accepted, default=-1) - counter < self.size


@given(st.lists(st.integers(0, 300) | st.integers(0, 2**64 - 1), max_size=60), st.integers(1, 64))
@example([0, 0, 63, 64, 0, 1, 127, 63, 64], 64)
@example([2**63, 2**63 - 1, 0, 2**63 - 64, 2**63 - 65], 64)
def test_the_window_is_the_naive_one(counters: list[int], size: int) -> None:
    window, naive = Window(size), Naive(size)
    for counter in counters:
        assert window.fresh(counter) == naive.fresh(counter)
        if naive.fresh(counter):
            window.mark(counter)
            naive.accepted.add(counter)


@given(st.lists(st.integers(-1100, 1100), max_size=200))
def test_steps_around_the_windows_edge(steps: list[int]) -> None:
    window, naive, counter = Window(), Naive(SEAL_WINDOW), 5000
    for step in steps:
        counter = max(0, counter + step)
        assert window.fresh(counter) == naive.fresh(counter)
        if naive.fresh(counter):
            window.mark(counter)
            naive.accepted.add(counter)


def test_asking_changes_nothing() -> None:
    window = Window()
    assert window.fresh(2**62)
    assert window.fresh(0)
    window.mark(0)
    assert not window.fresh(0)


def test_the_windows_edge_is_at_1024() -> None:
    window = Window()
    window.mark(1024)
    assert window.fresh(1)
    assert not window.fresh(0)


@given(st.binary(max_size=1500), st.integers(0, 2**32 - 1), st.sampled_from([0, 1]))
@example(b"", 0, 0)
def test_a_datagram_is_what_the_text_says(text: bytes, counter: int, component: int) -> None:
    sealer = KEYS.sealer()
    sealer.counter = counter
    datagram = sealer.seal(text, component)
    key_id = bytes.fromhex("d3a1b2c5" if component else "d3a1b2c4")
    assert datagram == by_the_text(KEYS.open_key, KEYS.open_iv, key_id, counter, text)
    assert len(datagram) == len(text) + SEALED_OVERHEAD
    assert Opener(ID, KEYS.open_key, KEYS.open_iv).open(datagram, component) == text


def test_the_client_opens_what_the_relay_seals() -> None:
    opener = KEYS.opener()
    for counter in (0, 1, 70_000, 2**40):
        assert opener.open(by_the_text(KEYS.seal_key, KEYS.seal_iv, ID, counter, b"picture")) == b"picture"
    assert opener.opened == 4
    assert opener.unknown == opener.forged == opener.replayed == 0


def test_both_components_share_counter_and_window() -> None:
    sealer, opener = KEYS.sealer(), Opener(ID, KEYS.open_key, KEYS.open_iv)
    media, control = sealer.seal(b"media", 0), sealer.seal(b"control", 1)
    assert (media[11], control[11]) == (0, 1)
    assert opener.open(control, 1) == b"control"
    assert opener.open(media, 0) == b"media"
    with pytest.raises(ReplayedError):
        opener.open(control, 1)


def test_a_datagram_belongs_to_its_components_port() -> None:
    sealer, opener = KEYS.sealer(), Opener(ID, KEYS.open_key, KEYS.open_iv)
    datagram = sealer.seal(b"media", 0)
    with pytest.raises(UnknownKeyError):
        opener.open(datagram, 1)
    with pytest.raises(ForgedError):
        opener.open(of_component(datagram[:4], 1) + datagram[4:], 1)
    assert opener.open(datagram, 0) == b"media"


def test_every_flipped_bit_is_found_and_costs_nothing() -> None:
    datagram, opener = KEYS.sealer().seal(b"sixteen octets.."), Opener(ID, KEYS.open_key, KEYS.open_iv)
    for bit in range(len(datagram) * 8):
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(OpenError):
            opener.open(bytes(changed))
    assert opener.unknown == 32
    assert opener.replayed == 1, "bit 63 of the counter: 2⁶³"
    assert opener.forged == len(datagram) * 8 - 33
    assert opener.open(datagram) == b"sixteen octets.."


def test_every_shortening_is_found() -> None:
    datagram, opener = KEYS.sealer().seal(b"text"), Opener(ID, KEYS.open_key, KEYS.open_iv)
    for length in range(len(datagram)):
        with pytest.raises(OpenError):
            opener.open(datagram[:length])
    assert opener.unknown == SEALED_OVERHEAD
    assert opener.opened == 0


def test_a_datagram_is_opened_once() -> None:
    sealer, opener = KEYS.sealer(), Opener(ID, KEYS.open_key, KEYS.open_iv)
    datagrams = [sealer.seal(bytes([n])) for n in range(3)]
    for n in (2, 0, 1):
        assert opener.open(datagrams[n]) == bytes([n])
    for datagram in datagrams:
        with pytest.raises(ReplayedError):
            opener.open(datagram)
    assert opener.replayed == 3


def test_what_is_forged_does_not_move_the_window() -> None:
    sealer, opener = KEYS.sealer(), Opener(ID, KEYS.open_key, KEYS.open_iv)
    datagram = sealer.seal(b"text")
    with pytest.raises(ForgedError):
        opener.open(ID + (2**62).to_bytes(8, "big") + datagram[12:])
    assert opener.open(datagram) == b"text"


def test_a_used_up_key_seals_nothing() -> None:
    sealer = KEYS.sealer()
    sealer.counter = SEAL_DATAGRAMS_PER_KEY - 1
    assert sealer.seal(b"the last one")[4:12] == bytes.fromhex("00000000ffffffff")
    with pytest.raises(ProtocolError, match="used up"):
        sealer.seal(b"one more")
    assert sealer.counter == SEAL_DATAGRAMS_PER_KEY


@given(st.binary(min_size=4, max_size=4), st.integers(0, 40))
def test_key_ids(random: bytes, epoch: int) -> None:
    made = new_key_id(random, epoch)
    assert is_key_id(made)
    assert made[0] == 0xD0 + epoch % 16
    assert made[1:3] == random[1:3]
    assert made[3] == random[3] - random[3] % 2
    first = made[0]
    assert not (first <= 3 or 16 <= first <= 79 or 128 <= first <= 191), "RFC 7983 gives it to somebody"


@pytest.mark.parametrize("octets", [b"", ID[:3], ID + b"\0", bytes.fromhex("c3a1b2c4"), bytes.fromhex("d3a1b2c5")])
def test_what_is_no_key_id(octets: bytes) -> None:
    assert not is_key_id(octets)


def test_wrong_lengths_are_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="random octets"):
        new_key_id(bytes(3), 0)
    with pytest.raises(ValueError, match="IV"):
        Sealer(ID, bytes(32), bytes(11))
    with pytest.raises(ValueError, match="IV"):
        Opener(ID, bytes(32), bytes(13))


def test_keys_are_not_printed() -> None:
    assert repr(KEYS) == f"SealKeys(key_id={ID!r})"
    assert all(part.hex() not in repr(KEYS) for part in astuple(KEYS)[1:])


def test_wycheproof_as_datagrams() -> None:
    """Every case's key, nonce and message; the cases whose associated data can be a datagram's header as they stand."""
    as_they_stand = 0
    for group, test in cases("chacha20_poly1305_test.json"):
        if group["ivSize"] != 96:
            continue
        key, nonce, associated, message, text, tag = octets(test, "key", "iv", "aad", "msg", "ct", "tag")
        sealer = Sealer(ID, key, nonce)
        assert sealer.seal(message) == by_the_text(key, nonce, ID, 0, message)
        assert sealer.seal(message) == by_the_text(key, nonce, ID, 1, message)
        if len(associated) == 12 and associated[4] < 0x80:
            iv = bytes(a ^ b for a, b in zip(nonce, bytes(4) + associated[4:], strict=True))
            opener = Opener(associated[:4], key, iv)
            if test["result"] == "valid":
                assert opener.open(associated + text + tag, associated[3] & 1) == message, test["tcId"]
            else:
                with pytest.raises(ForgedError):
                    opener.open(associated + text + tag, associated[3] & 1)
            as_they_stand += 1
    assert as_they_stand > 0
