"""What a cache line costs on this machine when there are so many of them (lines.c): the least that sessions can cost a relay."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

REPEATS: Final = 5


def nanoseconds(counts: Sequence[int]) -> dict[int, float]:
    """By number of lines; medians. On the core that the caller is pinned to."""
    with tempfile.TemporaryDirectory(prefix="bench-lines-") as folder:
        program = str(Path(folder, "lines"))
        subprocess.run(["gcc", "-O2", "-o", program, str(Path(__file__).with_suffix(".c"))], check=True)
        took: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(REPEATS):
            said = subprocess.run([program, *map(str, counts)], capture_output=True, text=True, check=True).stdout
            for line in said.splitlines():
                count, each = line.split()
                took[int(count)].append(float(each))
    return {count: statistics.median(each) for count, each in took.items()}
