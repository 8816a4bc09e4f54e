"""The table of states, and the diagram that docs/protocol.md makes of it."""

from __future__ import annotations

import runpy
from pathlib import Path

from chainrelay.wire.states import TRANSITIONS, Input, State

DOCS = Path(__file__).parents[3] / "docs"


def test_every_state_is_reached_and_left() -> None:
    starts = {State.HELLO_SENT, State.AWAITING_HELLO}
    assert {new for _, new in TRANSITIONS.items()} | starts == set(State)
    assert {old for old, _ in TRANSITIONS} == set(State) - {State.CLOSED}
    assert {given for _, given in TRANSITIONS} == set(Input)


def test_a_fault_closes_from_everywhere() -> None:
    for state in set(State) - {State.CLOSED}:
        assert TRANSITIONS[state, Input.FAULT] is State.CLOSED


def test_records_only_after_the_handshake() -> None:
    assert [state for state, given in TRANSITIONS if given is Input.RECORD] == [State.OPEN]


def test_the_documents_diagram_is_generated() -> None:
    script = runpy.run_path(str(DOCS / "state_diagram.py"))
    document = (DOCS / "protocol.md").read_text()
    assert script["updated"](document) == document, "run docs/state_diagram.py"
