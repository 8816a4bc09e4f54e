"""The cipher against published vectors: RFC 8439 and Wycheproof. Through a datagram where one can carry them, else by cipher.c."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chainrelay.datapath.xdp_layout import SCRATCH, SEALED_LONGEST, Verdict
from chainrelay.privileged.xdp_bpf import Map, Program, possible_cpus
from chainrelay.wire.sealed import SealKeys
from unit.ebpf.sealed_world import SealedWorld, frame, leaving, payload_of
from unit.ebpf.world import World
from unit.wire.test_wycheproof import cases, octets

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

FIRST = bytes(4)
DROP = 1


class Cipher:
    """The test entries, run on one CPU."""

    def __init__(self, folder: Path) -> None:
        self._scratches = Map.open(folder / "scratches")
        self._programs = {name: Program.open(folder / name) for name in ("test_crypt", "test_poly")}
        self._cpu = min(os.sched_getaffinity(0))

    def run(self, name: str, **fields: int | bytes) -> dict[str, int | bytes]:
        """The scratch memory afterwards."""
        allowed = os.sched_getaffinity(0)
        self._scratches.update(FIRST, SCRATCH.pack(fields) * possible_cpus())
        os.sched_setaffinity(0, {self._cpu})
        try:
            assert self._programs[name].run(bytes(64))[0] == 2
        finally:
            os.sched_setaffinity(0, allowed)
        return SCRATCH.unpack(self._scratches.lookup_percpu(FIRST)[self._cpu])

    def stream(self, key: bytes, nonce: bytes, blocks: int) -> bytes:
        """Key stream from block 0 on."""
        after = self.run("test_crypt", key=key, nonce=nonce, length=64 * blocks)
        return _octets(after["stream"]) + _octets(after["text"])[: 64 * blocks]

    def poly(self, key: bytes, message: bytes) -> bytes:
        """The tag over whole blocks."""
        assert len(message) % 16 == 0
        return _octets(self.run("test_poly", stream=key, text=message, length=len(message))["tag"])

    def encrypt(self, key: bytes, nonce: bytes, text: bytes, associated: bytes) -> bytes:
        """RFC 8439 §2.8: text and tag."""
        after = self.run("test_crypt", key=key, nonce=nonce, text=text, length=len(text))
        sealed = _octets(after["text"])[: len(text)]
        lengths = len(associated).to_bytes(8, "little") + len(text).to_bytes(8, "little")
        return sealed + self.poly(_octets(after["stream"]), _padded(associated) + _padded(sealed) + lengths)

    def close(self) -> None:
        """Handles."""
        self._scratches.close()
        for each in self._programs.values():
            each.close()


def _octets(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 16)


@pytest.fixture
def entry(cipher: Path) -> Iterator[Cipher]:
    made = Cipher(cipher)
    yield made
    made.close()


def test_rfc_8439_key_stream(entry: Cipher) -> None:
    """§2.3.2 and A.1, whose block counters are 0 to 2."""
    counting = bytes(range(32))
    nonce = bytes.fromhex("000000090000004a00000000")
    block = (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    assert entry.stream(counting, nonce, 1)[64:].hex() == block
    zero = entry.stream(bytes(32), bytes(12), 1).hex()
    assert zero == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    one = entry.stream(bytes(31) + b"\1", bytes(12), 1)[64:].hex()
    assert one == (
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"
    )
    second = entry.stream(b"\0\xff" + bytes(30), bytes(12), 2)[128:].hex()
    assert second == (
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
        "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096"
    )
    other = entry.stream(bytes(32), bytes(11) + b"\2", 1)[:64].hex()
    assert other == (
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
        "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d"
    )


LARGE_R = "e33594d7505e43b900000000000000003394d7505e4379cd01" + "00" * 7


@pytest.mark.parametrize(
    ("r", "s", "message", "tag"),
    [
        ("", "", "00" * 64, ""),  # 1
        ("02", "", "ff" * 16, "03"),  # 7: the sum modulo 2^130 - 5 wraps
        ("02", "ff" * 16, "02" + "00" * 15, "03"),  # 8: s is added modulo 2^128
        ("01", "", "ff" * 16 + "f0" + "ff" * 15 + "11" + "00" * 15, "05"),  # 9
        ("01", "", "ff" * 16 + "fb" + "fe" * 15 + "01" * 16, ""),  # 10
        ("02", "", "fd" + "ff" * 15, "fa" + "ff" * 15),  # 11
        ("01" + "00" * 7 + "04", "", LARGE_R + "00" * 16 + "01" + "00" * 15, "14" + "00" * 7 + "55"),  # 12
        ("01" + "00" * 7 + "04", "", LARGE_R + "00" * 16, "13"),  # 13
    ],
)  # fmt: skip
def test_rfc_8439_poly1305_where_the_arithmetic_wraps(entry: Cipher, r: str, s: str, message: str, tag: str) -> None:
    """A.3, all but those whose message ends within a block: the AEAD construction pads, so there is none."""
    whole = bytes.fromhex(message)
    key = bytes.fromhex(r).ljust(16, b"\0") + bytes.fromhex(s).ljust(16, b"\0")
    assert entry.poly(key, whole) == bytes.fromhex(tag).ljust(16, b"\0")


SUNSCREEN = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
SUNSCREEN_SEALED = (
    "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
    "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116"
)


def test_rfc_8439_aead(entry: Cipher) -> None:
    """§2.8.2."""
    key, nonce = bytes(range(0x80, 0xA0)), bytes.fromhex("070000004041424344454647")
    sealed = entry.encrypt(key, nonce, SUNSCREEN, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    tag = "1ae10b594f09e26a7e902ecbd0600691"
    assert sealed.hex() == SUNSCREEN_SEALED + tag


def test_rfc_8439_aead_in_a_datagram(world: World) -> None:
    """§2.8.2 as a datagram: its associated data name a counter above 2^63, so it is refused whatever its tag."""
    passed, verdict = through_a_datagram(
        world, bytes(range(0x80, 0xA0)), bytes.fromhex("070000004041424344454647"), bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
        bytes.fromhex(SUNSCREEN_SEALED + "1ae10b594f09e26a7e902ecbd0600691"),
    )  # fmt: skip
    assert (passed, verdict) == (None, Verdict.COUNTER_TOO_HIGH)


A5_KEY = bytes.fromhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
A5_SEALED = bytes.fromhex(
    "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf"
    "332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c8559797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4"
    "b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a"
    "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29"
    "a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38"
)


@pytest.mark.parametrize("family", [4, 6])
def test_rfc_8439_a_5_through_the_whole_path(world: World, family: int) -> None:
    passed, verdict = through_a_datagram(
        world, A5_KEY, bytes.fromhex("000000000102030405060708"), bytes.fromhex("f33388860000000000004e91"), A5_SEALED, family
    )
    assert verdict is Verdict.OPENED
    assert passed is not None
    assert passed.startswith(b"Internet-Drafts are draft documents valid for a maximum of six months")
    assert passed.endswith("work in progress./\u201d".encode())


def through_a_datagram(
    world: World, key: bytes, nonce: bytes, associated: bytes, sealed: bytes, family: int = 4
) -> tuple[bytes | None, Verdict]:
    """The text that leaves, and the verdict. The IV is made so that the nonce comes out as given."""
    iv = bytes(a ^ b for a, b in zip(nonce, bytes(4) + associated[4:], strict=True))
    key_id, component = associated[:3] + bytes([associated[3] & 0xFE]), associated[3] & 1
    here = SealedWorld(world, family, component=component, keys=SealKeys(key_id, key, iv, key, iv))
    verdict, action, after = world.run(frame(here.there.source, here.there.destination, associated + sealed))
    if verdict is not Verdict.OPENED:
        assert action == DROP
        return None, verdict
    text = payload_of(after)
    assert after == leaving(here.there, text)
    return text, verdict


def test_wycheproof(world: World, entry: Cipher) -> None:
    """Every vector with a nonce of 12 octets by the test entries, and those that a datagram can carry through the program too."""
    carried = whole = 0
    for group, test in cases("chacha20_poly1305_test.json"):
        key, nonce, associated, message, text, tag = octets(test, "key", "iv", "aad", "msg", "ct", "tag")
        if group["ivSize"] != 96 or len(message) > SEALED_LONGEST:
            continue
        valid = test["result"] == "valid"
        assert (entry.encrypt(key, nonce, message, associated) == text + tag) == valid, test["tcId"]
        whole += 1
        if len(associated) == 12 and len(tag) == 16:
            passed, verdict = through_a_datagram(world, key, nonce, associated, text + tag)
            if associated[4] & 0x80:
                assert verdict is Verdict.COUNTER_TOO_HIGH, test["tcId"]
            else:
                assert passed == (message if valid else None), test["tcId"]
                assert valid or verdict is Verdict.FORGED
            carried += 1
    assert whole > 250
    assert carried >= 2  # so many have associated data of 12 octets
    print(f"{whole} vectors, {carried} of them as datagrams")
