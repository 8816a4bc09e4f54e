"""The engine's Notes as log lines: `event key=value …`, refusals as a trail of their own, at a bounded rate.

The logger `chainrelay.audit` carries the refusals, `chainrelay.session` the rest; who else wants them (journald fields) attaches
a handler and finds the fields in the record's `fields` attribute.
"""

from __future__ import annotations

import logging

from chainrelay.limits import REFUSALS_LOGGED_PER_SECOND
from chainrelay.session.events import Note

sessions = logging.getLogger("chainrelay.session")
audit = logging.getLogger("chainrelay.audit")


class NoteLog:
    """Writes Notes. Over the rate, refusals are counted and told in one line when there is room again."""

    def __init__(self) -> None:
        self._allowance = REFUSALS_LOGGED_PER_SECOND
        self._last = 0.0
        self._unsaid = 0

    def write(self, note: Note, now: float) -> None:
        """Log one Note; `now` in seconds of any steady clock."""
        logger, level = (audit, logging.WARNING) if note.refusal else (sessions, logging.INFO)
        if not logger.isEnabledFor(level):
            return
        if note.refusal and not self._room(now):
            self._unsaid += 1
            return
        if note.refusal and self._unsaid:
            logger.log(level, "%d more refusals were not logged one by one", self._unsaid)
            self._unsaid = 0
        fields = {key: str(value) for key, value in note.fields}
        text = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        logger.log(level, "%s %s", note.event, text, extra={"fields": fields, "event": note.event})

    def _room(self, now: float) -> bool:
        refill = (now - self._last) * REFUSALS_LOGGED_PER_SECOND
        self._allowance = min(REFUSALS_LOGGED_PER_SECOND, self._allowance + refill)
        self._last = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


def _quoted(value: str) -> str:
    """One token per value; what came from outside can't forge a field or a line."""
    return value if value and value.isprintable() and not set(value) & set(' "=\\') else repr(value)
