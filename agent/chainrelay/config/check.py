"""`--check-config`: everything that is wrong with a relay's directory, warnings too, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from chainrelay.config.agent import AgentConfig, read_agent
from chainrelay.config.client import read_client
from chainrelay.config.host import HostFacts, read_host_facts
from chainrelay.config.problems import Level, Problem, Problems


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. The caller decides the exit status."""

    directory: Path
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the configuration can be used; warnings don't hinder it."""
        return not self.errors

    def as_text(self) -> str:
        """One line per problem, and a last one with the sum."""
        lines = [f"{problem.level.value}: {problem}" for problem in (*self.errors, *self.warnings)]
        verdict = "good" if self.ok else "can't be used"
        lines.append(f"{self.directory}: {verdict}, {len(self.errors)} errors, {len(self.warnings)} warnings")
        return "\n".join(lines)

    def as_json(self) -> str:
        """An object with `directory`, `ok` and `problems`: `level`, `file`, `key`, `line` (or null), `why`, `mend`."""
        problems = [
            {
                "level": problem.level.value,
                "file": problem.file,
                "key": problem.key,
                "line": problem.line,
                "why": problem.why,
                "mend": problem.mend,
            }
            for problem in (*self.errors, *self.warnings)
        ]
        report = {"directory": str(self.directory), "ok": self.ok, "problems": problems}
        return json.dumps(report, indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the host says about a key of a file."""

    file: str
    key: str
    level: Level
    why: str
    mend: str


def check(directory: Path, facts: HostFacts | None = None, probe: Callable[[AgentConfig], Iterable[Finding]] | None = None) -> Report:
    """Check a relay's directory. `facts`: the host's ports, read from the kernel if not given; `probe`: asks the host about
    a good configuration."""
    problems = Problems(only_checking=True)
    config = read_agent(directory, problems, read_host_facts() if facts is None else facts)
    if config is not None and probe is not None:
        problems.found += [Problem(each.level, each.file, each.key, None, each.why, each.mend) for each in probe(config)]
    return _report(directory, problems)


def check_client(directory: Path) -> Report:
    """Check a client's directory."""
    problems = Problems(only_checking=True)
    read_client(directory, problems)
    return _report(directory, problems)


def _report(directory: Path, problems: Problems) -> Report:
    return Report(directory, tuple(problems.errors), tuple(problems.warnings))
