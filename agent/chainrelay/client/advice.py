"""What to do next about every refusal, and the exit code that stands for it. One table, used by all verbs of the command line.

What and why are in the refusal's own text, where in its `hop`; here is only what a user can do.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from chainrelay.errors import ChainrelayError, Code, ConfigError, Refusal


class Exit(IntEnum):
    """Exit codes of `chainrelay`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    """The command line or a configuration file is wrong."""
    UNREACHABLE = 3
    """A relay, the server or a way to it was not found or did not answer."""
    REFUSED = 4
    """A policy said no: authentication, access, targets, limits."""


_OURS: Final = "This looks like a fault of chainrelay or of different versions: compare `chainrelay --version` here and there."
_ADMINISTRATOR: Final = "Ask that hop's administrator; its log has the whole reason under this session's id."
_LATER: Final = "Try again later; if it stays so, that hop's administrator has to make room."

ADVICE: Final[dict[Code, tuple[Exit, str]]] = {
    Code.MALFORMED: (Exit.FAILED, _OURS),
    Code.VERSION: (Exit.FAILED, "Bring client and relays to versions that speak with each other (docs/protocol.md, versions)."),
    Code.UNKNOWN_MANDATORY: (Exit.FAILED, "That hop is older than this client: update it, or don't ask for the new feature."),
    Code.UNEXPECTED: (Exit.FAILED, "Check the address and port, and what the server offers."),
    Code.USER_NOT_ALLOWED: (Exit.REFUSED, "Check `user` in client.toml; the relay's peers.toml says for which users your id may speak."),
    Code.ACCESS_DENIED: (Exit.REFUSED, "Ask for a row in that hop's access.toml (user, source address and port, destination)."),
    Code.FORBIDDEN_TARGET: (Exit.REFUSED, "This destination is never relayed unless that hop's agent.toml names it under [targets]."),
    Code.NOT_PARTNERS_ADDRESS: (
        Exit.REFUSED,
        ("P1 must lie at the address from which this host reaches relay 1. Behind a NAT, or with --local elsewhere, the relay's "
        "peers.toml must list that address."),
    ),
    Code.ANSWER_DENIED: (
        Exit.REFUSED,
        ("Somebody named an endpoint, or a last relay, that it may not name. If it is right, permit it: [[answer]] in access.toml or "
        "`last` in routes.toml for a relay, --peers PREFIX for a server."),
    ),
    Code.UNKNOWN_SESSION: (Exit.FAILED, "Open a new session."),
    Code.SESSION_ID_TAKEN: (Exit.FAILED, "Open again: a new session gets a new id."),
    Code.ENDPOINT_IN_USE: (Exit.FAILED, "Choose another port with --local, or let the kernel choose by leaving it out."),
    Code.WRONG_STATE: (Exit.FAILED, "Open a new session."),
    Code.NO_ROUTE: (Exit.UNREACHABLE, "Add a row for the destination to routes.toml of that hop (of this host when no hop is named)."),
    Code.NAME_NOT_RESOLVED: (Exit.UNREACHABLE, "Check the name. The last relay resolves it (this host when no relay is needed)."),
    Code.NEXT_HOP_UNREACHABLE: (Exit.UNREACHABLE, "Check that the agent or server runs there and that nothing in between blocks its port."),
    Code.NEXT_HOP_TIMEOUT: (Exit.UNREACHABLE, "Check that nothing in between drops packets, and whether the host is up."),
    Code.NEXT_HOP_AUTHENTICATION: (Exit.REFUSED, "Compare ids and keys in peers.toml of both sides; the key files must be the same."),
    Code.LOOP: (Exit.FAILED, "The relays' routes.toml lead in a circle for this destination: their administrators must mend them."),
    Code.TOO_MANY_HOPS: (Exit.FAILED, "The chain for this destination is too long, or a circle: check the relays' routes.toml."),
    Code.MIXED_FAMILIES: (Exit.FAILED, "A session is IPv4 or IPv6 from end to end: use a server address and relays of one family."),
    Code.LOCAL_TRAFFIC: (Exit.REFUSED, "A relay's own addresses are no destination: reach services of that host in another way."),
    Code.PORTS_EXHAUSTED: (Exit.FAILED, _LATER),
    Code.SESSION_LIMIT: (Exit.REFUSED, "Close sessions that you don't need, or ask that hop's administrator for a higher limit."),
    Code.RATE_LIMIT: (Exit.REFUSED, "Open sessions more slowly, or ask that hop's administrator for a higher limit."),
    Code.LEASE_ENDED: (Exit.FAILED, "The chain was not reachable for longer than the lease. Open a new session."),
    Code.IDLE: (Exit.FAILED, "Nothing was sent for longer than that hop allows. Open a new session when there is traffic."),
    Code.TOO_OLD: (Exit.FAILED, "The session reached the age that that hop allows. Open a new one."),
    Code.REVOKED: (Exit.REFUSED, "The key or the right to this session was withdrawn. " + _ADMINISTRATOR),
    Code.DATAPATH_FAILED: (Exit.FAILED, "That hop's kernel did not take the rules. " + _ADMINISTRATOR),
    Code.DATAPATH_FULL: (Exit.FAILED, _LATER),
    Code.WAY_NOT_SUPPORTED: (Exit.FAILED, 'Write way = "recursive" for this route in routes.toml.'),
    Code.SEAL_NOT_AVAILABLE: (
        Exit.FAILED,
        ("Mend what is missing, or open the session without a seal (--no-seal). At the last relay it takes XDP on both sides: ask its "
        "administrator."),
    ),
    Code.SEAL_REQUIRED: (Exit.REFUSED, "That hop lets you through sealed only: --seal, or seal = true with `last` in routes.toml."),
    Code.SEAL_KEY_MISSING: (Exit.FAILED, "The last relay has lost this session's keys. Open a new session."),
    Code.DRAINING: (Exit.FAILED, "That hop is about to go down for maintenance. " + _LATER),
    Code.INTERNAL: (Exit.FAILED, _ADMINISTRATOR),
}  # fmt: skip


def exit_code(error: ChainrelayError) -> Exit:
    """Which exit code stands for an error."""
    match error:
        case Refusal():
            return ADVICE[error.code][0]
        case ConfigError():
            return Exit.USAGE
        case _:
            return Exit.FAILED


def explain(error: ChainrelayError) -> str:
    """What, at which hop and why, then what to do next, in two lines."""
    if isinstance(error, Refusal):
        return f"{error}\n  {error.mend or ADVICE[error.code][1]}"
    return str(error)
