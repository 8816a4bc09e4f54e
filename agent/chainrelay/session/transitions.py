"""The life of a session at one relay, as data: what may happen in which state, and where it leads.

A missing key is the error: the engine answers WRONG_STATE to a partner, and for everything else it is a fault of ours.
docs/state_diagram.py draws the picture of the documentation from this table. Nothing is decided here.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """Where a session stands."""

    NEW = "new"
    LOCATING = "locating"
    """The next relay, or the server, is looked up."""
    ASKING = "asking"
    """The next relay was sent OPEN."""
    RESERVED = "reserved"
    """Ports are assigned (recursive: at every hop), nothing is forwarded; waits for BIND."""
    BINDING = "binding"
    """The next relay was sent BIND."""
    INSTALLING = "installing"
    """The kernel was given the rules."""
    OPEN = "open"
    LINGERING = "lingering"
    """A TCP session whose lease ended: its next segment is answered with a reset."""
    CLOSING = "closing"
    """The rules are being removed; the ports are still ours."""
    CLOSED = "closed"


class Input(Enum):
    """What happens to it."""

    OPEN = "OPEN was admitted"
    NEXT_RELAY_LOCATED = "next relay located"
    SERVER_LOCATED = "server located"
    SERVER_LOCATED_PORT_OPEN = "server located, port open"
    ASSIGNED = "located; the client asks the next relay (iterative)"
    OPENED = "OPENED was accepted"
    OPENED_PORT_OPEN = "OPENED was accepted, port open"
    BIND_PASSED_ON = "BIND passed on"
    BIND_HERE = "BIND at the last relay, or iterative"
    BOUND = "BOUND arrived"
    INSTALLED = "rules installed"
    RENEW = "RENEW"
    REKEY = "REKEY"
    REFUSED = "refused, here or further on"
    CLOSE = "CLOSE"
    ENDED = "ended by this relay"
    LEASE_ENDED_TCP = "lease ended (TCP)"
    LINGERED = "lingered long enough"
    REMOVED = "all is removed"


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.NEW, Input.OPEN): State.LOCATING,
    # setting up
    (State.LOCATING, Input.NEXT_RELAY_LOCATED): State.ASKING,
    (State.LOCATING, Input.SERVER_LOCATED): State.INSTALLING,
    (State.LOCATING, Input.SERVER_LOCATED_PORT_OPEN): State.RESERVED,
    (State.LOCATING, Input.ASSIGNED): State.RESERVED,
    (State.ASKING, Input.OPENED): State.INSTALLING,
    (State.ASKING, Input.OPENED_PORT_OPEN): State.RESERVED,
    (State.INSTALLING, Input.INSTALLED): State.OPEN,
    # reserve, then bind
    (State.RESERVED, Input.BIND_PASSED_ON): State.BINDING,
    (State.RESERVED, Input.BIND_HERE): State.INSTALLING,
    (State.BINDING, Input.BOUND): State.INSTALLING,
    # living
    (State.RESERVED, Input.RENEW): State.RESERVED,
    (State.OPEN, Input.RENEW): State.OPEN,
    (State.RESERVED, Input.REKEY): State.RESERVED,
    (State.OPEN, Input.REKEY): State.OPEN,
    # a step of setting up fails
    (State.LOCATING, Input.REFUSED): State.CLOSING,
    (State.ASKING, Input.REFUSED): State.CLOSING,
    (State.BINDING, Input.REFUSED): State.CLOSING,
    (State.INSTALLING, Input.REFUSED): State.CLOSING,
    # the owner closes
    (State.LOCATING, Input.CLOSE): State.CLOSING,
    (State.ASKING, Input.CLOSE): State.CLOSING,
    (State.RESERVED, Input.CLOSE): State.CLOSING,
    (State.BINDING, Input.CLOSE): State.CLOSING,
    (State.INSTALLING, Input.CLOSE): State.CLOSING,
    (State.OPEN, Input.CLOSE): State.CLOSING,
    (State.LINGERING, Input.CLOSE): State.CLOSING,
    # this relay ends it: lease, idle, age, revoked, unknown further on, teardown
    (State.LOCATING, Input.ENDED): State.CLOSING,
    (State.ASKING, Input.ENDED): State.CLOSING,
    (State.RESERVED, Input.ENDED): State.CLOSING,
    (State.BINDING, Input.ENDED): State.CLOSING,
    (State.INSTALLING, Input.ENDED): State.CLOSING,
    (State.OPEN, Input.ENDED): State.CLOSING,
    (State.LINGERING, Input.ENDED): State.CLOSING,
    (State.OPEN, Input.LEASE_ENDED_TCP): State.LINGERING,
    (State.LINGERING, Input.LINGERED): State.CLOSING,
    (State.CLOSING, Input.REMOVED): State.CLOSED,
}
