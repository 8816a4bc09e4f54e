"""Runs the checker over the model and its mutants and compares every answer with expected.toml.

    python3 tests/formal/run.py [--jobs 2] [--only GROUP] [--keep FOLDER] [--print GROUP SWITCH ...]

Exit status: 0 all as expected, 1 a difference, 2 no checker in PATH. What the model says stands in README.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from formal.model import FOLDER, GROUPS, generate, query_names

CHECKER = "proverif"
LONGEST = 3600  # seconds for one run; the longest takes about four minutes on a busy core
_ANSWER = re.compile(r"^Query .* (is true|is false|cannot be proved)\.$", re.MULTILINE)
_MEANING = {"is true": True, "is false": False, "cannot be proved": None}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of expected.toml: the model with some switches on, and the queries that must not be proved then."""

    group: str
    switches: tuple[str, ...]
    about: str
    attacked: frozenset[str]
    unproved: frozenset[str]

    @property
    def name(self) -> str:
        return " ".join((self.group, *self.switches))

    def expected(self) -> dict[str, bool | None]:
        """Query name → proved, attacked (False), or neither (None). The last query's attack is the honest session."""
        names = query_names(generate(self.group, self.switches))
        attacked = {*self.attacked, names[-1]}
        return {name: None if name in self.unproved else name not in attacked for name in names}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the checker said, in the terms of Run.expected."""

    run: Run
    answers: dict[str, bool | None]
    seconds: float
    trouble: str = ""

    @property
    def as_expected(self) -> bool:
        return not self.trouble and self.answers == self.run.expected()


def table() -> list[Run]:
    """expected.toml."""
    rows = tomllib.loads((FOLDER / "expected.toml").read_text())["run"]
    return [
        Run(
            row["group"],
            tuple(row.get("switches", ())),
            row["about"],
            frozenset(row.get("attacked", ())),
            frozenset(row.get("unproved", ())),
        )
        for row in rows
    ]


def answers(output: str, names: list[str]) -> dict[str, bool | None]:
    """The checker's summary, query by query. ValueError if it has not one answer per query."""
    found = _ANSWER.findall(output.partition("Verification summary:")[2])
    if len(found) != len(names):
        raise ValueError(f"{len(names)} queries, {len(found)} answers")
    return {name: _MEANING[word] for name, word in zip(names, found, strict=True)}


def check(run: Run, folder: Path) -> Outcome:
    """One run of the checker on a file in `folder`."""
    text = generate(run.group, run.switches)
    file = folder / ("-".join((run.group, *run.switches)) + ".pv")
    file.write_text(text)
    begin = time.monotonic()
    try:
        done = subprocess.run([CHECKER, str(file)], capture_output=True, text=True, timeout=LONGEST, check=False)
        file.with_suffix(".out").write_text(done.stdout + done.stderr)
        got = answers(done.stdout, query_names(text))
    except subprocess.TimeoutExpired:
        return Outcome(run, {}, LONGEST, f"no answer after {LONGEST} s")
    except ValueError as error:
        words = (done.stdout + done.stderr)[-300:]
        return Outcome(run, {}, time.monotonic() - begin, f"{error}; the checker's last words: {words}")
    return Outcome(run, got, time.monotonic() - begin)


def report(outcome: Outcome) -> str:
    """One line for the run, one per query, as rows of a Markdown table."""
    lines = [f"| **{outcome.run.name}** | {outcome.run.about} | {outcome.seconds:.0f} s |"]
    if outcome.trouble:
        lines.append(f"| | {outcome.trouble} | DIFFERENT |")
    expected = outcome.run.expected()
    words = {True: "proved", False: "refuted", None: "neither proved nor refuted"}
    for name, answer in outcome.answers.items():
        right = answer == expected[name]
        verdict = words[answer] if right else f"DIFFERENT: {words[answer]}, expected: {words[expected[name]]}"
        lines.append(f"| | {name} | {verdict} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the handshake's model and its mutants.")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--only", choices=GROUPS, help="one group alone")
    parser.add_argument("--keep", type=Path, help="keep the generated texts and the checker's output in this folder")
    parser.add_argument("--print", nargs="+", metavar=("GROUP", "SWITCH"), help="print one text and leave")
    options = parser.parse_args()
    if options.print:
        print(generate(options.print[0], options.print[1:]), end="")
        return 0
    if shutil.which(CHECKER) is None:
        print(f"{CHECKER} is not in PATH; see tests/formal/README.md for where it comes from", file=sys.stderr)
        return 2
    runs = [run for run in table() if options.only in (None, run.group)]
    different = 0
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        print("| run | query | answer |\n|---|---|---|")
        for outcome in pool.map(lambda run: check(run, folder), runs):
            print(report(outcome), flush=True)
            different += not outcome.as_expected
    print(f"\n{len(runs)} runs, {different} different from expected.toml")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
