"""The iterative way at the client (M13): the loop round the relays, behind the face of one link (leg.py: Asker).

    OPEN at relay 1 → ASSIGNED, which names relay 2
    handshake with relay 2 and OPEN there, inside EXTEND through relay 1 → ASSIGNED, and so on until one names nobody
    sealed: REKEY at the last
    BIND from the last to the first: only now anything is forwarded

Every relay is asked by the client itself, under the key that the two share. What relay k−1 says of relay k is compared with what
relay k says of itself; on a difference the client gives up and closes what stands. docs/design.md §13.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from dataclasses import replace

from chainrelay.client.end_to_end import Concluded, EndToEnd, First, tell
from chainrelay.client.leg import PATIENCE, Asker
from chainrelay.client.sealing import Expected, Sealing, check_last, key_with
from chainrelay.errors import Code, Refusal
from chainrelay.limits import ASK_TIMEOUT, MAX_HOPS
from chainrelay.session.policy import Policy
from chainrelay.wire.endpoint import Address, Target
from chainrelay.wire.keys import Context, PairKey
from chainrelay.wire.messages import (
    Answer,
    Assigned,
    Bind,
    Bound,
    Close,
    Closed,
    Extend,
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


class Walk:
    """One session's loop. One request at a time: records arrive in the order in which they were sent.

    `last`: the relay that must be the last one, empty: whoever is. `sealing`: the keys of a sealed session.
    """

    def __init__(
        self,
        me: str,
        relay: str,
        link: Asker,
        policy: Policy,
        remote: Address,
        own: Address,
        *,
        last: str = "",
        sealing: Sealing | None = None,
    ) -> None:
        self._me, self._relay, self._link, self._policy = me, relay, link, policy
        self._remote, self._own, self._last, self._sealing = remote, own, last, sealing
        self._key_source: tuple[EndToEnd, Expected] | None = None
        """Of a sealed session: with whom keys are made, and what it must say of itself."""
        self._hops: list[First | EndToEnd] = []
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

    def due_in(self) -> float:
        """See Sealing; never when nothing is sealed."""
        return self._sealing.due_in() if self._sealing is not None else math.inf

    async def rekey(self) -> None:
        """Another key, made on a new connection with the last relay. Raises Refusal."""
        try:
            async with asyncio.timeout(PATIENCE), self._lock:
                if self._sealing is None or self._key_source is None:
                    raise Refusal(Code.UNKNOWN_SESSION, "the session was closed at every relay; open it again")
                connection, expected = self._key_source
                await connection.connect()
                await self._sealing.rekey(connection, expected)
        except TimeoutError as late:
            raise Refusal(Code.NEXT_HOP_TIMEOUT, f"the last relay gave no key within {PATIENCE:g} s") from late

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
                return await tell(self._hops[-1], message, Bound)
            case Renew():
                leases = [(await tell(hop, message, Renewed)).lease for hop in reversed(self._hops)]
                return Renewed(message.session, min(leases))
            case Status():
                reports = [await tell(hop, message, StatusReport) for hop in self._hops]
                counters = tuple(one for report in reports for one in report.counters)
                return StatusReport(message.session, min(report.lease for report in reports), counters)
            case Close():
                return Closed(message.session, await self._close(message.session))
            case Extend() | Rekey():
                raise Refusal(Code.UNEXPECTED, "the loop makes its EXTENDs and REKEYs itself")

    async def _open(self, wanted: Open) -> Opened:
        """Round the loop, then confirm from its end. Raises Refusal."""
        answers: list[Assigned] = []
        hop: First | EndToEnd = First(self._relay, self._link)
        request = wanted
        while True:
            await hop.connect()
            self._hops.append(hop)
            answer = await tell(hop, request, Assigned)
            self._check(hop, request, answer)
            answers.append(answer)
            path = (*request.path, hop.id)
            if not answer.next or hop.id == self._last:
                check_last(self._last, path if not answer.next else (*path, answer.next))
                break
            key, context = self._further(answer.next, path), Context.iterative(len(path) + 1, wanted.session, hop.id)
            hop = EndToEnd(self._me, answer.next, key, hop, context, answer.server_side, self._connections)
            request = replace(request, partner=answer.server_side, path=path, hops_left=request.hops_left - 1)
        if self._sealing is not None:
            await self._first_key(self._sealing, wanted, hop, answer)
        partners = [Target(each.client_side.address, each.client_side.port) for each in answers[1:]]
        confirmed = [*partners, wanted.server] if wanted.server.port else partners
        for hop, partner in reversed(list(zip(self._hops, confirmed, strict=False))):
            await tell(hop, Bind(wanted.session, partner), Bound)
        for hop in self._hops:
            hop.standing = True
        lease, mtu = min(each.lease for each in answers), min(each.mtu for each in answers)
        return Opened(wanted.session, answers[0].client_side, answer.server_side, lease, mtu, complete=True, path=path)

    async def _first_key(self, sealing: Sealing, wanted: Open, hop: First | EndToEnd, answer: Assigned) -> None:
        """From the end-to-end connection with the last relay; with relay 1 there is none so far."""
        if isinstance(hop, First):
            key, context = key_with(self._policy.peers, hop.id), Context.iterative(1, wanted.session, "")
            hop = EndToEnd(self._me, hop.id, key, hop, context, wanted.partner, self._connections)
            await hop.connect()
        expected = Expected(answer.partner, answer.client_side, answer.server_side)
        await sealing.rekey(hop, expected)
        self._key_source = hop, expected

    def _check(self, hop: First | EndToEnd, request: Open, answer: Assigned) -> None:
        """What it says of itself, against what the relay before it says (M13) and what it may say at all (M16). Raises Refusal."""
        if answer.partner != request.partner:
            text = f"{hop.id} was told that its partner is {answer.partner}, we were told {request.partner}: somebody before it lies"
            raise Refusal(Code.ANSWER_DENIED, text)
        if isinstance(hop, EndToEnd) and answer.client_side != hop.told:
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

    async def _close(self, session: bytes) -> tuple[HopCounters, ...]:
        """From the last to the first, since each is reached through those before it. Who can't be reached is missing."""
        hops, self._hops, self._key_source = self._hops, [], None
        counters: list[HopCounters] = []
        for hop in reversed(hops):
            with contextlib.suppress(Refusal):
                counters = [*(await tell(hop, Close(session), Closed)).counters, *counters]
        return tuple(counters)
