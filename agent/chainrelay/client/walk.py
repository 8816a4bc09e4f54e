"""The iterative way at the client (M13): the loop round the relays, behind the face of one link (leg.py: Asker).

    OPEN at relay 1 → ASSIGNED, which names relay 2
    handshake with relay 2 and OPEN there, inside EXTEND through relay 1 → ASSIGNED, and so on until one names nobody
    BIND from the last to the first: only now anything is forwarded

Every relay is asked by the client itself, under the key that the two share. What relay k−1 says of relay k is compared with what
relay k says of itself; on a difference the client gives up and closes what stands. docs/design.md §13.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.client.leg import PATIENCE, Asker
from chainrelay.errors import Code, ProtocolError, Refusal
from chainrelay.limits import ASK_TIMEOUT, MAX_HOPS
from chainrelay.session.policy import Policy
from chainrelay.wire.connection import Connection
from chainrelay.wire.endpoint import Address, Endpoint, Target
from chainrelay.wire.handshake import Initiator
from chainrelay.wire.keys import Context, PairKey, Purpose
from chainrelay.wire.messages import (
    Answer,
    Assigned,
    Bind,
    Bound,
    Close,
    Closed,
    Error,
    Extend,
    Extended,
    HopCounters,
    Open,
    Opened,
    Rekey,
    Renew,
    Renewed,
    Request,
    Status,
    StatusReport,
)
from chainrelay.wire.primitives import Ephemeral
from chainrelay.wire.states import State

BROKEN = frozenset({Code.UNEXPECTED, Code.NEXT_HOP_AUTHENTICATION})
"""What the relays between say when an end-to-end connection has gone: another one is made, once."""

A = TypeVar("A", Assigned, Bound, Renewed, Closed, StatusReport)


@dataclass(frozen=True, slots=True)
class Concluded:
    """What follows from the answers of all relays, as if one had given it."""

    message: Answer


class First:
    """Relay 1, on its own connection."""

    def __init__(self, relay: str, link: Asker) -> None:
        self.id, self._link = relay, link
        self.standing = False

    async def connect(self) -> None:
        """The link does it."""

    async def ask(self, message: Request) -> Answer:
        """Its answer. Raises Refusal."""
        return (await self._link.request(message, PATIENCE)).message


class Further:
    """A relay beyond the first: an end-to-end connection whose octets the relay `before` it passes on."""

    def __init__(
        self,
        me: str,
        relay: str,
        key: PairKey,
        before: First | Further,
        hop: int,
        session: bytes,
        partner: Endpoint,
        numbers: Iterator[int],
    ) -> None:
        self.id = relay
        self.told: Endpoint | None = None
        """P4 as the relay before says it."""
        self.standing = False
        """Whether the loop was completed: from then on a broken connection is a lost link, before it is a lie."""
        self._me, self._key, self._before, self._hop, self._session, self._partner = me, key, before, hop, session, partner
        self._wire: Connection | None = None
        self._numbers, self._connection = numbers, 0
        self._requests = 0

    async def connect(self) -> None:
        """The handshake up to M2; M3 goes with the first request. Raises Refusal."""
        self._connection = next(self._numbers)
        context = Context.iterative(self._hop, self._session, self._before.id)
        wire = Connection(
            Initiator(
                self._me, self.id, self._key, Purpose.END_TO_END, context,
                nonce=os.urandom(32), ephemeral=Ephemeral(X25519PrivateKey.generate()),
            )
        )  # fmt: skip
        await self._exchange(wire)
        if wire.state is not State.PROOF_SENT:
            raise Refusal(Code.NEXT_HOP_AUTHENTICATION, f"{self.id} did not answer the handshake", self.id)
        self._wire = wire

    async def ask(self, message: Request) -> Answer:
        """Its answer. Raises Refusal. An end-to-end connection that broke since the last request is made again."""
        if self._wire is not None:
            try:
                answer = await self._ask(self._wire, message)
            except Refusal as refusal:
                if refusal.code not in BROKEN or not self.standing:
                    raise
                answer = None
            if answer is not None:
                return self._checked(answer)
        await self.connect()
        assert self._wire is not None
        return self._checked(await self._ask(self._wire, message))

    async def _ask(self, wire: Connection, message: Request) -> Answer:
        self._requests += 1
        number, self._wire = self._requests, None  # until the answer is there: a request that is broken off leaves a gap
        wire.send(number, message)
        messages = await self._exchange(wire)
        if [each[0] for each in messages] != [number]:
            raise Refusal(Code.UNEXPECTED, f"{self.id} answered with something other than was asked for", self.id)
        self._wire = wire
        return messages[0][1]

    def _checked(self, answer: Answer) -> Answer:
        if isinstance(answer, Error):
            raise Refusal(answer.code, answer.text, answer.hop or self.id)
        return answer

    async def _exchange(self, wire: Connection) -> list[tuple[int, Answer]]:
        """Octets there and back, through the relay before."""
        extend = Extend(
            self._session, self._hop, self._before.id, self.id, self._connection, self._partner, wire.outgoing()
        )
        extended = await self._before.ask(extend)
        if not isinstance(extended, Extended) or extended.session != self._session:
            raise Refusal(Code.UNEXPECTED, f"{self._before.id} answered EXTEND with something else", self._before.id)
        self.told = extended.client_side or self.told
        try:
            heard = wire.receive(extended.octets)
        except ProtocolError as fault:
            text = f"what {self._before.id} passed on is not {self.id}'s ({fault}): a wrong key, or a relay between that changes it"
            raise Refusal(Code.NEXT_HOP_AUTHENTICATION, text, self.id) from fault
        return [(number, each.message) for number, each in heard if isinstance(each.message, Answer)]


class Walk:
    """One session's loop. One request at a time: records arrive in the order in which they were sent."""

    def __init__(self, me: str, relay: str, link: Asker, policy: Policy, remote: Address, own: Address) -> None:
        self._me, self._relay, self._link, self._policy = me, relay, link, policy
        self._remote, self._own = remote, own
        self._hops: list[First | Further] = []
        """Those that may hold the session."""
        self._connections = itertools.count(1)
        self._lock = asyncio.Lock()

    async def request(self, message: Request, timeout: float = ASK_TIMEOUT) -> Concluded:
        """Ask every relay that it concerns; the answer is the whole chain's. Raises Refusal."""
        try:
            async with asyncio.timeout(timeout), self._lock:
                return Concluded(await self._request(message))
        except TimeoutError as late:
            raise Refusal(Code.NEXT_HOP_TIMEOUT, f"the chain did not answer within {timeout:g} s") from late

    async def _request(self, message: Request) -> Answer:
        if not self._hops and not isinstance(message, Open | Close):
            raise Refusal(Code.UNKNOWN_SESSION, "the session was closed at every relay; open it again")
        match message:
            case Open():
                try:
                    return await self._open(message)
                except BaseException:
                    await asyncio.shield(self._close(message.session))
                    raise
            case Bind():
                return await self._tell(self._hops[-1], message, Bound)
            case Renew():
                leases = [(await self._tell(hop, message, Renewed)).lease for hop in reversed(self._hops)]
                return Renewed(message.session, min(leases))
            case Status():
                reports = [await self._tell(hop, message, StatusReport) for hop in self._hops]
                counters = tuple(one for report in reports for one in report.counters)
                return StatusReport(message.session, min(report.lease for report in reports), counters)
            case Close():
                return Closed(message.session, await self._close(message.session))
            case Extend() | Rekey():
                raise Refusal(Code.UNEXPECTED, "the loop makes its EXTENDs itself")

    async def _open(self, wanted: Open) -> Opened:
        """Round the loop, then confirm from its end. Raises Refusal."""
        answers: list[Assigned] = []
        hop: First | Further = First(self._relay, self._link)
        request = wanted
        while True:
            await hop.connect()
            self._hops.append(hop)
            answer = await self._tell(hop, request, Assigned)
            self._check(hop, request, answer)
            answers.append(answer)
            if not answer.next:
                break
            path = (*request.path, hop.id)
            key = self._further(answer.next, path)
            hop = Further(self._me, answer.next, key, hop, len(path) + 1, wanted.session, answer.server_side, self._connections)
            request = replace(request, partner=answer.server_side, path=path, hops_left=request.hops_left - 1)
        partners = [Target(each.client_side.address, each.client_side.port) for each in answers[1:]]
        confirmed = [*partners, wanted.server] if wanted.server.port else partners
        for hop, partner in reversed(list(zip(self._hops, confirmed, strict=False))):
            await self._tell(hop, Bind(wanted.session, partner), Bound)
        for hop in self._hops:
            hop.standing = True
        lease, mtu = min(each.lease for each in answers), min(each.mtu for each in answers)
        passed = tuple(hop.id for hop in self._hops)
        return Opened(wanted.session, answers[0].client_side, answers[-1].server_side, lease, mtu, complete=True, path=passed)

    def _check(self, hop: First | Further, request: Open, answer: Assigned) -> None:
        """What it says of itself, against what the relay before it says (M13) and what it may say at all (M16). Raises Refusal."""
        if answer.partner != request.partner:
            text = f"{hop.id} was told that its partner is {answer.partner}, we were told {request.partner}: somebody before it lies"
            raise Refusal(Code.ANSWER_DENIED, text)
        if isinstance(hop, Further) and answer.client_side != hop.told:
            text = f"{hop.id} names the entry {answer.client_side}, {request.path[-1]} says that it named {hop.told}: it lies"
            raise Refusal(Code.ANSWER_DENIED, text)
        remote = self._remote if isinstance(hop, First) else None  # of further relays nobody here sees the address
        leave = None if answer.next else answer.server_side
        self._policy.check_ends(hop.id, remote, answer.client_side, leave, request, self._own)

    def _further(self, relay: str, path: tuple[str, ...]) -> PairKey:
        """Our key with the next relay. Raises Refusal."""
        if relay in path:
            raise Refusal(Code.LOOP, f"the route leads back to {relay} (passed: {' > '.join(path)}); its relays' routes want mending")
        if len(path) >= MAX_HOPS:
            raise Refusal(Code.TOO_MANY_HOPS, f"the chain has more than {MAX_HOPS} relays (passed: {' > '.join(path)})")
        key = self._policy.peers.current_key(relay)
        if key is None:
            text = f"no key for {relay} in peers.toml: in the iterative way the client needs one with every relay; add one there"
            raise Refusal(Code.NEXT_HOP_AUTHENTICATION, text)
        return key

    @staticmethod
    async def _tell(hop: First | Further, message: Request, kind: type[A]) -> A:
        answer = await hop.ask(message)
        if not isinstance(answer, kind) or answer.session != message.session:
            raise Refusal(Code.UNEXPECTED, f"{hop.id} answered {type(message).__name__.upper()} with something else", hop.id)
        return answer

    async def _close(self, session: bytes) -> tuple[HopCounters, ...]:
        """From the last to the first, since each is reached through those before it. Who can't be reached is missing."""
        hops, self._hops = self._hops, []
        counters: list[HopCounters] = []
        for hop in reversed(hops):
            with contextlib.suppress(Refusal):
                counters = [*(await self._tell(hop, Close(session), Closed)).counters, *counters]
        return tuple(counters)
