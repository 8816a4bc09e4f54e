"""One checkable text out of the model's files: `#include`, `#define` and `#if NAME` / `#if !NAME` / `#else` / `#endif`.

A mutant is the model with a switch on, so there is no second copy of it that could drift. Nothing here runs a checker.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLDER = Path(__file__).parent
GROUPS = ("agreement", "secrecy", "theft", "hybrid", "binding", "end_to_end", "sealed")
_DIRECTIVE = re.compile(r"#(include|define|if|else|endif)(?: (!?)([A-Za-z0-9_.]+))?\s*")
_QUERY_NAME = re.compile(r"\(\* query: (.+) \*\)")


def generate(group: str, switches: Iterable[str] = ()) -> str:
    """The text of `group`, all in one, with these switches on. ValueError for a switch that the group does not know."""
    on, known = set(switches), known_switches(group)
    if on - known:
        raise ValueError(f"{group}.pv has no switch {', '.join(sorted(on - known))}; it has {', '.join(sorted(known))}")
    return "".join(line + "\n" for line in _expand(f"{group}.pv", on))


def known_switches(group: str) -> set[str]:
    """Every name that an `#if` of the group or of a file it includes asks for."""
    own = (FOLDER / f"{group}.pv").read_text()
    included = re.findall(r"^#include (\S+)$", own, re.MULTILINE)
    texts = [own, *((FOLDER / name).read_text() for name in included)]
    return {name for text in texts for name in re.findall(r"^#if !?(\w+)$", text, re.MULTILINE)}


def query_names(text: str) -> list[str]:
    """The names in `(* query: … *)`, in the order in which the checker answers."""
    return _QUERY_NAME.findall(text)


def _expand(name: str, on: set[str]) -> Iterator[str]:
    keep: list[bool] = []
    for number, line in enumerate((FOLDER / name).read_text().splitlines(), 1):
        directive = _DIRECTIVE.fullmatch(line)
        if line.startswith("#") and directive is None:
            raise ValueError(f"{name}:{number}: {line}: no such directive")
        if directive is None:
            if all(keep):
                yield line
            continue
        word, no, argument = directive.groups()
        match word:
            case "if":
                keep.append((argument in on) != bool(no))
            case "else":
                keep[-1] = not keep[-1]
            case "endif":
                keep.pop()
            case "define" if all(keep):
                on.add(argument)
            case "include" if all(keep):
                yield from _expand(argument, on)
    if keep:
        raise ValueError(f"{name}: an #if without #endif")
