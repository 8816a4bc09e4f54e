"""A sealed session in the recursive way (M12, M17), behind the face of a link (leg.py: Asker).

    OPEN without the server's port → OPENED, which names the relays passed: a claim, until the last one has proved itself
    EXTEND through all of them to the last: handshake and REKEY
    BIND: only now anything is forwarded

Everything else goes to relay 1 as it is. A plain session needs none of this: there the link itself is what a leg asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace

from chainrelay.client.end_to_end import Concluded, EndToEnd, First, tell
from chainrelay.client.leg import PATIENCE, Asker, Told
from chainrelay.client.sealing import Expected, Sealing, key_with
from chainrelay.errors import Code, Refusal
from chainrelay.limits import ASK_TIMEOUT
from chainrelay.session.tables import PeerTable
from chainrelay.wire.keys import Context
from chainrelay.wire.messages import Bind, Bound, Close, Closed, Open, Opened, Request


class Recursive:
    """One session's way to the chain. `check` judges OPENED and its path before the last relay is asked (M16)."""

    def __init__(
        self, me: str, relay: str, link: Asker, peers: PeerTable, check: Callable[[Opened], None], sealing: Sealing
    ) -> None:
        self._me, self._link, self._peers, self._check, self._sealing = me, link, peers, check, sealing
        self._first = First(relay, link)
        self._connections = itertools.count(1)
        self._key_source: tuple[EndToEnd, Expected] | None = None
        """With whom keys are made, and what it must say of itself."""

    async def request(self, message: Request, timeout: float = ASK_TIMEOUT) -> Told:
        """Relay 1's answer; to OPEN, when the session is sealed as well. Raises Refusal."""
        if not isinstance(message, Open):
            return await self._link.request(message, timeout)
        try:
            async with asyncio.timeout(timeout):
                return Concluded(await self._open(message))
        except TimeoutError as late:
            raise Refusal(Code.NEXT_HOP_TIMEOUT, f"the chain did not answer within {timeout:g} s") from late

    def due_in(self) -> float:
        """See Sealing."""
        return self._sealing.due_in()

    async def rekey(self) -> None:
        """Another key. Raises Refusal."""
        if self._key_source is None:
            raise Refusal(Code.UNKNOWN_SESSION, "the session is not open; open it again")
        connection, expected = self._key_source
        try:
            async with asyncio.timeout(PATIENCE):
                await connection.connect()
                await self._sealing.rekey(connection, expected)
        except TimeoutError as late:
            raise Refusal(Code.NEXT_HOP_TIMEOUT, f"{connection.id} gave no key within {PATIENCE:g} s") from late

    async def _open(self, wanted: Open) -> Opened:
        self._key_source = None
        opened = await tell(self._first, replace(wanted, server=replace(wanted.server, port=0)), Opened)
        try:
            self._check(opened)
            self._key_source = self._described(wanted, opened)
            await self.rekey()
            if wanted.server.port:
                bound = await tell(self._first, Bind(wanted.session, wanted.server), Bound)
                opened = replace(opened, mtu=bound.mtu)
        except BaseException:
            await asyncio.shield(self._forget(wanted.session))
            raise
        return opened

    def _described(self, wanted: Open, opened: Opened) -> tuple[EndToEnd, Expected]:
        """The last relay, as the chain describes it. Raises Refusal."""
        path = opened.path  # begins with relay 1: `check` has seen to it
        only, relay, previous = len(path) == 1, path[-1], path[-2] if len(path) > 1 else ""
        context = Context.recursive(len(path), wanted.session, previous)
        connection = EndToEnd(
            self._me, relay, key_with(self._peers, relay), self._first, context, wanted.partner, self._connections
        )
        partner, entry = (wanted.partner, opened.client_side) if only else (None, None)
        return connection, Expected(partner, entry, opened.exit)

    async def _forget(self, session: bytes) -> None:
        with contextlib.suppress(Refusal):
            await tell(self._first, Close(session), Closed)
