"""Keys as map entries and back."""

from __future__ import annotations

from chainrelay.datapath.xdp_layout import ENDING, SEAL, SEAL_KEY
from chainrelay.datapath.xdp_seals import NO_KEY, SealCounts, ended_of, ending_of, seal_held_of, seal_key_of, seal_value_of
from chainrelay.wire.sealed import SealKeys

SESSION = bytes(range(16))
KEYS = SealKeys(bytes.fromhex("d0000002"), b"o" * 32, b"p" * 12, b"s" * 32, b"t" * 12)


def test_a_new_key_has_counted_nothing_and_is_the_current_one() -> None:
    key, value = seal_key_of(SESSION, KEYS.key_id), seal_value_of(KEYS, bytes.fromhex("df000000"))
    assert (len(key), len(value)) == (SEAL_KEY.size, SEAL.size)
    held = seal_held_of(key, value)
    assert (held.session, held.key_id, held.before, held.ends_ns) == (SESSION, KEYS.key_id, bytes.fromhex("df000000"), 0)
    assert held.counts == SealCounts(0, 0, 0, 0)
    fields = SEAL.unpack(value)
    assert [fields[name] for name in ("open_key", "open_iv", "seal_key", "seal_iv")] == [b"o" * 32, b"p" * 12, b"s" * 32, b"t" * 12]
    assert seal_held_of(key, seal_value_of(KEYS)).before == NO_KEY


def test_what_is_read_back_shows_no_secret() -> None:
    shown = repr(seal_held_of(seal_key_of(SESSION, KEYS.key_id), seal_value_of(KEYS)))
    for secret in (KEYS.open_key, KEYS.open_iv, KEYS.seal_key, KEYS.seal_iv):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


def test_endings_and_their_answers() -> None:
    key = seal_key_of(SESSION, KEYS.key_id)
    fields = ENDING.unpack(ending_of(key, 77, wipe=True))
    assert (fields["key.session"], fields["key.key_be32"], fields["ends_ns"], fields["wipe"]) == (SESSION, KEYS.key_id, 77, 1)
    assert ENDING.unpack(ending_of(key, 77))["wipe"] == 0
    assert ended_of(ending_of(key, 77)) is None
    assert ended_of(ENDING.pack({**fields, "found": 1, "opened": 4, "sealed": 3, "forged": 2, "replayed": 1})) == SealCounts(4, 3, 2, 1)
