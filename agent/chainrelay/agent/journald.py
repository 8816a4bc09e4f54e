"""Log records for the journal with fields of their own: SESSION_ID, PRINCIPAL, HOP, MESSAGE_ID with a catalog entry.

    journalctl MESSAGE_ID=… SESSION_ID=…       journalctl -t chainrelay-agent CHAINRELAY_CODE=access-denied

Through systemd-python, imported only when standard error is the journal's ($JOURNAL_STREAM); otherwise plain lines on standard error.
The engine's own words for events are the keys of MESSAGE_IDS; systemd/chainrelay.catalog explains each of them to the administrator.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

MESSAGE_IDS: Final = {
    "opened": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a01",
    "reserved": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a02",
    "bound": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a03",
    "ended": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a04",
    "closed": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a05",
    "refused": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a06",
    "adopted": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a07",
    "rules-lost": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a08",
    "rekeyed": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a0b",
    "journal-set-aside": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a09",
    "journal-full": "4d6b3c7a5f0e4c1f9a7d2b8e6c1f0a0a",
}
_WELL_KNOWN: Final = {"session": "SESSION_ID", "principal": "PRINCIPAL", "hop": "HOP"}
_PRIORITY: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_PLAIN: Final = "%(levelname)s %(name)s: %(message)s"


def set_up_logging(level: str) -> None:
    """To the journal with fields if standard error is the journal's and systemd-python is there, else plain lines."""
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter(_PLAIN))
    logging.basicConfig(level=level.upper(), handlers=[_journal_handler() or plain])


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """The journal's fields of one record, MESSAGE aside."""
    fields = {
        "PRIORITY": str(next((number for level, number in _PRIORITY if record.levelno >= level), 7)),
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_FUNC": record.funcName or "",
    }
    own: dict[str, str] = getattr(record, "fields", {})
    fields |= {_WELL_KNOWN.get(key, f"CHAINRELAY_{key.upper()}"): value for key, value in own.items()}
    if (known := MESSAGE_IDS.get(getattr(record, "event", ""))) is not None:
        fields["MESSAGE_ID"] = known
    return fields


class JournalHandler(logging.Handler):
    """Hands records to `send`, systemd.journal's function."""

    def __init__(self, send: Any) -> None:  # noqa: ANN401 - systemd-python has no types
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # level and logger are fields
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        try:
            self._send(self.format(record), SYSLOG_IDENTIFIER=_identifier(), CODE_LINE=record.lineno, **fields_of(record))
        except OSError:
            self.handleError(record)


def _journal_handler() -> logging.Handler | None:
    if not _is_journal():
        return None
    try:
        from systemd import journal
    except ImportError:
        return None
    return JournalHandler(journal.send)


def _is_journal() -> bool:
    """$JOURNAL_STREAM is the device and inode of what systemd connected standard error to (systemd.exec(5))."""
    try:
        here = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{here.st_dev}:{here.st_ino}"


def _identifier() -> str:
    return "chainrelay-datapath" if sys.argv[0].removesuffix(".py").endswith("datapath") else "chainrelay-agent"
