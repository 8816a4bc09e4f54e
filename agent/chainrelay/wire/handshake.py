"""The handshake: ISO/IEC 9798-4 mechanism 4 with ephemeral X25519, as docs/protocol.md, "Handshake", gives it octet by
octet.

`Initiator`: hello() -> M1, answer(M2) -> M3, channel(). `Responder`: answer(M1) -> M2, finish(M3), channel(). Nonce and
ephemeral key are the caller's. Whatever is wrong is an AuthenticationError, for our log alone: the partner is sent
nothing. An object serves one handshake; after an error it is of no further use. Rates, timeouts and sockets are net/'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chainrelay.errors import AuthenticationError, Code, ProtocolError
from chainrelay.limits import SESSION_ID_LENGTH
from chainrelay.wire import cbor
from chainrelay.wire.channel import Channel
from chainrelay.wire.keys import DIRECT, Context, PairKey, PairSecrets, Purpose, lp
from chainrelay.wire.names import is_id
from chainrelay.wire.primitives import KEY_LENGTH, SHARE_LENGTH, Ephemeral, digest, equal, expand, extract, mac

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION: Final = 1
SUITE: Final = 1  # X25519, HKDF-SHA-256, HMAC-SHA-256, ChaCha20-Poly1305
NONCE_LENGTH: Final = 32
TAG_LENGTH: Final = 32
HELLO_TAG_LENGTH: Final = 16
M1_ITEMS, M2_ITEMS, M3_ITEMS = 14, 5, 3
M1_SHORTEST: Final = 256  # M2 has 235 octets at most: an answer is never longer than its question
M1_LONGEST: Final = 400  # four ids of full length, and the padding's head

_HELLO_LABEL: Final = b"cr1 m1"
_RESPONDER_LABEL: Final = b"chainrelay/1|ISO9798-4-4|tokenAB|role=R"
_INITIATOR_LABEL: Final = b"chainrelay/1|ISO9798-4-4|tokenBA|role=I"

# Stands in for a key that is not there, so that an unknown id costs what a wrong tag costs. It authenticates nobody.
_NOBODY: Final = PairKey("-", bytes(KEY_LENGTH))


class Initiator:
    """The side that opened the connection. `me` and `peer` are ids; `nonce` is 32 fresh random octets."""

    def __init__(
        self,
        me: str,
        peer: str,
        key: PairKey,
        purpose: Purpose,
        context: Context = DIRECT,
        *,
        nonce: bytes,
        ephemeral: Ephemeral,
    ) -> None:
        _check_pair(me, peer)
        _check_context(purpose, context)
        self.peer, self.kid, self.purpose = peer, key.kid, purpose
        self._me, self._context, self._nonce, self._ephemeral = me, context, nonce, ephemeral
        self._secrets = key.secrets(me.encode(), peer.encode())
        self._hello = b""
        self._channel: Channel | None = None
        self._expand: Callable[[bytes], bytes] | None = None

    def hello(self) -> bytes:
        """M1."""
        context = self._context
        before: list[object] = [VERSION, SUITE, int(self.purpose)]
        before += [context.way, context.hop, context.session, context.previous]
        before += [self._me, self.peer, self.kid, self._nonce, self._ephemeral.share]
        length = len(cbor.encode([*before, b"", bytes(HELLO_TAG_LENGTH)]))
        before.append(bytes(max(0, M1_SHORTEST - length)))
        self._hello = cbor.encode([*before, _hello_tag(self._secrets, before)])
        return self._hello

    def answer(self, m2: bytes) -> bytes:
        """M3, after M2 proved the responder. Before his READY nothing may depend on his having accepted it."""
        hello, self._hello = self._hello, b""
        if not hello:
            raise AuthenticationError("M2 without a hello of ours, or a second M2")
        responder, initiator, nonce, share, tag = _items(m2, M2_ITEMS, "M2")
        if responder != self.peer or initiator != self._me:
            raise AuthenticationError("M2 names another pair")
        _check_octets("M2", (nonce, NONCE_LENGTH), (share, SHARE_LENGTH), (tag, TAG_LENGTH))
        own = self._ephemeral.share
        exchange = _Exchange(self._me, self.peer, self._secrets, hello, self._nonce, own, nonce, share)
        if not equal(exchange.responder_tag(), tag):
            raise AuthenticationError(f"M2 of {self.peer} does not verify")
        m3 = cbor.encode([self._me, self.peer, exchange.initiator_tag(m2)])
        self._expand = exchange.session_keys(self._ephemeral, share, m2, m3)
        self._channel = Channel(self.peer, send=self._expand(b"records i>r"), receive=self._expand(b"records r>i"))
        return m3

    def key(self, label: bytes) -> bytes:
        """key(label) of docs/protocol.md §6; AuthenticationError before `answer` has returned."""
        return _derived(self._expand, label)

    def channel(self) -> Channel:
        """The channel; AuthenticationError before `answer` has returned."""
        return _established(self._channel)


class Responder:
    """The side that was connected to. `peer` and `kid` are what M1 claims until `finish` has returned.

    `find_key(id, kid)` is the authentication table (M20). `expected_purpose(id)` says what a partner may come for at
    this place, and `context` what it must belong to there. `ephemeral` is called only for who knows a key: it may draw
    on a stock made ahead.
    """

    def __init__(
        self,
        me: str,
        *,
        find_key: Callable[[str, str], PairKey | None],
        expected_purpose: Callable[[str], Purpose | None],
        context: Context = DIRECT,
        nonce: bytes,
        ephemeral: Callable[[], Ephemeral],
    ) -> None:
        self.peer = self.kid = ""
        self.purpose: Purpose | None = None
        self._me, self._find_key, self._expected_purpose, self._context = me, find_key, expected_purpose, context
        self._nonce, self._new_ephemeral = nonce, ephemeral
        self._fresh = True
        self._pending: tuple[_Exchange, Ephemeral, bytes] | None = None
        self._channel: Channel | None = None
        self._expand: Callable[[bytes], bytes] | None = None

    def answer(self, m1: bytes) -> bytes:
        """M2. The checks are in the order of their cost; until tag1 has verified nothing of ours is told or spent."""
        fresh, self._fresh = self._fresh, False
        if not fresh:
            raise AuthenticationError("a second M1")
        if not M1_SHORTEST <= len(m1) <= M1_LONGEST:
            raise AuthenticationError(f"M1 of {len(m1)} octets")
        items = _items(m1, M1_ITEMS, "M1")
        version, suite, purpose, way, hop, session, previous, initiator, responder, kid, nonce, share, pad, tag = items
        _check_version(version, suite)
        _check_octets("M1", (session, SESSION_ID_LENGTH), (nonce, NONCE_LENGTH), (share, SHARE_LENGTH), (pad, None))
        _check_octets("M1", (tag, HELLO_TAG_LENGTH))
        if not (_is_id(initiator) and _is_id(kid)) or responder != self._me:
            raise AuthenticationError("M1 is not for this id, or claims none")
        _check_pair(initiator, self._me)

        key = self._find_key(initiator, kid)
        who = (initiator, self._me) if key else ("?", "??")
        secrets = (key or _NOBODY).secrets(who[0].encode(), who[1].encode())
        if not equal(_hello_tag(secrets, items[:-1]), tag) or key is None:
            raise AuthenticationError(f"M1 claims {initiator} with key {kid}: {'tag is wrong' if key else 'not known'}")

        expected = self._expected_purpose(initiator)
        if expected is None or type(purpose) is not int or purpose != expected:
            raise AuthenticationError(f"M1 of {initiator} has purpose {purpose!r:.20}, not {expected!r}")
        if type(way) is not int or type(hop) is not int or Context(way, hop, session, previous) != self._context:
            raise AuthenticationError(f"M1 of {initiator} belongs to another session, way or hop")

        ephemeral = self._new_ephemeral()
        self.peer, self.kid, self.purpose = initiator, kid, expected
        exchange = _Exchange(initiator, self._me, secrets, m1, nonce, share, self._nonce, ephemeral.share)
        m2 = cbor.encode([self._me, initiator, self._nonce, ephemeral.share, exchange.responder_tag()])
        self._pending = exchange, ephemeral, m2
        return m2

    def finish(self, m3: bytes) -> None:
        """Checks M3; only then is the shared secret worth computing, and `peer` known."""
        if self._pending is None:
            raise AuthenticationError("M3 without an M1, or a second M3")
        (exchange, ephemeral, m2), self._pending = self._pending, None
        initiator, responder, tag = _items(m3, M3_ITEMS, "M3")
        if initiator != self.peer or responder != self._me:
            raise AuthenticationError("M3 names another pair")
        _check_octets("M3", (tag, TAG_LENGTH))
        if not equal(exchange.initiator_tag(m2), tag):
            raise AuthenticationError(f"M3 of {self.peer} does not verify")
        self._expand = exchange.session_keys(ephemeral, exchange.share_i, m2, m3)
        self._channel = Channel(self.peer, send=self._expand(b"records r>i"), receive=self._expand(b"records i>r"))

    def key(self, label: bytes) -> bytes:
        """key(label) of docs/protocol.md §6; AuthenticationError before `finish` has returned."""
        return _derived(self._expand, label)

    def channel(self) -> Channel:
        """The channel; AuthenticationError before `finish` has returned."""
        return _established(self._channel)


class _Exchange:
    """The formulas over one M1 and what answers it: the same at both sides."""

    def __init__(
        self,
        initiator: str,
        responder: str,
        secrets: PairSecrets,
        m1: bytes,
        nonce_i: bytes,
        share_i: bytes,
        nonce_r: bytes,
        share_r: bytes,
    ) -> None:
        self._i, self._r, self._secrets, self._m1 = initiator.encode(), responder.encode(), secrets, m1
        self._nonce_i, self.share_i, self._nonce_r, self._share_r = nonce_i, share_i, nonce_r, share_r

    def responder_tag(self) -> bytes:
        ids = lp(self._r, self._i)
        fresh = self._nonce_r + self._nonce_i + self._share_r + self.share_i
        return mac(self._secrets.from_responder, _RESPONDER_LABEL + ids + fresh + digest(self._m1))

    def initiator_tag(self, m2: bytes) -> bytes:
        ids = lp(self._i, self._r)
        fresh = self._nonce_i + self._nonce_r + self.share_i + self._share_r
        return mac(self._secrets.from_initiator, _INITIATOR_LABEL + ids + fresh + digest(self._m1 + m2))

    def session_keys(self, own: Ephemeral, theirs: bytes, m2: bytes, m3: bytes) -> Callable[[bytes], bytes]:
        """label -> key(label) of this handshake."""
        try:
            shared = own.agree(theirs)
        except ValueError as error:
            raise AuthenticationError("the partner's X25519 share is worthless") from error
        chain = extract(self._secrets.mix, shared)
        ids, transcript = (self._i, self._r), digest(self._m1 + m2 + m3)
        return lambda label: expand(chain, lp(label, *ids) + transcript)


def _hello_tag(secrets: PairSecrets, before: list[object]) -> bytes:
    return mac(secrets.hello, _HELLO_LABEL + cbor.encode(before))[:HELLO_TAG_LENGTH]


def _items(body: bytes, count: int, name: str) -> list[Any]:
    try:
        items = cbor.decode(body)
    except ProtocolError as error:
        raise AuthenticationError(f"{name}: {error}") from error
    if type(items) is not list or len(items) != count:
        raise AuthenticationError(f"{name} is not an array of {count} items")
    return items


def _check_octets(name: str, *fields: tuple[object, int | None]) -> None:
    for value, length in fields:
        if type(value) is not bytes or (length is not None and len(value) != length):
            raise AuthenticationError(f"{name}: a field is not {length or 'some'} octets")


def _check_version(version: object, suite: object) -> None:
    if type(version) is not int or version != VERSION:
        raise AuthenticationError(f"version {version!r:.20}, {VERSION} is spoken here", Code.VERSION)
    if type(suite) is not int or suite != SUITE:
        raise AuthenticationError(f"suite {suite!r:.20}, {SUITE} is spoken here", Code.VERSION)


def _check_pair(initiator: str, responder: str) -> None:
    if initiator == responder:
        raise AuthenticationError(f"both ends are {initiator}: nobody talks to himself")


def _check_context(purpose: Purpose, context: Context) -> None:
    if (purpose is Purpose.END_TO_END) == (context == DIRECT):
        raise ValueError(f"{context} does not fit {purpose!r}")


def _is_id(value: object) -> bool:
    return type(value) is str and is_id(value)


def _derived(expansion: Callable[[bytes], bytes] | None, label: bytes) -> bytes:
    if expansion is None:
        raise AuthenticationError("the handshake is not complete")
    return expansion(label)


def _established(channel: Channel | None) -> Channel:
    if channel is None:
        raise AuthenticationError("the handshake is not complete")
    return channel
