"""Every error of chainrelay: one tree, one table of wire codes.

    ChainrelayError
    ├── ConfigError         a file that a person edits is wrong          (local, says file:key and the mend)
    │   └── ConfigErrors          everything that is wrong, at once
    ├── ProtocolError       the partner sent what the protocol forbids   (remote, the connection is cut)
    │   └── AuthenticationError   a tag, an id or a key did not fit      (remote, cut in silence)
    ├── Refusal             a request that ends here, with a wire Code   (either side, travels as ERROR)
    └── DatapathError       the kernel refused or is not reachable       (local)

`Code` is what travels; its numbers are part of the protocol (docs/protocol.md) and are never given a new meaning.
Nothing else in the project decides which code an exception becomes: `refusal_of` is the one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Code(IntEnum):
    """Wire codes of ERROR. Groups of ten: protocol, policy, session, path, resources, lifetime, datapath, features, service."""

    MALFORMED = 1
    VERSION = 2
    UNKNOWN_MANDATORY = 3
    UNEXPECTED = 4

    USER_NOT_ALLOWED = 10
    ACCESS_DENIED = 11
    FORBIDDEN_TARGET = 12
    NOT_PARTNERS_ADDRESS = 13
    ANSWER_DENIED = 14

    UNKNOWN_SESSION = 20
    SESSION_ID_TAKEN = 21
    ENDPOINT_IN_USE = 22
    WRONG_STATE = 23

    NO_ROUTE = 30
    NAME_NOT_RESOLVED = 31
    NEXT_HOP_UNREACHABLE = 32
    NEXT_HOP_TIMEOUT = 33
    NEXT_HOP_AUTHENTICATION = 34
    LOOP = 35
    TOO_MANY_HOPS = 36
    MIXED_FAMILIES = 37
    LOCAL_TRAFFIC = 38

    PORTS_EXHAUSTED = 40
    SESSION_LIMIT = 41
    RATE_LIMIT = 42

    LEASE_ENDED = 45
    IDLE = 46
    TOO_OLD = 47
    REVOKED = 48

    DATAPATH_FAILED = 50
    DATAPATH_FULL = 51

    WAY_NOT_SUPPORTED = 60
    SEAL_NOT_AVAILABLE = 61
    SEAL_REQUIRED = 62
    SEAL_KEY_MISSING = 63

    DRAINING = 70
    INTERNAL = 79

    @property
    def word(self) -> str:
        """As texts, logs and JSON have it: `next-hop-timeout`."""
        return self.name.lower().replace("_", "-")


class ChainrelayError(Exception):
    """Root of the tree."""


class OutputError(ChainrelayError):
    """Standard output can't be written; the text is empty when nobody reads it any more, which needs no word."""


class ConfigError(ChainrelayError):
    """A configuration file is wrong. `where` is `file:key` (or `file:line`), `mend` says what to write instead."""

    def __init__(self, where: str, why: str, mend: str) -> None:
        super().__init__(f"{where}: {why}; {mend}")
        self.where, self.why, self.mend = where, why, mend


class JournalError(ChainrelayError):
    """The session journal can't be opened now: a full disk, no right to write. Not the configuration's fault: worth another attempt."""


class ConfigErrors(ConfigError):
    """Everything that is wrong with a configuration, so that it can be mended in one go. `errors` is never empty."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__(errors[0].where, errors[0].why, errors[0].mend)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class ProtocolError(ChainrelayError):
    """The partner broke the protocol; the connection is cut. The text is for our log, never for the partner."""

    code: Code = Code.MALFORMED

    def __init__(self, why: str, code: Code = Code.MALFORMED) -> None:
        super().__init__(why)
        self.code = code


class AuthenticationError(ProtocolError):
    """A handshake message did not verify. The partner is told nothing at all (docs/design.md, "Silence")."""


class Refusal(ChainrelayError):
    """A request ended with a code. `hop` is the id of the relay that refused, empty when it was this program itself; `mend` says what
    to do next, where the code alone (client/advice.py) would not tell."""

    def __init__(self, code: Code, text: str, hop: str = "", mend: str = "") -> None:
        at = f"hop {hop}: " if hop else ""
        super().__init__(f"{at}{text} [{code.word}]")
        self.code, self.text, self.hop, self.mend = code, text, hop, mend


class DatapathError(ChainrelayError):
    """The kernel did not take a rule. `full` tells a full table from any other reason."""

    def __init__(self, why: str, *, full: bool = False) -> None:
        super().__init__(why)
        self.full = full


def refusal_of(error: ChainrelayError, hop: str = "") -> Refusal:
    """The one ladder from exceptions to wire codes. What a stranger may not learn does not get into the text."""
    match error:
        case Refusal():
            return error if error.hop else Refusal(error.code, error.text, hop)
        case DatapathError():
            return Refusal(Code.DATAPATH_FULL if error.full else Code.DATAPATH_FAILED, str(error), hop)
        case ProtocolError():
            return Refusal(error.code, str(error), hop)
        case _:
            return Refusal(Code.INTERNAL, "internal error, see the relay's log", hop)
