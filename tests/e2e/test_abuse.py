"""Handshake abuse against a running agent: nothing is accepted, nothing is told, and it goes on serving.

Every bit, truncation and field of the messages themselves is turned over in unit/wire/test_handshake_abuse.py; here the
same kinds meet a real agent over TCP, where silence and the form of its refusals can be seen.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from random import Random

import pytest

from chainrelay.errors import Code, ProtocolError
from chainrelay.limits import FRAME_BEFORE_AUTHENTICATION, HALF_OPEN_PER_PREFIX, HANDSHAKE_TIMEOUT
from chainrelay.wire import cbor
from chainrelay.wire.codec import decode, encode
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.frame import frame
from chainrelay.wire.keys import PairKey, Purpose
from chainrelay.wire.messages import Bind, Close, Closed, Error, Open, Opened, Renew, Request, Status
from chainrelay.wire.primitives import KEY_LENGTH
from e2e.chain import Chain
from e2e.health import assert_healthy, memory
from e2e.stranger import Ending, Insider, Line, NotAcceptedError, alice, an_open, control, framed, hello, initiator, neighbour, pair_key
from lab import wait
from lab.configuration import KID, USER

pytestmark = pytest.mark.root

MANY = "[limits]\nhandshakes_per_second = 100000\n"
MALLORY = "mallory"
SILENCE = (b"", "closed")


@pytest.fixture(scope="module")
def here() -> Iterator[Chain]:
    """Two relays that take any number of handshakes a second; mallory is a client of relay 1 as alice is."""
    with Chain(2, (4,), extra={"fw1": MANY, "fw2": MANY}) as chain:
        with_mallory(chain)
        yield chain


@pytest.fixture(autouse=True)
def survives(here: Chain) -> Iterator[None]:
    """After every test."""
    yield
    assert_healthy(here)


def with_mallory(chain: Chain) -> None:
    """A second client of relay 1, who may open sessions as well."""
    first = chain.relays.agents[0]
    configuration = chain.relays.configuration
    row = configuration._peer("fw1", MALLORY, "client")
    peers = first.directory / "peers.toml"
    peers.write_text(peers.read_text() + row)
    for agent in chain.relays.agents:
        access = agent.directory / "access.toml"
        access.write_text(access.read_text() + access.read_text().replace(USER, MALLORY))
        agent.reload()
    wait.until(lambda: first.log().count("reload: "), "the new tables")


def mallory(chain: Chain) -> Insider:
    """At relay 1, by its own key."""
    return Insider(chain.row.client, control(chain.firewalls[0]), MALLORY, "fw1", pair_key(chain, "fw1", MALLORY))


def say(chain: Chain, *bodies: bytes) -> Ending:
    """Frames to relay 1, and what became of the connection."""
    line = Line(chain.row.client, control(chain.firewalls[0]))
    line.send(b"".join(map(framed, bodies)))
    return line.ending()


# before M2 -----------------------------------------------------------------------


def wrong_hellos(chain: Chain) -> dict[str, bytes]:
    """Kinds of M1 that are not to be accepted, each of a length that an M1 may have."""
    key, other = pair_key(chain, USER, "fw1"), PairKey(KID, secrets.token_bytes(KEY_LENGTH))
    good = hello(USER, "fw1", key)
    flipped = bytearray(good)
    flipped[-3] ^= 1
    items = cbor.decode(good)
    same = [*items[:7], "fw1", *items[8:]]  # idI = idR; Initiator itself would not make it
    return {
        "wrong key": hello(USER, "fw1", other),
        "unknown id": hello("nobody", "fw1", other),
        "unknown kid": hello(USER, "fw1", PairKey("1999z", key.secret)),
        "other relay's id": hello(USER, "fw2", key),
        "the key that stands in for none": hello("nobody", "fw1", PairKey("-", bytes(KEY_LENGTH))),
        "idI = idR": cbor.encode(same),
        "relay's purpose": hello(USER, "fw1", key, Purpose.RELAY_HOP),
        "control purpose": hello(USER, "fw1", key, Purpose.CONTROL),
        "reflected neighbour's key": hello("fw2", "fw1", pair_key(chain, "fw1", "fw2"), Purpose.CLIENT_HOP),
        "bit flipped": bytes(flipped),
        "version 2": cbor.encode([2, *items[1:]]),
        "suite 2": cbor.encode([1, 2, *items[2:]]),
        "not CBOR": secrets.token_bytes(len(good)),
        "octets after it": good + b"\0",
        "an octet short": good[:-1],
        "an M3 first": cbor.encode([USER, "fw1", secrets.token_bytes(32)]),
        "an M2 first": cbor.encode(["fw2", "fw1", *(secrets.token_bytes(32) for _ in range(3))]),
    }


def test_all_wrong_hellos_are_refused_alike_without_an_octet(here: Chain) -> None:
    """No oracle: whatever is wrong, the connection is closed, in the same way, and says nothing."""
    assert {kind: say(here, body) for kind, body in wrong_hellos(here).items()} == dict.fromkeys(wrong_hellos(here), SILENCE)


def test_a_right_hello_gets_m2_no_longer_than_itself(here: Chain) -> None:
    """The control of the tests around it: the answer that the wrong ones don't get."""
    body = hello(USER, "fw1", pair_key(here, USER, "fw1"))
    with Line(here.row.client, control(here.firewalls[0])) as line:
        line.send(frame(body))
        assert 0 < len(line.body()) <= len(body)


@pytest.mark.parametrize("sample", [range(0, 256, 16)])
def test_flipped_bits_of_m1(here: Chain, sample: range) -> None:
    body = hello(USER, "fw1", pair_key(here, USER, "fw1"))
    for position in sample:
        spoiled = bytearray(body)
        spoiled[position] ^= 1 << position // 16 % 8
        assert say(here, bytes(spoiled)) == SILENCE, position


@pytest.mark.parametrize("length", [0, 1, 4, 100, 259])
def test_a_truncated_hello_ends_when_the_time_is_up_and_says_nothing(here: Chain, length: int) -> None:
    """The frame says more than comes. Whoever closes his side first is let go at once."""
    octets = frame(hello(USER, "fw1", pair_key(here, USER, "fw1")))[:length]
    with Line(here.row.client, control(here.firewalls[0])) as line:
        line.send(octets)
        line.socket.shutdown(1)
        assert line.ending(2) == SILENCE


def test_dawdlers_are_cut_in_silence(here: Chain) -> None:
    """Half an M1, an M1 without M3, nothing at all: after the handshake's time it is over."""
    body = frame(hello(USER, "fw1", pair_key(here, USER, "fw1")))
    at = control(here.firewalls[0])
    lines = [Line(here.row.client, at) for _ in range(3)]
    began = time.monotonic()
    for line, octets in zip(lines, (b"", body[:50], body), strict=True):
        line.send(octets)
    assert lines[2].body()
    assert [line.ending() for line in lines] == [SILENCE] * 3
    assert HANDSHAKE_TIMEOUT - 1 < time.monotonic() - began < HANDSHAKE_TIMEOUT + 2


def test_frames_larger_than_a_stranger_may_send(here: Chain) -> None:
    """Refused as soon as the length is there; nothing is held for what follows."""
    for length in (0, FRAME_BEFORE_AUTHENTICATION + 1, 1 << 31, (1 << 32) - 1):
        with Line(here.row.client, control(here.firewalls[0])) as line:
            line.send(length.to_bytes(4, "big"))
            assert line.ending(2) == SILENCE, length


# after M2 ------------------------------------------------------------------------


def test_a_replayed_m1_gets_an_m2_and_never_a_session(here: Chain) -> None:
    """The whole recorded first side again: M1, M3 and an OPEN that once worked."""
    starter = initiator(USER, "fw1", pair_key(here, USER, "fw1"))
    m1 = starter.hello()
    request = an_open(here)
    with Line(here.row.client, control(here.firewalls[0])) as line:
        line.send(frame(m1))
        first = line.body()
        m3 = starter.answer(first)
        channel = starter.channel()
        recorded = frame(m3) + channel.seal(encode(1, request))
        line.send(recorded)
        channel.open_ready(line.body())
        assert isinstance(channel.open(line.body())[0][1].message, Opened)
        line.send(channel.seal(encode(2, Close(request.session))))
        assert isinstance(channel.open(line.body())[0][1].message, Closed)
    with Line(here.row.client, control(here.firewalls[0])) as line:
        line.send(frame(m1))
        second = line.body()
        assert second
        assert second != first
        line.send(recorded)
        told, how = line.ending(2)
        assert told == b""
        assert how != "still open"
    assert here.leftovers() == {}


def test_wrong_answers_to_m2_are_refused_alike(here: Chain) -> None:
    """Bit-flipped, truncated, role-swapped, reflected, another run's, another id's, out of order: not an octet comes back."""
    key = pair_key(here, USER, "fw1")
    at = control(here.firewalls[0])
    older = initiator(USER, "fw1", key)
    with Line(here.row.client, at) as line:
        line.send(frame(older.hello()))
        another = older.answer(line.body())
    endings: dict[str, Ending] = {}
    for kind in ("flipped", "short", "swapped", "reflected", "other run", "other id", "second M1", "empty tag", "record"):
        starter = initiator(USER, "fw1", key)
        line = Line(here.row.client, at)
        m1 = starter.hello()
        line.send(frame(m1))
        m2 = line.body()
        items = cbor.decode(m2)
        m3 = starter.answer(m2)
        tag = cbor.decode(m3)[2]
        wrong = {
            "flipped": m3[:-1] + bytes([m3[-1] ^ 1]),
            "short": m3[:-1],
            "swapped": cbor.encode(["fw1", USER, tag]),
            "reflected": cbor.encode([USER, "fw1", items[4]]),  # the responder's own tag
            "other run": another,
            "other id": cbor.encode([MALLORY, "fw1", tag]),
            "second M1": m1,
            "empty tag": cbor.encode([USER, "fw1", b""]),
            "record": secrets.token_bytes(200),
        }[kind]
        line.send(frame(wrong))
        endings[kind] = line.ending()
    assert endings == dict.fromkeys(endings, SILENCE)


def test_its_own_messages_come_back_to_it(here: Chain) -> None:
    """Reflection over two connections: what relay 1 says on one is played to it on the other."""
    key = pair_key(here, USER, "fw1")
    with ExitStack() as stack:
        one, other = (stack.enter_context(Line(here.row.client, control(here.firewalls[0]))) for _ in range(2))
        one.send(frame(hello(USER, "fw1", key)))
        m2 = one.body()
        other.send(frame(m2))
        one.send(frame(m2))
        assert one.ending(2) == SILENCE
        assert other.ending(2) == SILENCE


def test_a_bad_record_ends_the_connection_in_silence(here: Chain) -> None:
    """After authentication as well; the sessions stay until they are closed."""
    with alice(here) as one:
        request = an_open(here)
        assert isinstance(one.ask(request), Opened)
        one.line.send(frame(secrets.token_bytes(80)))
        assert one.line.ending(2) == SILENCE
    with alice(here) as again:
        assert isinstance(again.ask(Close(request.session)), Closed)


# another principal's session -----------------------------------------------------


@pytest.mark.parametrize(
    "request_of", [lambda i: Renew(i, 30), Close, Status, lambda i: Bind(i, Target("server.example", 5004))],
    ids=["renew", "close", "status", "bind"],
)
def test_another_principals_session_is_as_unknown_as_none(here: Chain, request_of: type[Close]) -> None:
    """Code, hop and text are the same for an id that exists and one that does not."""
    with alice(here) as owner, mallory(here) as thief:
        request = an_open(here)
        assert isinstance(owner.ask(request), Opened)
        stolen, invented = (thief.ask(request_of(each)) for each in (request.session, secrets.token_bytes(16)))
        assert stolen == invented
        assert isinstance(stolen, Error)
        assert (stolen.code, stolen.hop) == (Code.UNKNOWN_SESSION, "fw1")
        assert isinstance(owner.ask(Close(request.session)), Closed)


def test_another_principals_session_id_can_not_be_opened_again(here: Chain) -> None:
    """Nor at relay 2 by relay 1's neighbour connection: there all sessions of relay 1 are one principal's."""
    with alice(here) as owner, mallory(here) as thief, neighbour(here, 1) as relay:
        request = an_open(here)
        opened = owner.ask(request)
        taken = thief.ask(replace(request, user=MALLORY))
        assert isinstance(taken, Error)
        assert (taken.code, taken.hop) == (Code.SESSION_ID_TAKEN, "fw1")
        behind = relay.ask(inner(here, request, user=MALLORY))
        assert isinstance(behind, Error)
        assert behind.code is Code.SESSION_ID_TAKEN
        again = owner.ask(request)
        assert isinstance(opened, Opened)
        assert isinstance(again, Opened)
        assert (again.client_side, again.exit) == (opened.client_side, opened.exit)
        assert isinstance(owner.ask(Close(request.session)), Closed)


def inner(chain: Chain, request: Open, **changes: object) -> Open:
    """As relay 1 passes it on."""
    partner = Endpoint(chain.firewalls[0].right.address(4), 45000)
    origin = Endpoint(request.origin.address, request.origin.port)
    return replace(request, partner=partner, origin=origin, path=("fw1",), hops_left=7, **changes)  # type: ignore[arg-type]


# many ----------------------------------------------------------------------------


def test_half_open_connections_are_capped_per_prefix_and_neighbours_go_on(here: Chain) -> None:
    """A network that fills its share waits for itself only; what stood before stands."""
    first = here.firewalls[0]
    with alice(here) as before, ExitStack() as stack:
        lines = [stack.enter_context(Line(here.row.client, control(first))) for _ in range(HALF_OPEN_PER_PREFIX + 8)]
        wait.until(lambda: sum(line.ended() for line in lines[HALF_OPEN_PER_PREFIX:]) == 8, "those over the cap to be closed")
        assert not any(line.ended() for line in lines[:HALF_OPEN_PER_PREFIX])
        assert Line(here.row.client, control(first)).ending(2)[0] == b""
        with elsewhere(here) as other:
            assert isinstance(other.ask(Status(secrets.token_bytes(16))), Error)
        request = an_open(here)
        assert isinstance(before.ask(request), Opened)
        assert isinstance(before.ask(Close(request.session)), Closed)
        wait.until(lambda: all(line.ended() for line in lines), "the handshake's time to end them", HANDSHAKE_TIMEOUT + 2)


def elsewhere(chain: Chain) -> Insider:
    """Alice again, from a network of her own (another /24), which relay 1 finds behind the client's host."""
    client, first = chain.row.client, chain.firewalls[0]
    client.run(["ip", "address", "replace", "198.51.100.7/32", "dev", "lo"])
    first.host.run(["ip", "route", "replace", "198.51.100.0/24", "via", str(chain.row.client_end.address(4))])
    return alice(chain, source=Endpoint.parse("198.51.100.7:1").address)


def test_too_many_handshakes_a_second_from_one_prefix() -> None:
    """Over the rate a connection is closed before it says anything; a second later there is room again."""
    with Chain(1, (4,), extra={"fw1": "[limits]\nhandshakes_per_second = 5\n"}) as chain:
        body = frame(hello(USER, "fw1", pair_key(chain, USER, "fw1")))
        answered = 0
        for _ in range(20):
            with Line(chain.row.client, control(chain.firewalls[0])) as line:
                line.send(body)
                answered += bool(line.body())
        assert 5 <= answered <= 10
        wait.until(lambda: served(chain), "room for another handshake", 3)


def served(chain: Chain) -> bool:
    """Whether a newcomer gets through the handshake, and finds everything as it should be."""
    try:
        assert_healthy(chain)
    except NotAcceptedError:
        return False
    return True


# fuzz ----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(180)])])
def test_random_and_mutated_octets_before_authentication(here: Chain, seconds: int) -> None:
    """Nothing but silence; the agent's memory stays what it was."""
    dice, agent = Random(seconds), here.relays.agents[0]
    key = pair_key(here, USER, "fw1")
    at, count = control(here.firewalls[0]), 0
    until = time.monotonic() + seconds
    start = 0
    while time.monotonic() < until:
        good = frame(hello(USER, "fw1", key))
        body = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            mutate(dice, body, fixed=4 if dice.random() < 0.8 else 0)
        if body.startswith(good):
            continue  # changed into itself, or behind its end
        with Line(here.row.client, at) as line:
            line.send(bytes(body) if dice.random() < 0.8 else framed(dice.randbytes(dice.randint(1, 4096))))
            line.socket.shutdown(1)
            assert line.ending(3)[0] == b"", body.hex()
        count += 1
        if not start and time.monotonic() > until - seconds / 2:
            start = memory(agent.pid)  # by half-time the allocator has seen every size; a leak goes on growing
    assert count > 100
    assert memory(agent.pid) - start < 8 << 20


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(180)])])
def test_mutated_messages_after_authentication(here: Chain, seconds: int) -> None:
    """Valid records with spoiled messages: an answer, an error or the end of the connection, never the end of the agent."""
    dice, agent = Random(seconds), here.relays.agents[0]
    until, cut, start = time.monotonic() + seconds, 0, 0
    insider = alice(here)
    opened: list[object] = []
    while time.monotonic() < until:
        identity = secrets.token_bytes(16)
        messages: list[Request] = [
            an_open(here, session=identity, port=dice.randint(30000, 60000), lease=2),
            Renew(identity, 30), Bind(identity, Target(here.row.server_end.address(4), 5004)), Status(identity), Close(identity),
        ]  # fmt: skip
        for number, message in enumerate(messages):
            body = bytearray(encode(number, message))
            if dice.random() < 0.7:
                mutate(dice, body, fixed=0)
            with suppress(ProtocolError):
                opened.append(decode(bytes(body))[1])
            insider.send_record(bytes(body) or b"\xa0")
        if insider.line.ended():
            cut += 1
            insider.close()
            insider = alice(here)
        if not start and time.monotonic() > until - seconds / 2:
            start = memory(agent.pid)
    insider.close()
    with alice(here) as closer:
        for each in opened:
            if isinstance(each, Open):
                closer.ask(Close(each.session))
    assert here.leftovers() == {}
    assert cut > 10
    assert memory(agent.pid) - start < 16 << 20
    for relay in here.relays.agents:
        assert "Traceback" not in relay.log(), relay.log()[relay.log().index("Traceback") - 500 :][:4000]


def mutate(dice: Random, body: bytearray, fixed: int) -> None:
    """One change behind the first `fixed` octets: a bit, an octet, a piece taken out, doubled or put in."""
    if len(body) <= fixed + 1:
        return
    place = dice.randrange(fixed, len(body))
    match dice.randrange(5):
        case 0:
            body[place] ^= 1 << dice.randrange(8)
        case 1:
            body[place] = dice.randrange(256)
        case 2:
            del body[place : place + dice.randint(1, 8)]
        case 3:
            body[place:place] = body[place : place + dice.randint(1, 8)]
        case _:
            body[place:place] = dice.randbytes(dice.randint(1, 8))
