"""What documents point at exists: a reader who follows a link must not end in nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
DASH = "\u2013"
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
