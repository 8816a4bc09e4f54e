"""What documents point at exists: a reader who follows a link must not end in nothing."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
DASH = "\u2013"
TESTS = ROOT / "tests"
THREATS = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = re.compile(r"([\w./-]+\.py)::(\w+)")
PROOF = re.compile(r'`(formal/\w+\.pv)`(?: "([^"]+)")?')
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in ("docs", "ebpf", "tests") for path in (ROOT / folder).rglob("*.md"))])


def test_there_are_documents() -> None:
    assert ROOT / "README.md" in DOCUMENTS
    assert ROOT / "docs" / "protocol.md" in DOCUMENTS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_requirement_has_its_row() -> None:
    """The numbers that code and documents use are explained on the first page."""
    rows = re.findall(rf"^\| (M[\dM{DASH}, ]+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    explained: set[int] = set()
    for row in rows:
        for part in row.replace("M", "").split(","):
            first, _, last = part.strip().partition(DASH)
            explained.update(range(int(first), int(last or first) + 1))
    assert explained == set(range(1, 25))


# the threat model ------------------------------------------------------------------


@cache
def functions(file: str) -> frozenset[str]:
    """What is defined in a file under tests/; nothing where there is no such file."""
    path = TESTS / file
    tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def threats() -> list[list[str]]:
    """The rows of the table: attacker, tries, defence, left, test."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in THREATS.splitlines() if line.startswith("| ")]
    assert rows[0] == ["attacker", "tries", "defence", "what is left", "test"]
    return rows[1:]


def test_every_test_that_the_threat_model_names_exists() -> None:
    """Who renames a test or takes it away finds out here which defence it has shown."""
    named = NAMED.findall(THREATS)
    assert len(named) > 100
    assert [f"{file}::{name}" for file, name in named if not name.startswith("test_") or name not in functions(file)] == []


def test_every_proof_that_the_threat_model_names_exists() -> None:
    proofs = PROOF.findall(THREATS)
    assert len(proofs) == THREATS.count("`formal/")
    texts = {file: (TESTS / file).read_text(encoding="utf-8") for file, _ in proofs}
    assert [f"{file}: {query}" for file, query in proofs if query and f"(* query: {query} *)" not in texts[file]] == []


@pytest.mark.parametrize("row", threats(), ids=lambda row: f"{row[0]}: {row[1]}"[:60])
def test_every_defence_is_shown(row: list[str]) -> None:
    """By functions and proofs, not by files and folders: those say nothing when the one test in them that counts has gone."""
    assert len(row) == 5, row
    _, _, defence, _, shown = row
    if defence.startswith("none"):
        assert shown == DASH
        return
    each = PROOF.sub("", shown).replace("`", "").replace(",", " ").split()
    assert each or PROOF.search(shown)
    assert [one for one in each if not NAMED.fullmatch(one)] == []
