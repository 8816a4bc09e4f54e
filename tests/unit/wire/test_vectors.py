"""The frozen vectors of version 1, against the code and against a second derivation from docs/protocol.md's formulas."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chainrelay.errors import ProtocolError
from chainrelay.wire import codec
from chainrelay.wire.connection import Connection
from chainrelay.wire.keys import Context, Purpose
from chainrelay.wire.messages import Close, Closed, Status
from chainrelay.wire.sealed import SEALED_OVERHEAD, Opener
from chainrelay.wire.states import State
from vectors.make_v1 import FOLDER, KEY_ID, described, files, sides

HANDSHAKES: list[dict[str, Any]] = json.loads((FOLDER / "handshakes.json").read_text())
MESSAGES: dict[str, list[dict[str, Any]]] = json.loads((FOLDER / "messages.json").read_text())
SEALED: list[dict[str, Any]] = json.loads((FOLDER / "sealed.json").read_text())
by_purpose = pytest.mark.parametrize("vector", HANDSHAKES, ids=lambda vector: f"purpose {vector['purpose']} hop {vector['hop']}")


def test_the_script_still_makes_them() -> None:
    for name, text in files().items():
        assert (FOLDER / name).read_text() == text, name


@by_purpose
def test_handshake(vector: dict[str, Any]) -> None:
    v: dict[str, Any] = {name: bytes.fromhex(value) if name in {"sid", "m1", "m2", "m3"} else value for name, value in vector.items()}
    context = Context(v["way"], v["hop"], v["sid"], v["prev"])
    i, r = sides(v["initiator"], v["responder"], Purpose(v["purpose"]), context)
    assert i.hello() == v["m1"]
    assert r.answer(v["m1"]) == v["m2"]
    assert i.answer(v["m2"]) == v["m3"]
    r.finish(v["m3"])
    i.channel().open_ready(bytes.fromhex(v["ready"])[4:])
    assert r.channel().seal_ready().hex() == v["ready"]
    sid = bytes(range(0xA0, 0xB0))
    [(number, request)] = r.channel().open(bytes.fromhex(v["record_i"])[4:])
    assert (number, request.message) == (1, Close(sid))
    [(number, answer)] = i.channel().open(bytes.fromhex(v["record_r"])[4:])
    assert (number, answer.message) == (1, Closed(sid, ()))
    together = r.channel().open(bytes.fromhex(v["record_i_of_two"])[4:])
    assert [(number, each.message) for number, each in together] == [(2, Close(sid)), (3, Status(sid))]


def test_a_whole_connection() -> None:
    vector = HANDSHAKES[0]
    initiator, responder = sides("alice", "fw1", Purpose.CLIENT_HOP, Context())
    i, r = Connection(initiator), Connection(responder)
    framed = {name: (len(vector[name]) // 2).to_bytes(4, "big").hex() + vector[name] for name in ("m1", "m2", "m3")}
    assert i.outgoing().hex() == framed["m1"]
    r.receive(bytes.fromhex(framed["m1"]))
    assert r.outgoing().hex() == framed["m2"]
    i.receive(bytes.fromhex(framed["m2"]))
    assert i.outgoing().hex() == framed["m3"]
    r.receive(bytes.fromhex(framed["m3"]))
    assert r.outgoing().hex() == vector["ready"]
    i.receive(bytes.fromhex(vector["ready"]))
    assert (i.state, r.state) == (State.OPEN, State.OPEN)


@by_purpose
def test_second_derivation(vector: dict[str, Any]) -> None:
    """Nothing of wire/ below: only the formulas of docs/protocol.md, written down once more."""

    def mac(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.sha256).digest()

    def lp(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(2, "big") + part for part in parts)

    def expand(key: bytes, info: bytes) -> bytes:
        return mac(key, info + b"\x01")

    def sha(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    octet_names = ("key", "nonce_i", "nonce_r", "private_i", "private_r", "m1", "m2", "m3", "sid")
    octets = {name: bytes.fromhex(vector[name]) for name in octet_names}
    i, r, m1, m2, m3 = vector["initiator"].encode(), vector["responder"].encode(), octets["m1"], octets["m2"], octets["m3"]
    prk = mac(b"chainrelay/1", octets["key"])
    items1, items2, items3 = map(cbor2.loads, (m1, m2, m3))
    assert items1[:6] == [1, 1, vector["purpose"], vector["way"], vector["hop"], octets["sid"]]
    assert items1[6:10] == [vector["prev"], i.decode(), r.decode(), "2026a"]
    share_i, share_r = items1[11], items2[3]
    assert (items1[10], items2[2]) == (octets["nonce_i"], octets["nonce_r"])
    all_before = bytes([0x8D]) + m1[1:-17]
    assert items1[13] == mac(expand(prk, lp(b"hello", i, r)), b"cr1 m1" + all_before)[:16]

    fresh_r = octets["nonce_r"] + octets["nonce_i"] + share_r + share_i
    label_r = b"chainrelay/1|ISO9798-4-4|tokenAB|role=R"
    assert items2[4] == mac(expand(prk, lp(b"9798-4-4 auth", r, i)), label_r + lp(r, i) + fresh_r + sha(m1))
    fresh_i = octets["nonce_i"] + octets["nonce_r"] + share_i + share_r
    label_i = b"chainrelay/1|ISO9798-4-4|tokenBA|role=I"
    assert items3[2] == mac(expand(prk, lp(b"9798-4-4 auth", i, r)), label_i + lp(i, r) + fresh_i + sha(m1 + m2))

    shared = X25519PrivateKey.from_private_bytes(octets["private_i"]).exchange(X25519PublicKey.from_public_bytes(share_r))
    assert shared == X25519PrivateKey.from_private_bytes(octets["private_r"]).exchange(X25519PublicKey.from_public_bytes(share_i))
    chain = mac(expand(prk, lp(b"mix", i, r)), shared)
    th = sha(m1 + m2 + m3)
    for label, records in ((b"records i>r", ["record_i", "record_i_of_two"]), (b"records r>i", ["ready", "record_r"])):
        cipher = ChaCha20Poly1305(expand(chain, lp(label, i, r) + th))
        for counter, name in enumerate(records):
            record = bytes.fromhex(vector[name])
            assert int.from_bytes(record[:4], "big") == len(record) - 4
            plain = cipher.decrypt(bytes(4) + counter.to_bytes(8, "big"), record[4:], None)
            assert (plain == b"") == (name == "ready")
    for name in ("data i>r", "iv i>r", "data r>i", "iv r>i"):
        derived = expand(chain, lp(name.encode(), i, r) + th).hex()
        assert vector.get(f"key({name})") == (derived if vector["purpose"] == 3 else None)


@pytest.mark.parametrize("vector", SEALED, ids=lambda vector: f"{vector['direction']} {vector['component']}/{vector['counter']}")
def test_sealed_datagrams(vector: dict[str, Any]) -> None:
    """By docs/protocol.md §13 alone, then by the code, which opens it once and as nothing else."""
    key, iv, key_id, text, datagram = (bytes.fromhex(vector[name]) for name in ("key", "iv", "key_id", "text", "datagram"))
    recursive = next(each for each in HANDSHAKES if each["way"] == 2)
    assert recursive[f"key(data {vector['direction']})"] == vector["key"]
    assert recursive[f"key(iv {vector['direction']})"][:24] == vector["iv"]
    head = key_id[:3] + bytes((key_id[3] | vector["component"],)) + vector["counter"].to_bytes(8, "big")
    nonce = (int.from_bytes(iv) ^ vector["counter"]).to_bytes(12, "big")
    assert datagram == head + ChaCha20Poly1305(key).encrypt(nonce, text, head)
    assert len(datagram) == len(text) + SEALED_OVERHEAD
    opener = Opener(key_id, key, iv)
    for wrong in (datagram[:-1], datagram[:-1] + bytes((datagram[-1] ^ 1,)), datagram[:11] + bytes((datagram[11] ^ 1,)) + datagram[12:]):
        with pytest.raises(ValueError, match=r"tag|key"):
            opener.open(wrong, vector["component"])
    with pytest.raises(ValueError, match="component"):
        opener.open(datagram, 1 - vector["component"])
    assert opener.open(datagram, vector["component"]) == text
    with pytest.raises(ValueError, match="before"):
        opener.open(datagram, vector["component"])


def test_data_keys_of_a_connection() -> None:
    """Both ends, from the relay's point of view."""
    vector = next(each for each in HANDSHAKES if each["way"] == 2)
    context = Context(vector["way"], vector["hop"], bytes.fromhex(vector["sid"]), vector["prev"])
    i, r = sides(vector["initiator"], vector["responder"], Purpose(vector["purpose"]), context)
    initiator, responder = Connection(i), Connection(r)
    for _ in range(2):
        responder.receive(initiator.outgoing())
        initiator.receive(responder.outgoing())
    expected = [vector[f"key({label})"] for label in ("data i>r", "iv i>r", "data r>i", "iv r>i")]
    for side in (initiator, responder):
        keys = side.seal_keys(KEY_ID)
        found = [each.hex() for each in (keys.open_key, keys.open_iv, keys.seal_key, keys.seal_iv)]
        assert found == [expected[0], expected[1][:24], expected[2], expected[3][:24]]


@pytest.mark.parametrize("vector", MESSAGES["good"], ids=lambda vector: f"{vector['number']} {vector['message']}")
def test_messages(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["body"])
    number, message = codec.decode(body)
    assert (number, type(message).__name__) == (vector["number"], vector["message"])
    assert {field.name: described(getattr(message, field.name)) for field in dataclasses.fields(message)} == vector["fields"]
    assert codec.encode(number, message) == body


@pytest.mark.parametrize("vector", MESSAGES["refused"], ids=lambda vector: vector["why"])
def test_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=vector["why"]):
        codec.decode(bytes.fromhex(vector["body"]))
