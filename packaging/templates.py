"""The examples as an installation starts with: the same files, with every line that decides something commented out.

    python3 packaging/templates.py packaging/examples etc

So nobody starts under an example's id or with an example's partners by accident, and no example exists twice in the tree.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

KEPT: Final = ("#", "[")  # comments, and sections: what is taken out of its comment below them then stands in the right one
ROWS: Final = "[["


def template(example: str) -> str:
    """`key = value` becomes `# key = value`; rows (`[[…]]`) as well, sections (`[…]`) stay."""
    lines = []
    for line in example.splitlines():
        kept = not line.strip() or (line.startswith(KEPT) and not line.startswith(ROWS))
        lines.append(line if kept else f"# {line}")
    return "\n".join(lines) + "\n"


def main(examples: Path, target: Path) -> None:
    """The relay's files and the client's own; routes, peers and access are the same files for both."""
    target.mkdir(parents=True, exist_ok=True)
    for source in [*sorted((examples / "relay").glob("*.toml")), examples / "client" / "client.toml"]:
        (target / source.name).write_text(template(source.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
