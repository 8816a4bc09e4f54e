"""Records as the journal gets them, and that every message id has its entry in the catalog."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from chainrelay.agent.journald import MESSAGE_IDS, JournalHandler, fields_of, set_up_logging
from chainrelay.net.notes import NoteLog
from chainrelay.session.events import Note

CATALOG = Path(__file__).parents[3] / "systemd" / "chainrelay.catalog"


def test_a_refusal_arrives_with_its_fields() -> None:
    sent: list[tuple[str, dict[str, str]]] = []

    def send(message: str, **fields: str) -> None:
        sent.append((message, fields))

    handler = JournalHandler(send)
    audit = logging.getLogger("chainrelay.audit")
    audit.addHandler(handler)
    try:
        note = Note("refused", (("session", "00ff"), ("principal", "alice"), ("hop", "fw1"), ("code", "loop"), ("why", "x")), refusal=True)
        NoteLog().write(note, 1.0)
    finally:
        audit.removeHandler(handler)
    message, fields = sent[0]
    assert message.startswith("refused session=00ff")
    assert fields["MESSAGE_ID"] == MESSAGE_IDS["refused"]
    assert (fields["SESSION_ID"], fields["PRINCIPAL"], fields["HOP"]) == ("00ff", "alice", "fw1")
    assert (fields["CHAINRELAY_CODE"], fields["PRIORITY"], fields["LOGGER"]) == ("loop", "4", "chainrelay.audit")


@pytest.mark.parametrize(("level", "priority"), [(logging.ERROR, "3"), (logging.INFO, "6"), (logging.DEBUG, "7")])
def test_a_plain_record_has_no_message_id(level: int, priority: str) -> None:
    record = logging.LogRecord("chainrelay.agent", level, "/x/main.py", 7, "text", (), None, "serve")
    where = {"CODE_FILE": "/x/main.py", "CODE_FUNC": "serve"}
    assert fields_of(record) == {"PRIORITY": priority, "LOGGER": "chainrelay.agent", **where}


def test_systemds_own_function_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = pytest.importorskip("systemd.journal")
    sent: list[str] = []
    monkeypatch.setattr(journal, "sendv", lambda *fields: sent.extend(fields))
    JournalHandler(journal.send).emit(logging.LogRecord("chainrelay.agent", logging.INFO, "/x/main.py", 7, "text", (), None, "serve"))
    assert {"MESSAGE=text", "CODE_FILE=/x/main.py", "CODE_LINE=7", "CODE_FUNC=serve", "LOGGER=chainrelay.agent"} <= set(sent)


def test_the_catalog_has_every_event_once() -> None:
    listed = re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(MESSAGE_IDS.values())
    assert len(set(listed)) == len(listed)


def test_the_message_is_the_message_alone() -> None:
    chosen = JournalHandler(lambda *_: None)
    assert chosen.formatter is not None, "basicConfig would choose one with level and logger, which are fields here"
    assert chosen.format(logging.LogRecord("chainrelay.agent", logging.INFO, "", 0, "text", (), None)) == "text"


def test_without_the_journal_lines_go_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(logging, "basicConfig", lambda **options: chosen.append(options))
    set_up_logging("info")
    assert [type(each) for each in chosen[0]["handlers"]] == [logging.StreamHandler]
