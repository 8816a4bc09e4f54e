"""Reading what the next relay answered: the message that was hoped for, or a Refusal that says why not, and at which hop."""

from __future__ import annotations

from typing import TypeVar

from chainrelay.errors import Code, Refusal
from chainrelay.session.events import Answered, AskFailed, NextHop
from chainrelay.wire.authenticated import Claimed
from chainrelay.wire.messages import Bound, Closed, Error, Extended, Opened, Renewed, StatusReport

T = TypeVar("T", Opened, Bound, Renewed, Closed, StatusReport, Extended)

GONE = frozenset((Code.UNKNOWN_SESSION, Code.LEASE_ENDED, Code.IDLE, Code.TOO_OLD, Code.REVOKED))
"""What a relay says of a session that it does not hold any more."""


def read_answer(event: Answered | AskFailed, hop: NextHop, wanted: type[T], session: bytes) -> T | Refusal:
    """The answer, if it is one to this question and comes from whom was asked (M6)."""
    if isinstance(event, AskFailed):
        return event.why
    message = event.message.message
    if isinstance(event.message, Claimed):
        if wanted is not Extended:
            return Refusal(Code.NEXT_HOP_AUTHENTICATION, f"{hop.peer} has not authenticated; its answer does not count")
    elif event.message.principal != hop.peer:
        return Refusal(Code.NEXT_HOP_AUTHENTICATION, f"{hop.peer} was asked, {event.message.principal} answered")
    if isinstance(message, Error):
        return Refusal(message.code, message.text, message.hop or hop.peer)
    if not isinstance(message, wanted) or message.session != session:
        return Refusal(Code.UNEXPECTED, f"{hop.peer} answered with something other than was asked for", hop.peer)
    return message
