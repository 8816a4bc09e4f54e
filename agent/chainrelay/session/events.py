"""What goes into the engine and what comes out of it. Values only; the engine (engine.py) is the only one to interpret them.

Events are facts that have happened, effects are orders to the shell in net/. A token ties an answer to the order it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chainrelay.datapath.mapping import Operation, Outcome
from chainrelay.errors import Refusal
from chainrelay.wire.authenticated import Authenticated, Claimed
from chainrelay.wire.endpoint import Address, Endpoint
from chainrelay.wire.messages import Answer, Request, Way
from chainrelay.wire.sealed import SealKeys

if TYPE_CHECKING:
    from chainrelay.session.record import Record


@dataclass(frozen=True, slots=True)
class Through:
    """The outer part of an end-to-end connection (docs/design.md §13): what the relay before us says, and who that is."""

    previous: str
    """Empty at hop 1: the client's own connection carries it."""
    keyed: bool
    """Whether it authenticated on its connection. Otherwise `previous` is a claim."""
    hop: int
    """Our place in the row."""
    partner: Endpoint
    """P3, or P1 at hop 1."""
    way: Way = Way.ITERATIVE

    @property
    def for_key(self) -> bool:
        """Whether it was made for a sealed session's key alone: the session is asked for in another way (docs/design.md §15)."""
        return self.way is Way.RECURSIVE or self.hop == 1


@dataclass(frozen=True, slots=True)
class Link:
    """An authenticated connection on which requests arrive: one of its own, or an end-to-end one `through` the relay before us."""

    number: int
    principal: str
    remote: Address
    """The partner's address as this host sees it; P1 (P3) must lie there unless peers.toml lists others."""
    local: Address
    """The address at which the partner reached us: the client-side address of its sessions unless pinned."""
    through: Through | None = None
    """With it `remote` is the address of the relay before us, and `principal` the client."""


@dataclass(frozen=True, slots=True)
class NextHop:
    """A row of the relay route table that leads on (M19): the relay's id and where its agent listens."""

    peer: str
    at: Endpoint


# events ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requested:
    """A partner asks. `request` is its number on that link."""

    link: Link
    request: int
    message: Authenticated[Request]
    seal: SealKeys | None = field(default=None, repr=False)
    """With REKEY: the data keys of the end-to-end connection on which it came."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The next relay answered what `Ask(token)` asked; `remote` is its address as the connection shows it (M16).

    `Claimed` is what came over a bare connection: EXTENDED, or ERROR.
    """

    token: int
    remote: Address
    message: Authenticated[Answer] | Claimed[Answer]


@dataclass(frozen=True, slots=True)
class AskFailed:
    """No answer will come: unreachable, too slow, not authenticated."""

    token: int
    why: Refusal


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address of the host that was looked up, with our source address toward it and the path MTU (bytes, IP header included)."""

    address: Address
    source: Address
    mtu: int


@dataclass(frozen=True, slots=True)
class Located:
    """Answer to Locate: candidates in order of preference. `why` says why there is none."""

    token: int
    candidates: tuple[Candidate, ...]
    why: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """Answer to Apply."""

    token: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; `Engine.next_deadline` told when this would be useful."""


@dataclass(frozen=True, slots=True)
class RulesLost:
    """Somebody has removed our rules from the kernel, sessions and all."""


Event = Requested | Answered | AskFailed | Located | Applied | Tick | RulesLost


# effects ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a partner's request. If its link has gone meanwhile the shell drops it: OPEN is idempotent."""

    link: int
    request: int
    message: Answer


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the next relay."""

    token: int
    hop: NextHop
    message: Request
    place: int | None = None
    """Ours in the row, where the message does not tell: it decides how long the answer may take."""


@dataclass(frozen=True, slots=True)
class Locate:
    """Resolve a host (name or address), and find our source address and the path MTU toward it."""

    token: int
    host: Address | str


@dataclass(frozen=True, slots=True)
class Apply:
    """Tell the datapath."""

    token: int
    operation: Operation


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log: an event name from a closed list and fields. Refusals are an audit trail of their own.

    Whoever writes it turns the values into text: most lines are never written.
    """

    event: str
    fields: tuple[tuple[str, object], ...]
    refusal: bool = False


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep a record of a session, in place of its earlier one. `first`: before the next Apply or Reply is carried out."""

    record: Record
    first: bool

    @property
    def session(self) -> bytes:
        """Whose record it is."""
        return self.record.request.session


@dataclass(frozen=True, slots=True)
class Forget:
    """The session is gone, and its record may go."""

    session: bytes


Effect = Reply | Ask | Locate | Apply | Note | Remember | Forget
