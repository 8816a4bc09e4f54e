"""Lines of keys in TOML texts of every shape."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from chainrelay.config.lines import Path, locate

TEXT = '''\
# a comment with [brackets] and = signs
id = "a # b [c]"
"quoted key" = 'x = 1'
deep.er = 1

[ports]   # section
pool = """
pool = 9
[not a table]
"""
after = 1

[[peer]]
id = "one"
keys = [
    { kid = "a", file = "x" },   # a comment, with ] and }

    { kid = "b", file = "y" },
]

[[peer]]
id = 'two'
[[peer.sub]]
x = 1
[[peer.sub]]
x = 1979-05-27T07:32:00Z
[peer.table]
y = [[1, 2], [3]]
'''
LINES: dict[Path, int] = {
    ("id",): 2,
    ("quoted key",): 3,
    ("deep", "er"): 4,
    ("ports",): 6,
    ("ports", "pool"): 7,
    ("ports", "after"): 11,
    ("peer",): 13,
    ("peer", 0): 13,
    ("peer", 0, "keys"): 15,
    ("peer", 0, "keys", 0, "kid"): 16,
    ("peer", 0, "keys", 1): 18,
    ("peer", 0, "keys", 1, "file"): 18,
    ("peer", 1): 21,
    ("peer", 1, "id"): 22,
    ("peer", 1, "sub", 0, "x"): 24,
    ("peer", 1, "sub", 1, "x"): 26,
    ("peer", 1, "table", "y", 1, 0): 28,
}


@pytest.mark.parametrize("path", LINES, ids=lambda path: ".".join(map(str, path)))
def test_line_of_a_key(path: Path) -> None:
    assert locate(TEXT)[path] == LINES[path]


def test_nothing_is_found_that_is_not_there() -> None:
    for path in locate(TEXT):
        value: Any = tomllib.loads(TEXT)
        for part in path:
            value = value[part]  # raises for a path that does not exist


@pytest.mark.parametrize("text", ["a = [", "= 1", "[", 'x = "', "a", "[[x]", "a = {b = 1"])
def test_a_text_that_is_no_toml_ends_the_walk(text: str) -> None:
    assert all(line == 1 for line in locate(text).values())
