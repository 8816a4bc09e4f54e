"""How tests/vectors/v1 was made: fixed keys, nonces and ephemeral keys through wire/ itself. `python tests/vectors/make_v1.py`.

The files are frozen: once version 1 is released they are never written again. tests/unit/wire/test_vectors.py holds the code to
them and derives the handshake's values a second time, from docs/protocol.md's formulas alone.
"""

from __future__ import annotations

import dataclasses
import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.errors import Code
from chainrelay.wire import cbor, codec
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.handshake import Initiator, Responder
from chainrelay.wire.keys import DIRECT, Context, PairKey, Purpose
from chainrelay.wire.messages import (
    Assigned,
    Bind,
    Bound,
    Close,
    Closed,
    ControlMessage,
    Done,
    Error,
    Extend,
    Extended,
    HopCounters,
    Message,
    Offer,
    Open,
    Opened,
    Peer,
    Protocol,
    Rekey,
    Rekeyed,
    Renew,
    Renewed,
    Status,
    StatusReport,
    Way,
)
from chainrelay.wire.primitives import Ephemeral
from chainrelay.wire.sealed import IV_LENGTH, Sealer

FOLDER = Path(__file__).parent / "v1"
SESSION = bytes(range(0xA0, 0xB0))
SECRET = bytes(range(32))
NONCE_I, NONCE_R = bytes([0x11]) * 32, bytes([0x22]) * 32
KEY_ID = bytes((0xD0, 0x11, 0x22, 0x44))
PRIVATE_I, PRIVATE_R = bytes([0x33]) * 32, bytes([0x44]) * 32

V4 = Endpoint(IPv4Address("10.0.0.5"), 40000)
V6 = Endpoint(IPv6Address("2001:db8::5"), 40000)
HOPS = (HopCounters("fw1", 1, 100, 2, 200), HopCounters("fw2", 2**32, 2**40, 2**63, 2**64 - 1))

MESSAGES: tuple[Message | ControlMessage, ...] = (
    Open(
        SESSION,
        Protocol.UDP,
        Way.RECURSIVE,
        False,
        1,
        V4,
        Target(IPv4Address("10.9.0.7"), 5004),
        "alice",
        V4,
        120,
        ("fw1",),
        15,
    ),
    Open(SESSION, Protocol.TCP, Way.ITERATIVE, True, 2, V6, Target("media.example.org", 0), "bob@lab", V6, 0, (), 16),
    Opened(SESSION, Endpoint(IPv4Address("10.0.1.1"), 20000), Endpoint(IPv4Address("10.3.0.1"), 29998), 120, 1472, True, ("fw1", "fw2")),
    Bind(SESSION, Target(V6.address, 6000)),
    Bound(SESSION, 1452),
    Renew(SESSION, 120),
    Renewed(SESSION, 60),
    Close(SESSION),
    Closed(SESSION, HOPS),
    Status(SESSION),
    StatusReport(SESSION, 119, HOPS),
    Error(Code.ACCESS_DENIED, "fw2", "user alice from 10.0.0.5:40000 matches no row of access.toml"),
    Error(Code.INTERNAL, "", ""),
    Extend(SESSION, 2, "fw1", "fw2", 1, V4, bytes(range(20))),
    Extended(SESSION, None, bytes(range(20))),
    Extended(SESSION, Endpoint(IPv4Address("10.0.2.2"), 20000), b"\x00"),
    Assigned(SESSION, V4, Endpoint(IPv4Address("10.0.1.1"), 20000), Endpoint(IPv4Address("10.0.2.1"), 20002), "fw2", 120, 1472),
    Assigned(SESSION, V6, V6, V6, "", 60, 1452),
    Extend(SESSION, 1, "", "fw1", 1, V4, b"\x00"),
    Rekey(SESSION, KEY_ID),
    Rekeyed(SESSION, KEY_ID, V4, Endpoint(IPv4Address("10.0.2.2"), 20000), Endpoint(IPv4Address("10.3.0.1"), 29998)),
    Offer(Protocol.UDP, 2, V4),
    Peer(SESSION, V6),
    Done(),
)

DATA_LABELS = ("data i>r", "iv i>r", "data r>i", "iv r>i")
SEALED = (
    (0, 0, b""),
    (0, 1, b"\x80\x60\x00\x01" + bytes(range(8)) + b"an RTP packet, by its first octet"),
    (1, 2, b"an RTCP packet"),
    (0, 2**32 - 1, bytes(64)),
    (1, 255, bytes(range(256)) * 5),
)

# What must be refused, and the word by which the refusal names the culprit: maps that lie beside a good OPEN or RENEW.
_GOOD_OPEN = {0: 1, 1: 9, 2: SESSION, 3: 17, 4: 1, 5: False, 6: 1, 7: bytes(4) + b"\1\1", 8: ["host.example", 9], 9: "alice"}
_GOOD_OPEN |= {10: bytes(4) + b"\1\1", 11: 0, 12: [], 13: 1}
_GOOD_RENEW: dict[int, Any] = {0: 5, 1: 9, 2: SESSION, 3: 120}
REFUSED: tuple[tuple[dict[int, Any], str], ...] = (
    ({**_GOOD_OPEN, 2: SESSION[:15]}, "OPEN session"),
    ({**_GOOD_OPEN, 3: 1}, "OPEN protocol"),
    ({**_GOOD_OPEN, 4: 3}, "OPEN way"),
    ({**_GOOD_OPEN, 5: 0}, "OPEN sealed"),
    ({**_GOOD_OPEN, 6: 3}, "OPEN components"),
    ({**_GOOD_OPEN, 6: 2, 7: bytes(4) + b"\xff\xff"}, "OPEN components"),
    ({**_GOOD_OPEN, 7: bytes(6)}, "OPEN partner"),
    ({**_GOOD_OPEN, 7: bytes(7)}, "OPEN partner"),
    ({**_GOOD_OPEN, 8: ["127.1", 9]}, "OPEN server"),
    ({**_GOOD_OPEN, 8: ["Host.example", 9]}, "OPEN server"),
    ({**_GOOD_OPEN, 8: ["host.example", 65536]}, "OPEN server"),
    ({**_GOOD_OPEN, 9: "alice bob"}, "OPEN user"),
    ({**_GOOD_OPEN, 9: "a" * 65}, "OPEN user"),
    ({**_GOOD_OPEN, 11: -1}, "OPEN lease"),
    ({**_GOOD_OPEN, 11: 604801}, "OPEN lease"),
    ({**_GOOD_OPEN, 12: ["fw"] * 17}, "OPEN path"),
    ({**_GOOD_OPEN, 13: 17}, "OPEN hops_left"),
    ({**_GOOD_RENEW, -1: 0}, "mandatory key -1"),
    ({0: 5, 1: 9, 2: SESSION}, "RENEW lease"),
    ({0: 20, 1: 9}, "message type 20"),
    ({0: 12, 1: 9, 2: SESSION, 3: 0, 4: "fw1", 5: "fw2", 6: 1, 7: bytes(4) + b"\1\1", 8: b"\0"}, "EXTEND hop"),
    ({0: 12, 1: 9, 2: SESSION, 3: 2, 4: "fw 1", 5: "fw2", 6: 1, 7: bytes(4) + b"\1\1", 8: b"\0"}, "EXTEND previous"),
    ({0: 12, 1: 9, 2: SESSION, 3: 2, 4: "fw1", 5: "fw2", 6: 1, 7: None, 8: b"\0"}, "EXTEND partner"),
    ({0: 12, 1: 9, 2: SESSION, 3: 2, 4: "fw1", 5: "fw2", 6: 1, 7: bytes(4) + b"\1\1", 8: b""}, "EXTEND octets"),
    ({0: 14, 1: 9, 2: SESSION, 3: b"", 4: b"\0"}, "EXTENDED client_side"),
    ({0: 15, 1: 9, 2: SESSION, 3: bytes(4) + b"\1\1"}, "ASSIGNED client_side"),
    ({0: 13, 1: 9, 2: SESSION, 3: KEY_ID[:3]}, "REKEY key_id"),
    ({0: 13, 1: 9, 2: SESSION, 3: b"\x80" + KEY_ID[1:]}, "REKEY key_id"),
    ({0: 13, 1: 9, 2: SESSION, 3: KEY_ID[:3] + b"\x45"}, "REKEY key_id"),
    ({0: 19, 1: 9, 2: SESSION, 3: KEY_ID, 4: bytes(4) + b"\1\1", 5: None}, "REKEYED client_side"),
    ({0: 2, 1: 9, 2: SESSION, 3: bytes(4) + b"\1\1", 4: bytes(4) + b"\1\1", 5: 1, 6: 1, 7: True, 8: ["fw 1"]}, "OPENED path"),
    ({0: 5, 2: SESSION, 3: 120}, "request number"),
    ({0: 5, 1: 2**32, 2: SESSION, 3: 120}, "request number"),
    ({0: 6, 1: 9, 2: SESSION, 3: 0}, "RENEWED lease"),
    ({0: 3, 1: 9, 2: SESSION, 3: ["host.example", 0]}, "BIND server"),
    ({0: 11, 1: 9, 2: 11, 3: "", 4: "two\nlines"}, "ERROR text"),
    ({0: 11, 1: 9, 2: 0, 3: "", 4: ""}, "ERROR code"),
    ({0: 8, 1: 9, 2: SESSION, 3: [["fw1", 0, 0, 0]]}, "CLOSED counters"),
)

HANDSHAKES: tuple[tuple[str, str, Purpose, Context], ...] = (
    ("alice", "fw1", Purpose.CLIENT_HOP, DIRECT),
    ("fw1", "fw2", Purpose.RELAY_HOP, DIRECT),
    ("alice", "fw2", Purpose.END_TO_END, Context(way=1, hop=2, session=SESSION, previous="fw1")),
    ("alice", "fw3", Purpose.END_TO_END, Context(way=2, hop=3, session=SESSION, previous="fw2")),
    ("alice", "fw1", Purpose.END_TO_END, Context(way=1, hop=1, session=SESSION, previous="")),
    ("alice", "media", Purpose.CONTROL, DIRECT),
)


def described(value: object) -> Any:
    """A message's field as JSON can hold it."""
    match value:
        case bool() | str() | None:
            return value
        case bytes():
            return value.hex()
        case int():
            return int(value)
        case Endpoint() | Target():
            return str(value)
        case HopCounters():
            return list(dataclasses.astuple(value))
        case tuple():
            return [described(item) for item in value]
        case _:
            raise TypeError(value)


def ephemeral(private: bytes) -> Ephemeral:
    """The key pair of a fixed private key."""
    return Ephemeral(X25519PrivateKey.from_private_bytes(private))


def sides(initiator: str, responder: str, purpose: Purpose, context: Context) -> tuple[Initiator, Responder]:
    """Both sides of a vector's handshake."""
    key = PairKey("2026a", SECRET)
    return (
        Initiator(initiator, responder, key, purpose, context, nonce=NONCE_I, ephemeral=ephemeral(PRIVATE_I)),
        Responder(
            responder,
            find_key=lambda peer, kid: key if (peer, kid) == (initiator, "2026a") else None,
            expected_purpose=lambda _: purpose,
            context=context,
            nonce=NONCE_R,
            ephemeral=lambda: ephemeral(PRIVATE_R),
        ),
    )


def handshakes() -> list[dict[str, Any]]:
    """One handshake per purpose and way, the first records of both directions, and what data keys are made of."""
    found = []
    for initiator, responder, purpose, context in HANDSHAKES:
        i, r = sides(initiator, responder, purpose, context)
        m1 = i.hello()
        m2 = r.answer(m1)
        m3 = i.answer(m2)
        r.finish(m3)
        labels = DATA_LABELS if purpose is Purpose.END_TO_END else ()
        found.append(
            {
                "initiator": initiator,
                "responder": responder,
                "purpose": int(purpose),
                "way": context.way,
                "hop": context.hop,
                "sid": context.session.hex(),
                "prev": context.previous,
                "kid": "2026a",
                "key": SECRET.hex(),
                "nonce_i": NONCE_I.hex(),
                "nonce_r": NONCE_R.hex(),
                "private_i": PRIVATE_I.hex(),
                "private_r": PRIVATE_R.hex(),
                "m1": m1.hex(),
                "m2": m2.hex(),
                "m3": m3.hex(),
                "ready": r.channel().seal_ready().hex(),
                "record_i": i.channel().seal(codec.encode(1, Close(SESSION))).hex(),
                "record_i_of_two": i.channel().seal(codec.encode(2, Close(SESSION)), codec.encode(3, Status(SESSION))).hex(),
                "record_r": r.channel().seal(codec.encode(1, Closed(SESSION, ()))).hex(),
                **{f"key({label})": r.key(label.encode()).hex() for label in labels},
            }
        )
    return found


def messages() -> dict[str, Any]:
    """Every message, and bodies that must be refused."""
    good = [
        {
            "message": type(message).__name__,
            "number": number,
            "fields": {field.name: described(getattr(message, field.name)) for field in dataclasses.fields(message)},
            "body": codec.encode(number, message).hex(),
        }
        for number, message in enumerate(MESSAGES, 1)
    ]
    return {"good": good, "refused": [{"why": why, "body": cbor.encode(body).hex()} for body, why in REFUSED]}


def sealed() -> list[dict[str, Any]]:
    """Datagrams under the keys of the recursive handshake above, in both directions."""
    found = []
    (vector,) = (each for each in handshakes() if each["way"] == 2)
    for direction in ("i>r", "r>i"):
        key, iv = (bytes.fromhex(vector[f"key({what} {direction})"]) for what in ("data", "iv"))
        for component, counter, text in SEALED:
            sealer = Sealer(KEY_ID, key, iv[:IV_LENGTH])
            sealer.counter = counter
            datagram = sealer.seal(text, component)
            found.append(
                {
                    "direction": direction,
                    "key": key.hex(),
                    "iv": iv[:IV_LENGTH].hex(),
                    "key_id": KEY_ID.hex(),
                    "component": component,
                    "counter": counter,
                    "text": text.hex(),
                    "datagram": datagram.hex(),
                }
            )
    return found


def files() -> dict[str, str]:
    """Name and text of every file."""
    made = {"handshakes.json": handshakes(), "messages.json": messages(), "sealed.json": sealed()}
    return {name: json.dumps(content, indent=1) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text)
