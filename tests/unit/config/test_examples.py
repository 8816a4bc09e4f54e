"""The examples load, with their comments taken away as well; docs/configuration.md is what the schema says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from chainrelay.config.agent import load_agent
from chainrelay.config.client import load_client
from chainrelay.config.diff import differences
from chainrelay.config.reference import FILES, embedded
from chainrelay.config.schema import Rows, Schema
from unit.config.directory import NO_FACTS, write_key

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "packaging" / "examples"
DOCUMENT = ROOT / "docs" / "configuration.md"
RELAY_KEYS = ("alice-2026a.key", "alice-2026b.key", "fw2-2026a.key")


def example(name: str, directory: Path) -> Path:
    shutil.copytree(EXAMPLES / name, directory, dirs_exist_ok=True)
    (directory / "keys").mkdir()
    for key in (*RELAY_KEYS, "fw1-2026a.key"):
        write_key(directory / "keys" / key)
    return directory


def uncomment(directory: Path) -> None:
    """`# key = value` becomes `key = value`; prose stays a comment."""
    for path in directory.glob("*.toml"):
        path.write_text(re.sub(r"^( *)# ((?:[a-z_]+ = |\{ ).*)$", r"\1\2", path.read_text(), flags=re.MULTILINE))


def test_relay(tmp_path: Path) -> None:
    config = load_agent(example("relay", tmp_path), NO_FACTS)
    assert config.policy.peers.ids() == {"alice", "fw2"}


def test_relay_with_every_comment_taken_away(tmp_path: Path) -> None:
    old = load_agent(example("relay", tmp_path), NO_FACTS)
    uncomment(tmp_path)
    changed = [line.split(":")[0] for line in differences(old, load_agent(tmp_path, NO_FACTS))]
    # commented lines show the defaults; these have none that could be shown
    assert changed == [
        "addresses.client_side", "addresses.server_side", "addresses.announce", "datapath.interfaces", "targets.allow",
        "peers", "peers", "peers",
    ]  # fmt: skip


def test_client_with_every_comment_taken_away(tmp_path: Path) -> None:
    directory = example("client", tmp_path)
    client = (directory / "client.toml").read_text()
    uncomment(directory)
    (directory / "client.toml").write_text(client)  # its comments name a server that a client has to have met first
    peers = directory / "peers.toml"
    peers.write_text(peers.read_text().replace("# [[peer]]", "[[peer]]"))
    config = load_client(directory)
    assert config.peers.ids() == {"fw1", "fw2"}
    assert [(route.last, route.seal) for route in config.routes.rows] == [("fw2", True), ("", False)]


def test_client(tmp_path: Path) -> None:
    config = load_client(example("client", tmp_path))
    assert config.peers.ids() == {"fw1"}
    assert [row.relay for row in config.answers.rows] == ["fw1"]


def names(schema: Schema, prefix: str = "") -> list[str]:
    """Every key that holds a value, as the documentation writes it."""
    found = []
    for key in schema.keys:
        match key.kind:
            case Rows():
                found += names(key.kind.schema, f"{prefix}{key.name}[].")
            case Schema():
                found += names(key.kind, f"{prefix}{key.name}.")
            case _:
                found.append(prefix + key.name)
    return found


@pytest.mark.parametrize("schema", FILES, ids=lambda schema: schema.title)
def test_every_key_is_documented_and_every_documented_key_exists(schema: Schema) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"### {schema.title}\n")[2].partition("\n### ")[0]
    assert sorted(re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)) == sorted(names(schema))


def test_the_reference_in_the_document_is_up_to_date() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert embedded(text) == text, "run python -m chainrelay.config.reference docs/configuration.md"
