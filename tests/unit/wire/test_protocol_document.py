"""docs/protocol.md says what the code does: codes, messages, sizes, the worked example."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pycddl
import pytest

from chainrelay import limits
from chainrelay.errors import Code
from chainrelay.wire import cbor, codec, handshake
from chainrelay.wire.keys import SALT, PairSecrets, Purpose, lp
from chainrelay.wire.messages import Close
from chainrelay.wire.primitives import digest, expand, extract
from vectors.make_v1 import FOLDER, PRIVATE_I, PRIVATE_R, SECRET, SESSION, ephemeral

DOCUMENT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()


def test_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| \S", DOCUMENT, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [(code.value, code.name) for code in Code]


def test_purposes() -> None:
    rows = re.findall(r"^\| (\d) ([a-z ]+) \|", DOCUMENT, re.MULTILINE)
    assert [(int(number), name.replace(" ", "_").upper()) for number, name in rows] == [(p.value, p.name) for p in Purpose]


def test_messages() -> None:
    """Type number, keys and field names of every CDDL rule."""
    rules = re.findall(r"^([A-Z]+) = \{\n(.*?)^\}", DOCUMENT, re.MULTILINE | re.DOTALL)
    found = [
        (name, int(re.findall(r"0 => (\d+), 1 => uint32", text)[0]), re.findall(r"^  (\d+) => [^;\n]*; (\w+)", text, re.MULTILINE))
        for name, text in rules
    ]
    assert found == [(row.name, row.number, [(str(key), field) for key, field, _ in row.fields]) for row in codec.FORMATS]


MESSAGES = json.loads((FOLDER / "messages.json").read_text())["good"]


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: f"{vector['message']}-{vector['number']}")
def test_every_message_of_the_vectors_is_what_the_cddl_says(vector: dict[str, str]) -> None:
    """By somebody else's reader of CDDL (RFC 8610); it also refuses a map that is not this message."""
    (text,) = re.findall(r"^```cddl\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    schema, body = pycddl.Schema(f"start = {vector['message'].upper()}\n{text}"), bytes.fromhex(vector["body"])
    schema.validate_cbor(body)
    content = cbor.decode(body)
    del content[1]
    with pytest.raises(pycddl.ValidationError):
        schema.validate_cbor(cbor.encode(content))


def test_sizes() -> None:
    assert (limits.FRAME_BEFORE_AUTHENTICATION, limits.FRAME_AFTER_AUTHENTICATION) == (4096, 65536)
    assert f"{handshake.M1_SHORTEST}\u2013{handshake.M1_LONGEST} octets" in DOCUMENT
    assert (limits.CBOR_ITEMS, limits.CBOR_DEPTH, limits.RECORDS_PER_KEY, limits.ABSOLUTE_LIMIT) == (4096, 6, 2**48, 604800)
    assert (limits.CONTROL_PORT, limits.OFFER_PORT, limits.ID_LENGTH, limits.MAX_HOPS, limits.ERROR_TEXT) == (9798, 9799, 64, 16, 512)


def test_worked_example() -> None:
    stated = dict(re.findall(r"^(\S+) += ([0-9a-f]{8,})$", DOCUMENT, re.MULTILINE))
    vector = json.loads((FOLDER / "handshakes.json").read_text())[0]
    secrets = PairSecrets.derive(SECRET, b"alice", b"fw1")
    transcript = digest(bytes.fromhex(vector["m1"] + vector["m2"] + vector["m3"]))
    shared = ephemeral(PRIVATE_I).agree(ephemeral(PRIVATE_R).share)
    chain = extract(secrets.mix, shared)
    assert stated == {
        "K": SECRET.hex(),
        "PRK": extract(SALT, SECRET).hex(),
        "kHello": secrets.hello.hex(),
        "kAuth[I>R]": secrets.from_initiator.hex(),
        "kAuth[R>I]": secrets.from_responder.hex(),
        "kMix": secrets.mix.hex(),
        "M2": vector["m2"],
        "M3": vector["m3"],
        "th": transcript.hex(),
        "ss": shared.hex(),
        "ck": chain.hex(),
        "key(i>r)": expand(chain, lp(b"records i>r", b"alice", b"fw1") + transcript).hex(),
        "key(r>i)": expand(chain, lp(b"records r>i", b"alice", b"fw1") + transcript).hex(),
        "READY": vector["ready"],
        "CLOSE": codec.encode(1, Close(SESSION)).hex(),
        "record": vector["record_i"],
    }
