"""What can be said of the model without a checker: every mutant is the model with one named place changed.

With `proverif` in PATH the short groups are run as well; all of them: `python3 tests/formal/run.py`.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from formal.model import FOLDER, GROUPS, generate, known_switches, query_names
from formal.run import CHECKER, Run, answers, check, table

if TYPE_CHECKING:
    from pathlib import Path

RUNS = table()
MUTANTS = [run for run in RUNS if run.switches]

# Where each switch may change the model: the names of the declarations.
PLACES = {
    "NO_IDS": {"ids"},
    "NO_M3": {"Responder"},
    "NO_TAG1": {"make_tag1"},
    "NO_HASH_M1": {"hash_of_m1"},
    "NO_HASH_M1_M2": {"make_tag_i"},
    "NO_PURPOSE": {"m1_before_tag"},
    "NO_DH": {"session_key"},
    "NO_KMIX": {"k_mix"},
    "NO_TH": {"transcript"},
    "NO_SESSION_ID": {"place_of"},
    "NO_WAY": {"place_of"},
    "NO_HOP": {"place_of"},
    "NO_PREVIOUS": {"place_of"},
    "NO_ENDPOINTS": {"first_record"},
    "NO_EXIT": {"rekeyed_of"},
    "NO_COMPONENT": {"associated"},
    "NO_ROLES": {"role_i", "role_r"},
    "NO_DIRECTIONS": {"k_auth"},
}


def _declarations(text: str) -> dict[str, str]:
    """Name → text of every `letfun` and `let`; whatever stands between goes with the one before."""
    parts = re.split(r"^(?=let(?:fun)? \w+)", re.sub(r"\(\*.*?\*\)", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {part.split()[1].partition("(")[0] if number else "": part for number, part in enumerate(parts)}


@pytest.mark.parametrize("run", MUTANTS, ids=lambda run: run.name)
def test_a_mutant_differs_in_the_named_place_alone(run: Run) -> None:
    model, mutant = _declarations(generate(run.group)), _declarations(generate(run.group, run.switches))
    assert model.keys() == mutant.keys()
    changed = {name for name in model if model[name] != mutant[name]}
    assert changed == set().union(*(PLACES[switch] for switch in run.switches))


@pytest.mark.parametrize("run", MUTANTS, ids=lambda run: run.name)
def test_a_mutant_asks_what_the_model_asks(run: Run) -> None:
    assert query_names(generate(run.group, run.switches)) == query_names(generate(run.group))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_attacks_expected_are_on_queries_that_exist(run: Run) -> None:
    names = query_names(generate(run.group, run.switches))
    assert run.attacked | run.unproved <= set(names[:-1])
    assert not run.attacked & run.unproved
    assert len(names) == len(set(names)) == len(re.findall(r"^query ", generate(run.group, run.switches), re.MULTILINE))
    assert names[-1] == "no honest session ever ends (must be refuted)"


def test_every_group_is_proved_without_switches() -> None:
    assert [run.group for run in RUNS if not run.switches] == list(GROUPS)
    assert [run.name for run in RUNS if not run.switches and (run.attacked or run.unproved)] == []


def test_every_switch_has_a_run() -> None:
    scenarios = {"DH_BROKEN", "BARE"}  # a group's own #define
    assert set().union(*(known_switches(group) for group in GROUPS)) - scenarios == set(PLACES)
    assert {switch for run in MUTANTS for switch in run.switches} == set(PLACES)


@pytest.mark.parametrize("group", GROUPS)
def test_a_text_is_complete(group: str) -> None:
    text = generate(group)
    assert not re.search(r"^#", text, re.MULTILINE)
    without_comments = re.sub(r"\(\*.*?\*\)", "", text, flags=re.DOTALL)
    assert without_comments.count("(") == without_comments.count(")")
    assert without_comments.count("\nprocess") == 1


def test_a_scenario_is_in_its_group_alone() -> None:
    assert "out(net, x);" in generate("hybrid")
    assert "out(net, x);" not in generate("secrecy")
    assert "purpose <> end_to_end" in generate("end_to_end")
    assert "purpose <> end_to_end" not in generate("agreement")


def test_an_unknown_switch_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"binding\.pv has no switch NO_THE; it has .*NO_TH"):
        generate("binding", ["NO_THE"])


def test_answers_come_in_the_order_of_the_queries() -> None:
    summary = (
        "RESULT event(A) is false.\nVerification summary:\n\nQuery event(A) is false.\n\n"
        "Query inj-event(B) ==> event(C) is true.\n\nQuery event(D) cannot be proved.\n"
    )
    assert answers(summary, ["a", "b", "d"]) == {"a": False, "b": True, "d": None}
    with pytest.raises(ValueError, match="2 queries, 3 answers"):
        answers(summary, ["a", "b"])


def test_the_readme_names_every_switch_and_group() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert [name for name in (*PLACES, *GROUPS) if f"`{name}`" not in readme] == []


@pytest.mark.skipif(shutil.which(CHECKER) is None, reason=f"{CHECKER} is not in PATH: see tests/formal/README.md")
@pytest.mark.parametrize("run", [run for run in RUNS if run.group in ("theft", "hybrid", "binding")], ids=lambda run: run.name)
def test_the_checker_answers_as_expected(run: Run, tmp_path: Path) -> None:
    outcome = check(run, tmp_path)
    assert outcome.trouble == ""
    assert outcome.answers == run.expected()
