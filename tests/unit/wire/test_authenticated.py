"""`Authenticated` is made in one place."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "agent" / "chainrelay"


def test_channel_is_the_only_maker() -> None:
    makers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for called in [node.func.value if isinstance(node.func, ast.Subscript) else node.func]
        if (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) == "Authenticated"
    }
    assert makers == {"wire/channel.py"}
