"""Writes the state diagram of docs/protocol.md from the table in wire/states.py. `PYTHONPATH=agent python docs/state_diagram.py`.

The text between the two marks belongs to this script; a test compares it with what the table gives.
"""

from __future__ import annotations

from pathlib import Path

from chainrelay.wire.states import TRANSITIONS, State

DOCUMENT = Path(__file__).parent / "protocol.md"
BEGIN, END = "<!-- state diagram: begin -->\n", "<!-- state diagram: end -->\n"
STARTS = (State.HELLO_SENT, State.AWAITING_HELLO)


def name(state: State) -> str:
    """A state as Mermaid takes it."""
    return state.value.replace(" ", "_")


def diagram() -> str:
    """The table as a Mermaid state diagram, rows in the table's order."""
    rows = [f"    [*] --> {name(state)}" for state in STARTS]
    rows += [f"    {name(old)} --> {name(new)} : {given.value}" for (old, given), new in TRANSITIONS.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *rows, f"    {name(State.CLOSED)} --> [*]", "```", ""])


def updated(document: str) -> str:
    """`document` with the diagram between the marks. ValueError if they are missing."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + diagram() + END + after


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text()))
