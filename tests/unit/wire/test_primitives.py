"""The primitives' own edges; their correctness is test_wycheproof.py's, these are the few cases that need no files."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chainrelay.wire.primitives import Ephemeral, RecordCipher, digest, expand, extract, mac
from wirelab import ephemeral


def test_hkdf_of_rfc_5869_a1() -> None:
    key = extract(bytes(range(13)), bytes([0x0B]) * 22)
    assert key.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    output = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert expand(key, bytes(range(0xF0, 0xFA)), 42).hex() == output
    with pytest.raises(ValueError, match="8160"):
        expand(key, b"", 8161)


def test_hmac_of_rfc_4231_2_and_sha256() -> None:
    tag = mac(b"Jefe", b"what do ya want for nothing?")
    assert tag.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_agreement() -> None:
    a, b = ephemeral(), ephemeral()
    assert a.agree(b.share) == b.agree(a.share)
    for share in (bytes(32), b.share[:31], b.share + b"\0"):
        with pytest.raises(ValueError):
            a.agree(share)


def test_the_share_is_the_public_key() -> None:
    for key in (X25519PrivateKey.from_private_bytes(bytes(range(32))), X25519PrivateKey.generate()):
        assert Ephemeral(key).share == key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def test_a_records_nonce_is_its_counter() -> None:
    """RFC 8439 §2.8's layout with a nonce of 4 zero octets and 64 bits."""
    for counter in (0, 1, 2**32, 2**48 - 1):
        sealing, opening = RecordCipher(bytes(32)), RecordCipher(bytes(32))
        sealing.counter = opening.counter = counter
        sealed = sealing.seal(b"text")
        assert sealed == sealing._cipher.encrypt(bytes(4) + counter.to_bytes(8, "big"), b"text", None)
        assert opening.open(sealed) == b"text"
        assert (sealing.counter, opening.counter) == (counter + 1, counter + 1)


def test_a_record_that_fails_does_not_count() -> None:
    opening = RecordCipher(bytes(32))
    for wrong in (b"", b"short", bytes(16), bytes(100)):
        with pytest.raises(ValueError, match="verify"):
            opening.open(wrong)
    assert opening.counter == 0
