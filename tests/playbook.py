"""Scripts for the engine: `play(engine).opens(...).locates(...).located(...).asks(...)` with a clock that stands still unless told.

Every effect must be named by the script: `done()` fails when one is left over. The values of a usual relay stand here as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, TypeVar

from chainrelay.datapath.mapping import Counters, Done, Failed, Operation, Outcome
from chainrelay.errors import Code, Refusal
from chainrelay.session.engine import Engine
from chainrelay.session.events import (
    Answered,
    Applied,
    Apply,
    Ask,
    AskFailed,
    Candidate,
    Effect,
    Event,
    Forget,
    Link,
    Locate,
    Located,
    NextHop,
    Note,
    Remember,
    Reply,
    Requested,
    Tick,
)
from chainrelay.session.policy import Policy
from chainrelay.session.prefixes import parse_prefix
from chainrelay.session.record import Record
from chainrelay.session.tables import DIRECT, AccessTable, Allow, Direct, Kind, PeerRow, PeerTable, Route, RouteTable
from chainrelay.wire.authenticated import Authenticated
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.keys import PairKey
from chainrelay.wire.messages import Answer, Bind, Close, Error, Open, Opened, Protocol, Rekey, Renew, Request, Status, Way
from chainrelay.wire.sealed import SealKeys

E = TypeVar("E", Reply, Ask, Locate, Apply, Note)

P1 = Endpoint.parse("10.0.0.5:5000")
P6 = Target.parse("10.9.0.9:6000")
FW2 = NextHop("fw2", Endpoint.parse("10.0.2.2:9798"))
SID = bytes(range(16))
ALICE = Link(1, "alice", P1.address, ip_address("10.0.0.1"))
FW1_SEEN = Link(7, "fw1", ip_address("10.0.2.1"), ip_address("10.0.2.2"))


def key(letter: str) -> PairKey:
    """A key for tests."""
    return PairKey(f"k{letter}", letter.encode() * 32)


def routes(*rows: tuple[str, NextHop | Direct]) -> RouteTable:
    """`routes(("10.9.0.0/16", FW2), (".example.org", DIRECT))`."""
    return RouteTable(tuple(Route(parse_prefix(to) if to[0].isdigit() else to, via) for to, via in rows))


PEERS = PeerTable(
    (
        PeerRow("alice", Kind.CLIENT, (key("a"),), frozenset({"alice"})),
        PeerRow("mallory", Kind.CLIENT, (key("m"),), frozenset({"mallory"})),
        PeerRow("fw1", Kind.RELAY, (key("1"),), frozenset({"*"})),
        PeerRow("fw2", Kind.RELAY, (key("2"),), frozenset({"*"})),
    )
)
ANYBODY = AccessTable((Allow("*"),))
FIRST = Policy(routes(("10.9.0.0/16", FW2), (".example.org", FW2)), PEERS, ANYBODY)
LAST = Policy(routes(("*", DIRECT)), PEERS, ANYBODY)


def an_open(**changes: Any) -> Open:
    """Alice's OPEN toward P6, as a first relay sees it."""
    usual = Open(SID, Protocol.UDP, Way.RECURSIVE, False, 1, P1, P6, "alice", P1, 0, (), 8)
    return replace(usual, **changes)


def from_fw1(**changes: Any) -> Open:
    """The same as relay 2 sees it."""
    return an_open(**{"partner": Endpoint.parse("10.0.2.1:20000"), "path": ("fw1",), "hops_left": 7} | changes)


def an_opened(**changes: Any) -> Opened:
    """Relay 2's answer."""
    usual = Opened(SID, Endpoint.parse("10.0.2.2:20100"), Endpoint.parse("10.3.0.2:20102"), 120, 1400, complete=True, path=("fw1", "fw2"))
    return replace(usual, **changes)


def first(**changes: Any) -> Engine:
    """Relay 1 of 2."""
    return Engine("fw1", replace(FIRST, **changes))


def last(me: str = "fw2", *, seals: bool = False, **changes: Any) -> Engine:
    """The last relay."""
    return Engine(me, replace(LAST, **changes), seals=seals)


def data_keys(epoch: int = 0, letter: bytes = b"k") -> SealKeys:
    """Those of one end-to-end connection."""
    return SealKeys(bytes((0xD0 | epoch, *letter, 7, 8)), letter * 32, letter * 12, letter * 32, letter * 12)


class Play:
    """One engine on the stage."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.now = engine, 1000.0
        self.effects: list[Effect] = []
        self.notes: list[Note] = []
        self.journal: dict[bytes, Record] = {}
        """What a journal would hold."""
        self.tokens: dict[type, list[int]] = {Ask: [], Locate: [], Apply: []}
        self._requests = 0

    # events ----------------------------------------------------------------

    def feed(self, event: Event) -> Play:
        """Any event."""
        return self.takes(self.engine.handle(event, self.now))

    def takes(self, effects: list[Effect]) -> Play:
        """Effects that came from elsewhere (reconfigure, teardown)."""
        self.notes += [effect for effect in effects if isinstance(effect, Note)]
        for effect in effects:
            if isinstance(effect, Remember):
                self.journal[effect.session] = effect.record
            elif isinstance(effect, Forget):
                del self.journal[effect.session]
        self.effects += [effect for effect in effects if not isinstance(effect, Note | Remember | Forget)]
        return self

    def requests(self, message: Request, link: Link = ALICE, seal: SealKeys | None = None) -> Play:
        """A partner's request, with the next number."""
        self._requests += 1
        return self.feed(Requested(link, self._requests, Authenticated(link.principal, message), seal))

    def rekeys(self, link: Link, keys: SealKeys | None = None, session: bytes = SID) -> Play:
        keys = keys or data_keys()
        return self.requests(Rekey(session, keys.key_id), link, keys)

    def opens(self, link: Link = ALICE, **changes: Any) -> Play:
        return self.requests(an_open(**changes), link)

    def fw1_opens(self, **changes: Any) -> Play:
        return self.requests(from_fw1(**changes), FW1_SEEN)

    def binds(self, server: str, link: Link = ALICE) -> Play:
        return self.requests(Bind(SID, Target.parse(server)), link)

    def renews(self, lease: int = 0, link: Link = ALICE) -> Play:
        return self.requests(Renew(SID, lease), link)

    def closes(self, link: Link = ALICE, session: bytes = SID) -> Play:
        return self.requests(Close(session), link)

    def asks_status(self, link: Link = ALICE) -> Play:
        return self.requests(Status(SID), link)

    def located(self, *addresses: str, source: str = "10.0.2.1", mtu: int = 1500, token: int | None = None) -> Play:
        found = tuple(Candidate(ip_address(one), ip_address(source), mtu) for one in addresses)
        return self.feed(Located(self._token(Locate, token), found))

    def not_located(self, code: Code = Code.NAME_NOT_RESOLVED) -> Play:
        return self.feed(Located(self._token(Locate), (), Refusal(code, "not found")))

    def answered(self, message: Answer, remote: str = "10.0.2.2", principal: str = "fw2", token: int | None = None) -> Play:
        return self.feed(Answered(self._token(Ask, token), ip_address(remote), Authenticated(principal, message)))

    def refused_further(self, code: Code, hop: str = "fw2", token: int | None = None) -> Play:
        return self.answered(Error(code, hop, "no"), token=token)

    def ask_failed(self, code: Code = Code.NEXT_HOP_TIMEOUT, token: int | None = None) -> Play:
        return self.feed(AskFailed(self._token(Ask, token), Refusal(code, "no answer")))

    def applied(self, counters: Counters | None = None, token: int | None = None) -> Play:
        return self._outcome(Done(counters or Counters()), token)

    def apply_failed(self, full: bool = False, *, keyless: bool = False) -> Play:
        return self._outcome(Failed("the kernel says no", full, keyless), None)

    def _outcome(self, outcome: Outcome, token: int | None) -> Play:
        return self.feed(Applied(self._token(Apply, token), outcome))

    def passes(self, seconds: float) -> Play:
        """Time passes; the engine is ticked as it asked to be."""
        end = self.now + seconds
        while (due := self.engine.next_deadline()) is not None and due <= end:
            self.now = max(due, self.now)
            self.feed(Tick())
        self.now = end
        return self

    # effects ---------------------------------------------------------------

    def take(self, kind: type[E]) -> E:
        """The next effect, which must be of that kind."""
        assert self.effects, f"wanted {kind.__name__}, nothing is left"
        effect = self.effects.pop(0)
        assert isinstance(effect, kind), f"wanted {kind.__name__}, got {effect}"
        if not isinstance(effect, Reply | Note):
            self.tokens[kind].append(effect.token)
        return effect

    def locates(self, host: str) -> Play:
        assert str(self.take(Locate).host) == host
        return self

    def asks(self, kind: type, check: Callable[[Any], object] = lambda _: True, hop: NextHop = FW2) -> Play:
        ask = self.take(Ask)
        assert ask.hop == hop
        assert isinstance(ask.message, kind), ask
        assert check(ask.message), ask
        return self

    def applies(self, kind: type[Operation], check: Callable[[Any], object] = lambda _: True) -> Play:
        operation = self.take(Apply).operation
        assert isinstance(operation, kind), operation
        assert check(operation), operation
        return self

    def replies(self, kind: type, check: Callable[[Any], object] = lambda _: True, request: int | None = None) -> Play:
        reply = self.take(Reply)
        assert isinstance(reply.message, kind), reply
        assert check(reply.message), reply
        assert request is None or reply.request == request, reply
        return self

    def refuses(self, code: Code, hop: str | None = None, text: str = "") -> Play:
        """ERROR goes back to whoever asked, and the audit trail has a line (unless it was the owner who closed)."""
        message = self.take(Reply).message
        assert isinstance(message, Error), message
        assert message.code is code, message
        assert hop is None or message.hop == hop, message
        assert text in message.text, message
        return self

    def done(self) -> Play:
        """Nothing else happened."""
        assert not self.effects, self.effects
        return self

    def holds(self, ports: int, sessions: int | None = None) -> Play:
        """So many ports are in use, by so many sessions."""
        assert self.engine.ports_in_use == ports
        assert sessions is None or len(self.engine.sessions()) == sessions
        return self

    def noted(self, event: str, **fields: str) -> Play:
        """The log has a line of that event with these fields."""
        found = [{key: str(value) for key, value in note.fields} for note in self.notes if note.event == event]
        assert any(fields.items() <= one.items() for one in found), found
        return self

    def _token(self, kind: type, token: int | None = None) -> int:
        return self.tokens[kind].pop(0) if token is None else token


def play(engine: Engine) -> Play:
    """A script begins."""
    return Play(engine)
