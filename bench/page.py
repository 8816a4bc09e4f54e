"""docs/benchmarks.md: each benchmark writes its own part between its own two markers, and touches nothing else."""

from __future__ import annotations

from pathlib import Path


def put(folder: Path, part: str, text: str) -> None:
    """Replace what stands between the markers of `part` in `folder`/benchmarks.md. Ends the program where they are missing."""
    page = folder / "benchmarks.md"
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page}: lacks the lines {begin} and {end}; put them back where the figures belong")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
