"""The states of a connection as data: (state, input) -> state. A missing key is the error.

The diagram of docs/protocol.md is generated from this table by docs/state_diagram.py. connection.py is its only user.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """Where a connection stands; the first two belong to the initiator, the next two to the responder."""

    HELLO_SENT = "hello sent"
    PROOF_SENT = "proof sent"
    AWAITING_HELLO = "awaiting hello"
    CHALLENGE_SENT = "challenge sent"
    OPEN = "open"
    CLOSED = "closed"


class Input(Enum):
    """What arrives: told by a body's first octet before the channel exists, then by its length: READY is empty."""

    M1 = "M1"
    M2 = "M2"
    M3 = "M3"
    READY = "READY"
    RECORD = "record"
    FAULT = "fault"
    """Anything that did not verify, or has no row here."""


TRANSITIONS: Final[Mapping[tuple[State, Input], State]] = MappingProxyType(
    {
        (State.HELLO_SENT, Input.M2): State.PROOF_SENT,
        (State.PROOF_SENT, Input.READY): State.OPEN,
        (State.AWAITING_HELLO, Input.M1): State.CHALLENGE_SENT,
        (State.CHALLENGE_SENT, Input.M3): State.OPEN,
        (State.OPEN, Input.RECORD): State.OPEN,
        (State.HELLO_SENT, Input.FAULT): State.CLOSED,
        (State.PROOF_SENT, Input.FAULT): State.CLOSED,
        (State.AWAITING_HELLO, Input.FAULT): State.CLOSED,
        (State.CHALLENGE_SENT, Input.FAULT): State.CLOSED,
        (State.OPEN, Input.FAULT): State.CLOSED,
    }
)
