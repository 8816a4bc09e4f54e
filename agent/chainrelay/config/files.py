"""One TOML file -> the Values of its schema. What is missing, unreadable or no TOML is one error."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from chainrelay.config.lines import locate
from chainrelay.config.problems import Place, Problems
from chainrelay.config.schema import Schema, Values

LARGEST = 16 * 1024 * 1024  # some 100,000 rows; more is a mistaken path


def read_file(directory: Path, schema: Schema, problems: Problems, *, optional: bool = False) -> Values:
    """Read `directory`/`schema.title`. What is wrong is reported. `optional`: absent means empty."""
    path, place = directory / schema.title, Place(problems, schema.title, {})
    try:
        with path.open("rb") as file:
            octets = file.read(LARGEST + 1)
        if len(octets) > LARGEST:
            place.wrong(f"larger than {LARGEST} bytes", "is this the right directory?")
            return Values(place, complete=False)
        text = octets.decode("utf-8")
        raw = tomllib.loads(text)
    except FileNotFoundError:
        if optional:
            return schema.read({}, place)
        place.wrong(f"there is no such file in {directory}", "copy it from the examples and adapt it")
    except NotADirectoryError:
        place.wrong(f"{directory} is a file", "name the directory that holds it")
    except OSError as error:
        place.wrong(f"can't be read: {error.strerror}", f"look at the path and rights of {path}")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        _at_line(place, line).wrong("not UTF-8", "save it as UTF-8")
    except ValueError as error:  # TOMLDecodeError, and a number with more digits than Python converts
        _syntax(place, str(error))
    except RecursionError:
        place.wrong("nested too deeply", "write it with flat tables, as in the examples")
    else:
        return schema.read(raw, Place(problems, schema.title, locate(text)))
    return Values(place, complete=False)


def _syntax(place: Place, text: str) -> None:
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", text, re.DOTALL)
    why, line, column = match.groups() if match else (text, None, None)
    spot = f" in column {column}" if column else " at the end of the file" if match else ""
    mend = "mend the TOML: text and addresses in quotes, lists in [ ], each key once"
    _at_line(place, int(line) if line else None).wrong(f"not TOML: {why}{spot}", mend)


def _at_line(place: Place, line: int | None) -> Place:
    return Place(place.problems, place.file, {} if line is None else {(): line})
