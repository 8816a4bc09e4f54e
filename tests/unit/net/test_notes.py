"""The audit trail: one line per Note, nothing forged by its values, bounded in rate."""

from __future__ import annotations

import logging

import pytest

from chainrelay.limits import REFUSALS_LOGGED_PER_SECOND
from chainrelay.net.notes import NoteLog
from chainrelay.session.events import Note


def test_a_value_from_outside_can_not_forge_a_field(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        NoteLog().write(Note("opened", (("user", "a b=c\nrefused user=root"), ("hop", "fw1"))), 0)
    (record,) = caplog.records
    assert record.message == "opened user='a b=c\\nrefused user=root' hop=fw1"
    assert record.name == "chainrelay.session"


def test_refusals_have_a_trail_of_their_own_and_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    notes = NoteLog()
    refusal = Note("refused", (("user", "alice"),), refusal=True)
    with caplog.at_level(logging.INFO):
        for _ in range(100):
            notes.write(refusal, 1000.0)
        said = len(caplog.records)
        notes.write(refusal, 1001.0)
    assert said == REFUSALS_LOGGED_PER_SECOND
    assert {record.name for record in caplog.records} == {"chainrelay.audit"}
    assert caplog.records[said].message == f"{100 - said} more refusals were not logged one by one"
