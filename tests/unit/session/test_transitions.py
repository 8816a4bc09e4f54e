"""The table of a session's life is sound: everything is reachable, everything ends."""

from __future__ import annotations

from chainrelay.session.transitions import TRANSITIONS, Input, State


def reachable(start: State) -> set[State]:
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for (state, _), after in TRANSITIONS.items():
            if state is here and after not in seen:
                seen.add(after)
                todo.append(after)
    return seen


def test_every_state_is_reachable_and_leads_to_the_end() -> None:
    assert reachable(State.NEW) == set(State)
    assert all(State.CLOSED in reachable(state) for state in State)


def test_the_end_is_the_end() -> None:
    assert not [key for key in TRANSITIONS if key[0] is State.CLOSED]


def test_close_and_ended_are_possible_wherever_a_session_lives() -> None:
    living = set(State) - {State.NEW, State.CLOSING, State.CLOSED}
    for what in (Input.CLOSE, Input.ENDED):
        assert {state for state, one in TRANSITIONS if one is what} == living


def test_open_is_reached_only_through_the_kernel() -> None:
    assert {key for key, after in TRANSITIONS.items() if after is State.OPEN} == {
        (State.INSTALLING, Input.INSTALLED),
        (State.OPEN, Input.RENEW),
        (State.OPEN, Input.REKEY),
    }


def test_every_input_is_used() -> None:
    assert {what for _, what in TRANSITIONS} == set(Input)
