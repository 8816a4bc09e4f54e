"""The handshake under abuse: whatever is not the one right message is refused with nothing to send, and nobody is accepted.

Reflection, role swap, splice, replay, wrong place, wrong length, wrong bit: docs/threat-model.md leans on this file.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.errors import AuthenticationError, Code
from chainrelay.wire import cbor
from chainrelay.wire import handshake as hs
from chainrelay.wire.handshake import Initiator, Responder
from chainrelay.wire.keys import DIRECT, Context, PairKey, PairSecrets, Purpose
from chainrelay.wire.primitives import Ephemeral, mac
from wirelab import Pair, ephemeral

SESSION = bytes(range(16))
END_TO_END = Context(way=1, hop=2, session=SESSION, previous="fw1")


def signed(pair: Pair, items: list[Any]) -> bytes:
    """An M1 of `items` (13 of them) with a right tag: what an insider may write."""
    secrets = pair.key.secrets(pair.initiator.encode(), pair.responder.encode())
    return cbor.encode([*items, mac(secrets.hello, b"cr1 m1" + cbor.encode(items))[:16]])


def refuse_m1(pair: Pair, m1: bytes) -> None:
    """No M2, and the object is of no further use."""
    responder = pair.await_()
    with pytest.raises(AuthenticationError):
        responder.answer(m1)
    with pytest.raises(AuthenticationError):
        responder.finish(b"\x83")
    with pytest.raises(AuthenticationError):
        responder.channel()
    assert responder.peer == ""


# every bit, every length ------------------------------------------------------


def test_every_bit_of_m1() -> None:
    pair = Pair()
    m1 = pair.start().hello()
    for bit in range(8 * len(m1)):
        flipped = bytearray(m1)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthenticationError):
            pair.await_().answer(bytes(flipped))


def test_every_bit_of_m2() -> None:
    pair = Pair()
    start = pair.start()
    hello = start.hello()
    m2 = pair.await_().answer(hello)
    for bit in range(8 * len(m2)):
        flipped = bytearray(m2)
        flipped[bit // 8] ^= 1 << bit % 8
        start._hello = hello  # as if each attempt were the first
        with pytest.raises(AuthenticationError):
            start.answer(bytes(flipped))
        with pytest.raises(AuthenticationError):
            start.channel()


def test_every_bit_of_m3() -> None:
    pair = Pair()
    i, r = pair.start(), pair.await_()
    m3 = i.answer(r.answer(i.hello()))
    pending = r._pending
    for bit in range(8 * len(m3)):
        flipped = bytearray(m3)
        flipped[bit // 8] ^= 1 << bit % 8
        r._pending = pending
        with pytest.raises(AuthenticationError):
            r.finish(bytes(flipped))
        with pytest.raises(AuthenticationError):
            r.channel()


def test_every_truncation_and_an_octet_more() -> None:
    pair = Pair()
    i, r = pair.start(), pair.await_()
    m1 = i.hello()
    m2 = r.answer(m1)
    hello, pending = i._hello, r._pending
    for wrong in [m1[:length] for length in range(len(m1))] + [m1 + b"\0"]:
        refuse_m1(pair, wrong)
    for wrong in [m2[:length] for length in range(len(m2))] + [m2 + b"\0"]:
        i._hello = hello
        with pytest.raises(AuthenticationError):
            i.answer(wrong)
    i._hello = hello
    m3 = i.answer(m2)
    for wrong in [m3[:length] for length in range(len(m3))] + [m3 + b"\0"]:
        r._pending = pending
        with pytest.raises(AuthenticationError):
            r.finish(wrong)


@given(st.binary(max_size=420))
def test_random_octets_anywhere(body: bytes) -> None:
    pair = Pair()
    refuse_m1(pair, body)
    i, r = pair.start(), pair.await_()
    r.answer(i.hello())
    with pytest.raises(AuthenticationError):
        i.answer(body)
    with pytest.raises(AuthenticationError):
        r.finish(body)


# who ---------------------------------------------------------------------------


def test_reflection() -> None:
    """Our own M1 back to us, as an M1 to our responder's half and as an answer."""
    pair = Pair()
    i = pair.start()
    m1 = i.hello()
    mirror = Responder(
        "alice", find_key=lambda *_: pair.key, expected_purpose=lambda _: pair.purpose, nonce=os.urandom(32), ephemeral=ephemeral
    )
    with pytest.raises(AuthenticationError, match="not for this id"):
        mirror.answer(m1)
    with pytest.raises(AuthenticationError):
        i.answer(m1)


def test_reflected_through_the_other_role() -> None:
    """Both hosts play both roles on one key: what fw1 proves as responder is worth nothing toward fw1 or alice as initiator."""
    pair = Pair()
    swapped = Pair("fw1", "alice", key=pair.key)
    i = pair.start()
    m2 = pair.await_().answer(i.hello())
    refuse_m1(swapped, i.hello())
    other = swapped.start()
    other.hello()
    with pytest.raises(AuthenticationError):
        other.answer(m2)


def test_role_swapped_tags() -> None:
    """M3 made with the responder's key, M2 with the initiator's: tags differ in key, label and order."""
    pair = Pair()
    i, r = pair.start(), pair.await_()
    m2 = r.answer(i.hello())
    _, _, tag = cbor.decode(i.answer(m2))
    *rest, tag_r = cbor.decode(m2)
    with pytest.raises(AuthenticationError):
        r.finish(cbor.encode(["alice", "fw1", tag_r]))
    again = pair.start()
    again.hello()
    with pytest.raises(AuthenticationError):
        again.answer(cbor.encode([*rest, tag]))


def test_directional_keys_differ() -> None:
    secrets = PairSecrets.derive(bytes(32), b"alice", b"fw1")
    back = PairSecrets.derive(bytes(32), b"fw1", b"alice")
    assert len({secrets.hello, secrets.mix, secrets.from_initiator, secrets.from_responder, back.hello, back.mix}) == 6
    assert (back.from_initiator, back.from_responder) == (secrets.from_responder, secrets.from_initiator)
    assert PairSecrets.derive(bytes(32), b"alicef", b"w1") != secrets


def test_unknown_id_unknown_key_and_wrong_key() -> None:
    pair = Pair()
    refuse_m1(pair, Pair("mallory", key=pair.key).start().hello())
    refuse_m1(pair, Pair(key=PairKey("k2", pair.key.secret)).start().hello())
    refuse_m1(pair, Pair(key=PairKey("k1", os.urandom(32))).start().hello())
    refuse_m1(pair, Pair(responder="fw2", key=pair.key).start().hello())


def test_an_unknown_id_with_the_stand_in_key_is_nobody() -> None:
    """Whoever reads this source knows the stand-in key: it must not open anything, whatever ids it is used with."""
    pair = Pair()
    for secrets in (hs._NOBODY.secrets(b"?", b"??"), hs._NOBODY.secrets(b"mallory", b"fw1")):
        items = cbor.decode(Pair("mallory").start().hello())[:-1]
        refuse_m1(pair, cbor.encode([*items, mac(secrets.hello, b"cr1 m1" + cbor.encode(items))[:16]]))


def test_no_ephemeral_key_is_spent_on_strangers() -> None:
    pair = Pair()
    spent: list[Ephemeral] = []

    def spend() -> Ephemeral:
        spent.append(ephemeral())
        return spent[-1]

    responder = Responder(
        "fw1",
        find_key=lambda *_: None,
        expected_purpose=lambda _: Purpose.CLIENT_HOP,
        nonce=os.urandom(32),
        ephemeral=spend,
    )
    with pytest.raises(AuthenticationError):
        responder.answer(pair.start().hello())
    assert not spent


def test_same_id_at_both_ends() -> None:
    key = PairKey("k1", os.urandom(32))
    with pytest.raises(AuthenticationError, match="himself"):
        Initiator("fw1", "fw1", key, Purpose.RELAY_HOP, nonce=os.urandom(32), ephemeral=ephemeral())
    pair = Pair()
    items = cbor.decode(pair.start().hello())[:-1]
    items[7] = "fw1"
    same = Pair("fw1", "fw1", key=key)
    refuse_m1(same, signed(same, items))


# where -------------------------------------------------------------------------


@pytest.mark.parametrize("came_for", Purpose)
@pytest.mark.parametrize("place", Purpose)
def test_purposes_open_only_their_own_place(came_for: Purpose, place: Purpose) -> None:
    contexts = {purpose: END_TO_END if purpose is Purpose.END_TO_END else DIRECT for purpose in Purpose}
    pair = Pair(purpose=place, context=contexts[place])
    m1 = Pair(purpose=came_for, context=contexts[came_for], key=pair.key).start().hello()
    if came_for is place:
        assert pair.await_().answer(m1)
    else:
        refuse_m1(pair, m1)


@pytest.mark.parametrize(
    "other", [Context(2, 2, SESSION, "fw1"), Context(1, 3, SESSION, "fw1"), Context(1, 2, bytes(16), "fw1"), Context(1, 2, SESSION, "fw9")]
)
def test_end_to_end_belongs_to_one_session_way_hop_and_previous_relay(other: Context) -> None:
    pair = Pair(purpose=Purpose.END_TO_END, context=END_TO_END)
    refuse_m1(pair, Pair(purpose=Purpose.END_TO_END, context=other, key=pair.key).start().hello())


def test_a_context_where_none_belongs() -> None:
    pair = Pair()
    for position, value in ((3, 1), (4, 1), (5, SESSION), (6, "fw1"), (3, False), (4, "0"), (6, b"")):
        items = cbor.decode(pair.start().hello())[:-1]
        items[position] = value
        refuse_m1(pair, signed(pair, items))
    with pytest.raises(ValueError, match="does not fit"):
        Pair(context=END_TO_END).start()
    with pytest.raises(ValueError, match="does not fit"):
        Pair(purpose=Purpose.END_TO_END).start()


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("value", [0, 2, True, "1", None])
def test_other_versions_and_suites(position: int, value: object) -> None:
    pair = Pair()
    items = cbor.decode(pair.start().hello())[:-1]
    items[position] = value
    with pytest.raises(AuthenticationError) as caught:
        pair.await_().answer(signed(pair, items))
    assert caught.value.code is Code.VERSION


@pytest.mark.parametrize("position", range(13))
@pytest.mark.parametrize("value", [[], {0: 0}, -1, "", b"", None, [[[[1]]]]])
def test_an_insiders_field_of_another_type(position: int, value: object) -> None:
    """A right tag over a wrong type: still nothing but AuthenticationError (an empty pad and an empty prev are right)."""
    pair = Pair()
    items = cbor.decode(pair.start().hello())[:-1]
    if (position, value) in ((6, ""), (12, b"")):
        return
    items[position] = value
    items[12 if position != 12 else 11] = items[12] if position != 12 else bytes(32)
    refuse_m1(pair, signed(pair, items))


# when --------------------------------------------------------------------------


def test_a_replayed_m1_gets_an_m2_and_never_more() -> None:
    pair = Pair()
    i, r = pair.start(), pair.await_()
    m1 = i.hello()
    m3 = i.answer(r.answer(m1))
    r.finish(m3)
    victim = pair.await_()
    assert victim.answer(m1)
    with pytest.raises(AuthenticationError):
        victim.finish(m3)
    with pytest.raises(AuthenticationError):
        victim.channel()


def test_splicing_two_runs() -> None:
    pair = Pair()
    i1, r1, i2, r2 = pair.start(), pair.await_(), pair.start(), pair.await_()
    m2_1, m2_2 = r1.answer(i1.hello()), r2.answer(i2.hello())
    hello = i1._hello
    with pytest.raises(AuthenticationError):
        i1.answer(m2_2)
    i1._hello = hello
    m3_1, m3_2 = i1.answer(m2_1), i2.answer(m2_2)
    with pytest.raises(AuthenticationError):
        r1.finish(m3_2)
    with pytest.raises(AuthenticationError):
        r2.finish(m3_1)


def test_splicing_shares_and_nonces_of_two_runs() -> None:
    pair = Pair()
    i, r1, r2 = pair.start(), pair.await_(), pair.await_()
    m1 = i.hello()
    one, two = cbor.decode(r1.answer(m1)), cbor.decode(r2.answer(m1))
    for position in (2, 3, 4):
        mixed = list(one)
        mixed[position] = two[position]
        i._hello = m1
        with pytest.raises(AuthenticationError):
            i.answer(cbor.encode(mixed))


def low_order() -> list[bytes]:
    """The canonical points of small order of Curve25519 (RFC 7748 §6.1): their shared secret is all zero."""
    prime = 2**255 - 19
    orders8 = 325606250916557431795983626356110631294008115727848805560023387167927233504
    points = [0, 1, prime - 1, orders8, 39382357235489614581723060781553021112529911719440698176882885853963445705823]
    return [point.to_bytes(32, "little") for point in points]


@pytest.mark.parametrize("share", low_order())
def test_worthless_shares(share: bytes) -> None:
    """Even from a partner with the right key."""
    pair = Pair()
    items = cbor.decode(pair.start().hello())[:-1]
    items[11] = share
    m1 = signed(pair, items)
    r = pair.await_()
    m2 = r.answer(m1)
    secrets = pair.key.secrets(b"alice", b"fw1")
    _, _, nonce_r, share_r, _ = cbor.decode(m2)
    exchange = hs._Exchange("alice", "fw1", secrets, m1, items[10], share, nonce_r, share_r)
    with pytest.raises(AuthenticationError, match="worthless"):
        r.finish(cbor.encode(["alice", "fw1", exchange.initiator_tag(m2)]))
    with pytest.raises(AuthenticationError):
        r.channel()

    i = pair.start()
    hello = i.hello()
    fake = hs._Exchange("alice", "fw1", secrets, hello, i._nonce, i._ephemeral.share, nonce_r, share)
    with pytest.raises(AuthenticationError, match="worthless"):
        i.answer(cbor.encode(["fw1", "alice", nonce_r, share, fake.responder_tag()]))
    with pytest.raises(AuthenticationError):
        i.channel()
