"""A declarative way to say what a file may hold: key, type, default, meaning. Reading and documentation follow.

    POOL = Key("pool", PORTS, "ports that sessions get", default=PortRange(20000, 29999))
    SECTION = Schema("ports", (POOL, REST))
    values = SECTION.read(raw, place)      # reports unknown keys, wrong types, missing keys: all of them
    values[POOL]                           # typed: PortRange

A key whose value was wrong is absent from `Values`; `get` says None for it. So checks that need it can step aside, and
one mistake does not cause a second message.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar, overload

from chainrelay.config.problems import Place

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class WrongError(ValueError):
    """A value does not fit its kind. The reader of the key reports it with its place."""

    def __init__(self, why: str, mend: str) -> None:
        super().__init__(why)
        self.why, self.mend = why, mend


class ReportedError(ValueError):
    """A value does not fit and its parts have reported so already."""


class Kind(Protocol[T_co]):
    """A type of values: how it is read and how documentation describes it."""

    @property
    def name(self) -> str:
        """For tables in the documentation: `integer 1–65535`."""

    def read(self, raw: object, place: Place) -> T_co:
        """The value. Raises WrongError, or ReportedError after it has reported by itself."""


class Need(Enum):
    """What it means that a key is absent, when there is no default."""

    REQUIRED = "required"


@dataclass(frozen=True, slots=True, eq=False)
class Key(Generic[T]):
    """One key of a table. `shown` is the default as the documentation prints it, where repr would not do."""

    name: str
    kind: Kind[T]
    doc: str
    default: T | Need = Need.REQUIRED
    shown: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """What was read for one table. Keys with a wrong value are not in it."""

    place: Place
    held: dict[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    complete: bool = True

    def __getitem__(self, key: Key[T]) -> T:
        """The value; a KeyError means that the caller has not looked at `complete`."""
        value: T = self.held[key.name]
        return value

    @overload
    def get(self, key: Key[T]) -> T | None: ...
    @overload
    def get(self, key: Key[T], otherwise: T) -> T: ...
    def get(self, key: Key[T], otherwise: T | None = None) -> T | None:
        """The value, or `otherwise` if it was wrong."""
        value: T | None = self.held.get(key.name, otherwise)
        return value

    def at(self, key: Key[Any]) -> Place:
        """The place of a key, to report about it."""
        return self.place.of(key.name)

    def has(self, key: Key[Any]) -> bool:
        """Whether it stands in the file."""
        return key.name in self.given


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """A table of keys. As a Kind it is a section (`[ports]`); its absence is the same as an empty one."""

    title: str
    keys: tuple[Key[Any], ...]
    doc: str = ""

    @property
    def name(self) -> str:
        """For the documentation."""
        return "table"

    def read(self, raw: object, place: Place) -> Values:
        """Every key of the table; reports whatever is wrong, returns what is right."""
        if not isinstance(raw, dict):
            raise WrongError(f"expected a table, found {describe(raw)}", "write a table of keys here")
        held: dict[str, Any] = {}
        complete = self._known(raw, place)
        for key in self.keys:
            try:
                held[key.name] = self._value(key, raw, place)
            except WrongError as error:
                place.of(key.name).wrong(error.why, error.mend)
                complete = False
            except ReportedError:
                complete = False
            else:
                complete &= not _incomplete(held[key.name])
        return Values(place, held, frozenset(raw), complete)

    def _known(self, raw: dict[str, object], place: Place) -> bool:
        names = [key.name for key in self.keys]
        unknown = [name for name in raw if name not in names]
        for name in unknown:
            place.of(name).wrong("unknown key", nearest(name, names, "remove it"))
        return not unknown

    @staticmethod
    def _value(key: Key[Any], raw: dict[str, object], place: Place) -> object:
        if key.name in raw:
            return key.kind.read(raw[key.name], place.of(key.name))
        if key.default is not Need.REQUIRED:
            return key.default
        if isinstance(key.kind, Schema):
            return key.kind.read({}, place.of(key.name))
        raise WrongError("missing", f"write {key.name} = … ({key.kind.name}: {key.doc})")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Kind of `[[route]]`: any number of tables of one schema. Rows with mistakes stay in, not `complete`."""

    schema: Schema

    @property
    def name(self) -> str:
        """For the documentation."""
        return "rows"

    def read(self, raw: object, place: Place) -> tuple[Values, ...]:
        """All rows."""
        if not isinstance(raw, list) or not all(isinstance(row, dict) for row in raw):
            raise WrongError(f"expected rows, found {describe(raw)}", f"write [[{place.path[-1]}]] before each row")
        return tuple(self.schema.read(row, place.of(index)) for index, row in enumerate(raw))


def nearest(name: str, valid: list[str], otherwise: str) -> str:
    """How to mend a name that does not exist: the nearest valid one, and which there are."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    listed = f"valid: {', '.join(sorted(valid))}" if valid else otherwise
    return f"did you mean {near[0]!r}? ({listed})" if near else f"{otherwise} ({listed})" if valid else otherwise


def describe(raw: object) -> str:
    """A value as a person would call it."""
    match raw:
        case bool():
            return "true" if raw else "false"
        case int() | float():
            return f"the number {number(raw)}"
        case str():
            return f"the text {shorten(raw)!r}"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def number(raw: float) -> str:
    """A number as text; a giant one, which Python refuses to print, in words."""
    return "beyond 64 bits" if isinstance(raw, int) and raw.bit_length() > 64 else str(raw)


def shorten(text: str) -> str:
    """A long value's beginning only: a secret key pasted into the wrong place must not get into a log."""
    return text if len(text) <= 40 else f"{text[:10]}…"


def _incomplete(value: object) -> bool:
    if isinstance(value, Values):
        return not value.complete
    return isinstance(value, tuple) and any(_incomplete(item) for item in value)
