"""The cryptographic primitives as the protocol calls them: HMAC-SHA-256, HKDF (RFC 5869), X25519 (RFC 7748),
ChaCha20-Poly1305 (RFC 8439). tests/unit/wire/test_wycheproof.py runs exactly these functions. Nothing here knows a
message.

HMAC comes from the standard library, whose one-shot call costs a seventh of the `cryptography` package's; curve and
cipher come from the package.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

HASH_LENGTH: Final = 32
KEY_LENGTH: Final = 32
SHARE_LENGTH: Final = 32
SEAL_OVERHEAD: Final = 16

equal = hmac.compare_digest

_BASE_POINT: Final = X25519PublicKey.from_public_bytes(b"\x09" + bytes(SHARE_LENGTH - 1))  # RFC 7748 §6.1


def digest(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256."""
    return hmac.digest(key, data, "sha256")


def extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract (RFC 5869 §2.2): 32 octets."""
    return mac(salt or bytes(HASH_LENGTH), secret)


def expand(key: bytes, info: bytes, length: int = KEY_LENGTH) -> bytes:
    """HKDF-Expand (RFC 5869 §2.3): `length` octets, at most 255 · 32; ValueError beyond."""
    if length > 255 * HASH_LENGTH:
        raise ValueError(f"HKDF gives at most {255 * HASH_LENGTH} octets, not {length}")
    block = output = b""
    for counter in range(1, -(-length // HASH_LENGTH) + 1):
        block = mac(key, block + info + bytes([counter]))
        output += block
    return output[:length]


class Ephemeral:
    """An X25519 key pair of one handshake. The caller generates the key; `share` is its public half, 32 octets."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        # RFC 7748 §6.1's definition of the public key. public_key() gives the same after five times the work: it goes
        # through DER and OpenSSL 3's decoders.
        self.share = private.exchange(_BASE_POINT)

    def agree(self, share: bytes) -> bytes:
        """The shared secret. ValueError if it is all zero (RFC 7748 §6.1) or `share` has not 32 octets."""
        return self._private.exchange(X25519PublicKey.from_public_bytes(share))


class RecordCipher:
    """ChaCha20-Poly1305 under one key with an implicit 64-bit counter as nonce: one direction of a channel."""

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self.counter = 0

    def seal(self, text: bytes) -> bytes:
        """`text` encrypted with its tag; 16 octets longer."""
        sealed = self._cipher.encrypt(self._nonce(), text, None)
        self.counter += 1
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """What `seal` got. ValueError unless `sealed` is the very next record of that direction, unchanged."""
        try:
            text = self._cipher.decrypt(self._nonce(), sealed, None)
        except InvalidTag:
            raise ValueError("record does not verify") from None
        self.counter += 1
        return text

    def _nonce(self) -> bytes:
        return self.counter.to_bytes(12, "big")  # 4 zero octets and the 64-bit counter
