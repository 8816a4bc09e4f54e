"""What is wrong with a configuration, collected: an administrator sees everything at once and mends it in one go.

`Place` is a spot in a file that can report; `Problems` is the list that all places of one load share.
An ERROR keeps the configuration from being used, a WARNING does not. Reading and judging is for the other modules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from chainrelay.config.lines import Path
from chainrelay.errors import ConfigError, ConfigErrors


class Level(Enum):
    """Whether the configuration can be used in spite of it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `line` counts from 1; None where it can't be told (a whole file)."""

    level: Level
    file: str
    key: str
    line: int | None
    why: str
    mend: str

    @property
    def where(self) -> str:
        """`peers.toml:peer[2].keys[1].file (line 9)`; rows count from 1."""
        spot = f"{self.file}:{self.key}" if self.key else self.file
        return f"{spot} (line {self.line})" if self.line is not None else spot

    def __str__(self) -> str:
        return f"{self.where}: {self.why}; {self.mend}"

    def error(self) -> ConfigError:
        """The same as an exception."""
        return ConfigError(self.where, self.why, self.mend)


@dataclass(slots=True)
class Problems:
    """All problems of one load, in the order in which they were met."""

    found: list[Problem] = field(default_factory=list)
    only_checking: bool = False
    """Nobody is going to run by this configuration here: what only the service itself can see is no error."""

    @property
    def errors(self) -> list[Problem]:
        """Those that forbid the configuration."""
        return [problem for problem in self.found if problem.level is Level.ERROR]

    @property
    def warnings(self) -> list[Problem]:
        """Those that do not."""
        return [problem for problem in self.found if problem.level is Level.WARNING]

    def raise_errors(self) -> None:
        """Raises ConfigErrors with every error, if there is any."""
        if self.errors:
            raise ConfigErrors([problem.error() for problem in self.errors])


@dataclass(frozen=True, slots=True)
class Place:
    """A spot in a file, and where its problems go."""

    problems: Problems
    file: str
    lines: dict[Path, int]
    path: Path = ()

    def of(self, *keys: str | int) -> Place:
        """A spot further in: keys by name, rows by index from 0."""
        return Place(self.problems, self.file, self.lines, (*self.path, *keys))

    def wrong(self, why: str, mend: str) -> None:
        """Report an error."""
        self._report(Level.ERROR, why, mend)

    def warn(self, why: str, mend: str) -> None:
        """Report a warning."""
        self._report(Level.WARNING, why, mend)

    @property
    def key(self) -> str:
        """The path as people write it: `peer[2].keys[1].file`, rows counted from 1."""
        text = ""
        for part in self.path:
            text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
        return text

    @property
    def line(self) -> int | None:
        """The line of this key, or of the nearest table around it that is written out."""
        for end in range(len(self.path), -1, -1):
            if (line := self.lines.get(self.path[:end])) is not None:
                return line
        return None

    def _report(self, level: Level, why: str, mend: str) -> None:
        self.problems.found.append(Problem(level, self.file, self.key, self.line, why, mend))
