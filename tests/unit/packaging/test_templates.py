"""The files that an installation starts with decide nothing, and become the examples when their comments are taken away."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import templates

EXAMPLES = Path(templates.__file__).parent / "examples"
FILES = sorted(EXAMPLES.glob("*/*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_is_decided(path: Path) -> None:
    decided = tomllib.loads(templates.template(path.read_text()))
    assert all(section == {} for section in decided.values()), decided


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_is_the_example_behind_comments(path: Path) -> None:
    example, template = (text.splitlines() for text in (path.read_text(), templates.template(path.read_text())))
    assert [re.sub(r"^# (?=\S|    )", "", each) for each in template] == [re.sub(r"^# (?=\S|    )", "", each) for each in example]


def test_all_of_them_are_written(tmp_path: Path) -> None:
    templates.main(EXAMPLES, tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"access.toml", "agent.toml", "client.toml", "peers.toml", "routes.toml"}
