"""C2SP/wycheproof over the primitives as wire/primitives.py gives them to the protocol.

The files are read from the folder that CHAINRELAY_VECTORS names, else from `../shared/vectors/wycheproof` beside the checkout.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chainrelay.wire.primitives import Ephemeral, RecordCipher, expand, extract, mac

FOLDER = Path(os.environ.get("CHAINRELAY_VECTORS") or Path(__file__).parents[4] / "shared" / "vectors" / "wycheproof")


def cases(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(group, test) of a file; says where to get it if it is not there."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(
            f"{path} is missing: get testvectors_v1/{name} from https://github.com/C2SP/wycheproof, set CHAINRELAY_VECTORS to its folder"
        )
    content = json.loads(path.read_text())
    found = [(group, test) for group in content["testGroups"] for test in group["tests"]]
    assert len(found) == content["numberOfTests"] > 0
    return found


def octets(test: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(test[name]) for name in names]


def test_x25519() -> None:
    refused = 0
    for _, test in cases("x25519_test.json"):
        public, private, shared = octets(test, "public", "private", "shared")
        own = Ephemeral(X25519PrivateKey.from_private_bytes(private))
        if not any(shared):
            with pytest.raises(ValueError):
                own.agree(public)
            refused += 1
        else:
            assert own.agree(public) == shared, test["tcId"]
    assert refused > 0


def test_hmac_sha256() -> None:
    for group, test in cases("hmac_sha256_test.json"):
        key, message, tag = octets(test, "key", "msg", "tag")
        assert (mac(key, message)[: group["tagSize"] // 8] == tag) == (test["result"] == "valid"), test["tcId"]


def test_hkdf_sha256() -> None:
    refused = 0
    for _, test in cases("hkdf_sha256_test.json"):
        secret, salt, info, output = octets(test, "ikm", "salt", "info", "okm")
        key = extract(salt, secret)
        if test["result"] == "valid":
            assert expand(key, info, test["size"]) == output, test["tcId"]
        else:
            with pytest.raises(ValueError, match="at most"):
                expand(key, info, test["size"])
            refused += 1
    assert refused > 0


def test_chacha20_poly1305() -> None:
    records = 0
    for group, test in cases("chacha20_poly1305_test.json"):
        key, nonce, associated, message, text, tag = octets(test, "key", "iv", "aad", "msg", "ct", "tag")
        if group["ivSize"] != 96:
            with pytest.raises(ValueError):
                ChaCha20Poly1305(key).encrypt(nonce, message, associated)
            continue
        cipher = ChaCha20Poly1305(key)
        if test["result"] == "valid":
            assert cipher.encrypt(nonce, message, associated) == text + tag, test["tcId"]
            assert cipher.decrypt(nonce, text + tag, associated) == message
        else:
            with pytest.raises(InvalidTag):
                cipher.decrypt(nonce, text + tag, associated)
        if not associated and nonce[:4] == bytes(4):
            record = RecordCipher(key)
            record.counter = int.from_bytes(nonce, "big")
            if test["result"] == "valid":
                assert record.open(text + tag) == message
            else:
                with pytest.raises(ValueError, match="verify"):
                    record.open(text + tag)
            records += 1
    print(f"{records} of them as records")
