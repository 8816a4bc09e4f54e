"""Reading with a schema: whatever a file holds, the outcome is a value or ConfigErrors, never another exception."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chainrelay.config.agent import load_agent
from chainrelay.config.reference import FILES
from chainrelay.config.schema import Key, Rows, Schema, nearest
from chainrelay.errors import ConfigErrors
from unit.config.directory import NO_FACTS, RELAY, write

INNER = {"pool", "announce", "keys", "to", "via", "at", "user", "file", "mask"}
NAMES = sorted({key.name for schema in FILES for key in schema.keys} | INNER)
SCALARS = st.one_of(st.integers(), st.booleans(), st.text(max_size=12), st.sampled_from(["fw2", "10.0.0.1", "*", "\0", "9-8", "::1"]))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4))


def toml(value: object) -> str:
    """A value as TOML."""
    match value:
        case dict():
            return "{ " + ", ".join(f"{key} = {toml(entry)}" for key, entry in value.items()) + " }"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case _:
            return json.dumps(value).replace("\x7f", "\\u007F")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["agent", "routes", "peers", "access"]), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
@example("peers", {"peer": [{"id": "a", "kind": "client", "keys": [{"kid": "a", "file": "\0"}]}]})
@example("agent", {"id": 1 << 20000})
def test_any_values(name: str, values: dict[str, object]) -> None:
    text = "".join(f"{key} = {hex(value) if type(value) is int and value > 0 else toml(value)}\n" for key, value in values.items())
    with TemporaryDirectory() as directory:
        write(Path(directory), RELAY, **{name: text.encode("utf-8", "replace").decode()})
        try:
            load_agent(Path(directory), NO_FACTS)
        except ConfigErrors as wrong:
            assert all(error.where and error.why and error.mend for error in wrong.errors)


@pytest.mark.parametrize("octets", [b"\xff", b"a = 1" + b"0" * 5000, b"a = " + b"[" * 5000, b"\xef\xbb\xbfid = 1", b"[" * 40])
def test_any_octets(octets: bytes, tmp_path: Path) -> None:
    (write(tmp_path, RELAY) / "agent.toml").write_bytes(octets)
    with pytest.raises(ConfigErrors, match=r"^agent\.toml"):
        load_agent(tmp_path, NO_FACTS)


def test_nearest() -> None:
    assert nearest("pol", ["pool", "rest"], "remove it") == "did you mean 'pool'? (valid: pool, rest)"
    assert nearest("zzz", ["pool"], "remove it") == "remove it (valid: pool)"
    assert nearest("zzz", [], "remove it") == "remove it"


@pytest.mark.parametrize("schema", FILES, ids=lambda schema: schema.title)
def test_no_key_stands_twice_and_every_one_has_a_meaning(schema: Schema) -> None:
    def walk(table: Schema) -> list[Key[object]]:
        assert len({key.name for key in table.keys}) == len(table.keys)
        found = list(table.keys)
        for key in table.keys:
            inner = key.kind.schema if isinstance(key.kind, Rows) else key.kind
            found += walk(inner) if isinstance(inner, Schema) else []
        return found

    assert all(key.doc for key in walk(schema))
