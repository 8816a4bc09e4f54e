"""A sealed session's keys (M17): made with the last relay alone, one end-to-end connection for each, and renewed in time.

    REKEY on a connection that the caller brings → REKEYED, whose endpoints must be those that we were told → sealed by it

Which connection that is depends on the way (walk.py, recursive.py), as does what is known of the last relay's endpoints. What
happens with datagrams: data_keys.py. docs/design.md §15.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from chainrelay.client.data_keys import DataKeys
from chainrelay.client.end_to_end import EndToEnd, answer_of
from chainrelay.errors import Code, Refusal
from chainrelay.limits import SEAL_OVERLAP, SEAL_REKEY_AFTER, SEAL_REKEY_DATAGRAMS
from chainrelay.session.tables import PeerTable
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.keys import PairKey
from chainrelay.wire.messages import Rekey, Rekeyed
from chainrelay.wire.sealed import KEY_ID_LENGTH, new_key_id


@dataclass(frozen=True, slots=True)
class Expected:
    """What others have said of the last relay's endpoints; None: nobody has."""

    partner: Endpoint | None
    client_side: Endpoint | None
    server_side: Endpoint

    def check(self, relay: str, answer: Rekeyed) -> None:
        """Raises Refusal unless the relay itself says the same."""
        for what, told, said in (
            ("its partner", self.partner, answer.partner),
            ("its entry", self.client_side, answer.client_side),
            ("the exit", self.server_side, answer.server_side),
        ):
            if told is not None and told != said:
                text = f"{relay} says that {what} is {said}, we were told {told}: a relay between lies; the session is closed"
                raise Refusal(Code.ANSWER_DENIED, text)


class Sealing:
    """The keys of one session and their age."""

    def __init__(self) -> None:
        self.keys = DataKeys()
        self._epoch = 0
        self._made = 0.0

    def due_in(self) -> float:
        """Seconds until the key has done its work; 0: another one is wanted now."""
        if self.keys.used >= SEAL_REKEY_DATAGRAMS:
            return 0
        return max(0.0, self._made + SEAL_REKEY_AFTER - asyncio.get_running_loop().time())

    async def rekey(self, connection: EndToEnd, expected: Expected) -> None:
        """Seal by the keys of this connection, which has served for none before. Raises Refusal; the keys before are in force then."""
        key_id = new_key_id(os.urandom(KEY_ID_LENGTH), self._epoch)
        self._epoch += 1
        message = Rekey(connection.session, key_id)
        # If REKEYED gets lost the relay seals by this key already: it stays, and the next attempt brings another one.
        self.keys.prepare(connection.seal_keys(key_id))
        answer = answer_of(await connection.ask_here(message), connection.id, message, Rekeyed)
        if answer.key_id != key_id:
            raise Refusal(Code.UNEXPECTED, f"{connection.id} confirmed another key than was sent", connection.id)
        expected.check(connection.id, answer)
        self.keys.adopt(key_id)
        loop = asyncio.get_running_loop()
        self._made = loop.time()
        loop.call_later(SEAL_OVERLAP, self.keys.retire, key_id)


def key_with(peers: PeerTable, relay: str) -> PairKey:
    """Our key with the last relay. Raises Refusal."""
    key = peers.current_key(relay)
    if key is None:
        text = f"no key for {relay} in peers.toml: a sealed session takes one with the last relay; add one here and there"
        raise Refusal(Code.NEXT_HOP_AUTHENTICATION, text)
    return key


def check_last(last: str, path: tuple[str, ...]) -> None:
    """Whether the chain ends where routes.toml says, if it says so. Raises Refusal."""
    if last and path[-1:] != (last,):
        found = f"ends at {path[-1]}" if path else "does not say where it ends"
        text = f"the chain {found}, and routes.toml demands that {last} is the last relay: one of them is wrong, or a relay lies"
        raise Refusal(Code.ANSWER_DENIED, text)
