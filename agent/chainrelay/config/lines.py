"""Where each key of a TOML text stands, since tomllib does not say.

`locate` walks a text that tomllib has accepted already, so it needs to find keys and brackets, not faults. A path is a
tuple of keys and list indexes (from 0): `("peer", 1, "keys", 0, "file")`. What it can't tell, it leaves out.
"""

from __future__ import annotations

import contextlib
import re
from bisect import bisect_left

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE = re.compile(r"[^\s,\[\]{}#=.\"']+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


class _Walker:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.ends = [index for index, character in enumerate(text) if character == "\n"]
        self.found: dict[Path, int] = {}
        self.rows: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self.blank() < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self.header(2)
            elif self.text.startswith("[", self.at):
                table = self.header(1)
            else:
                self.pair(table)

    def header(self, brackets: int) -> Path:
        start, path = self.at, Path()
        self.at += brackets
        keys = self.keys()
        for number, key in enumerate(keys, 1):
            path = (*path, key)
            if number == len(keys) and brackets == 2:
                self.rows[path] = self.rows.get(path, 0) + 1
            if path in self.rows:
                path = (*path, self.rows[path] - 1)
        self.blank()
        self.at += brackets
        if brackets == 2:
            self.mark(path[:-1], start)
        self.mark(path, start)
        return path

    def pair(self, table: Path) -> None:
        start = self.at
        path = (*table, *self.keys())
        self.mark(path, start)
        self.blank()
        self.at += 1  # =
        self.value(path)

    def keys(self) -> list[str]:
        found = []
        while True:
            self.blank()
            token = _STRING.match(self.text, self.at) or _BARE.match(self.text, self.at)
            if token is None:
                raise _LostError
            self.at = token.end()
            found.append(token.group().strip("\"'"))
            self.blank()
            if not self.text.startswith(".", self.at):
                return found
            self.at += 1

    def value(self, path: Path) -> None:
        self.blank()
        match self.text[self.at : self.at + 1]:
            case "[":
                self.items(path)
            case "{":
                self.inline(path)
            case _:
                token = _STRING.match(self.text, self.at) or _SCALAR.match(self.text, self.at)
                if token is None:
                    raise _LostError
                self.at = token.end()

    def items(self, path: Path) -> None:
        self.at += 1
        index = 0
        while not self.closed("]"):
            self.mark((*path, index), self.at)
            self.value((*path, index))
            index += 1

    def inline(self, path: Path) -> None:
        self.at += 1
        while not self.closed("}"):
            self.pair(path)

    def closed(self, bracket: str) -> bool:
        """Past a comma and blanks: is this the end?"""
        self.blank()
        if self.text.startswith(",", self.at):
            self.at += 1
            self.blank()
        if self.at >= len(self.text):
            raise _LostError
        if self.text[self.at] != bracket:
            return False
        self.at += 1
        return True

    def blank(self) -> int:
        token = _BLANK.match(self.text, self.at)
        self.at = token.end() if token else self.at
        return self.at

    def mark(self, path: Path, position: int) -> None:
        self.found.setdefault(path, bisect_left(self.ends, position) + 1)


class _LostError(Exception):
    """The walker met what it does not know; what it found so far still holds."""


def locate(text: str) -> dict[Path, int]:
    """Line (from 1) of every table, key and list item of a valid TOML text."""
    walker = _Walker(text)
    with contextlib.suppress(_LostError):
        walker.document()
    return walker.found
