"""Handshakes and connections for tests: fresh keys, both roles, no socket."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chainrelay.wire.connection import Connection
from chainrelay.wire.handshake import Initiator, Responder
from chainrelay.wire.keys import DIRECT, Context, PairKey, Purpose
from chainrelay.wire.primitives import Ephemeral


def ephemeral() -> Ephemeral:
    """A fresh key pair."""
    return Ephemeral(X25519PrivateKey.generate())


@dataclass
class Pair:
    """`alice` and `fw1` with a key of theirs; makes as many handshake objects as a test wants."""

    initiator: str = "alice"
    responder: str = "fw1"
    purpose: Purpose = Purpose.CLIENT_HOP
    context: Context = DIRECT
    key: PairKey = field(default_factory=lambda: PairKey("k1", os.urandom(32)))

    def start(self) -> Initiator:
        """The initiator's side."""
        return Initiator(
            self.initiator, self.responder, self.key, self.purpose, self.context, nonce=os.urandom(32), ephemeral=ephemeral()
        )

    def await_(self) -> Responder:
        """The responder's side."""
        return Responder(
            self.responder,
            find_key=lambda peer, kid: self.key if (peer, kid) == (self.initiator, self.key.kid) else None,
            expected_purpose=lambda _: self.purpose,
            context=self.context,
            nonce=os.urandom(32),
            ephemeral=ephemeral,
        )

    def run(self) -> tuple[Initiator, Responder]:
        """Both sides after a whole handshake."""
        i, r = self.start(), self.await_()
        r.finish(i.answer(r.answer(i.hello())))
        return i, r

    def connect(self) -> tuple[Connection, Connection]:
        """Two open connections: initiator's, responder's."""
        i, r = Connection(self.start()), Connection(self.await_())
        for _ in range(2):
            r.receive(i.outgoing())
            i.receive(r.outgoing())
        return i, r
