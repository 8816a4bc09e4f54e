"""The fake by itself; that it behaves as the kernel does is tests/conformance."""

from __future__ import annotations

from dataclasses import replace

from chainrelay.datapath.fake import Drop, FakeBackend, Packet
from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Mapping, Rekey, Remove, Renew
from chainrelay.datapath.unsealed import NO_SEAL
from chainrelay.limits import SEAL_OVERLAP
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from chainrelay.wire.sealed import SEALED_OVERHEAD, SealKeys


def mapping(n: int = 0, protocol: Protocol = Protocol.UDP) -> Mapping:
    ends = (f"10.1.0.1:{10000 + n}", f"10.1.0.2:{20000 + n}", f"10.2.0.1:{25000 + n}", f"10.2.0.2:{40000 + n}")
    return Mapping(n.to_bytes(16, "big"), protocol, 1, *map(Endpoint.parse, ends))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def packet(of: Mapping, payload: bytes = b"hello", *, reset: bool = False) -> Packet:
    return Packet(of.protocol, of.client_partner, of.client_side, payload, reset)


def test_the_payload_arrives_under_the_new_tuple() -> None:
    fake, one = FakeBackend(), mapping()
    fake.apply([Install(one, 60)])
    assert fake.pass_packet(packet(one)) == Packet(Protocol.UDP, one.server_side, one.server_partner, b"hello")
    assert fake.counters([one]) == [Counters(1, 33, 0, 0)]


def test_each_reason_for_dropping_has_its_name() -> None:
    clock = Clock()
    fake, one = FakeBackend(clock=clock), mapping()
    assert fake.pass_packet(packet(one)) is Drop.STRANGER
    fake.apply([Install(one, 1)])
    fake.pass_packet(packet(one))
    clock.now = 2.0
    assert fake.pass_packet(packet(one)) is Drop.LEASE_ENDED
    outside = Packet(Protocol.UDP, one.client_partner, Endpoint(one.client_side.address, 53))
    assert fake.pass_packet(outside) is Drop.NOT_OURS


def test_a_tcp_segment_after_the_lease_is_answered_with_a_reset_to_its_sender() -> None:
    fake, one = FakeBackend(), mapping(protocol=Protocol.TCP)
    fake.apply([Install(one, 60)])
    fake.pass_packet(packet(one))
    fake.apply([Remove(one, linger=True)])
    assert fake.pass_packet(packet(one)) == Packet(Protocol.TCP, one.client_side, one.client_partner, reset=True)
    assert fake.pass_packet(packet(one, reset=True)) is Drop.LEASE_ENDED
    fake.apply([Remove(one)])
    assert fake.pass_packet(packet(one)) is Drop.STRANGER
    assert fake.known_connections() == 0


def test_a_full_fake_says_so_and_takes_the_known_again() -> None:
    fake = FakeBackend(capacity=1)
    first, second, again = fake.apply([Install(mapping(0), 60), Install(mapping(1), 60), Install(mapping(0), 60)])
    assert (first, again) == (Done(Counters()), Done(Counters()))
    assert isinstance(second, Failed)
    assert second.full


def test_octets_are_the_ip_length() -> None:
    six = Endpoint.parse("[fd00::1]:5")
    assert Packet(Protocol.UDP, six, six, bytes(10)).octets == 58
    assert packet(mapping(protocol=Protocol.TCP), bytes(10)).octets == 50


# sealed ------------------------------------------------------------------------------


def keys(epoch: int = 0) -> SealKeys:
    octets = bytes((epoch, 1)) * 16
    return SealKeys(bytes((0xD0 | epoch, 1, 2, 4)), octets, octets[:12], octets[::-1], octets[::-1][:12])


def sealed(components: int = 1) -> Mapping:
    return replace(mapping(), sealed=True, components=components)


def up(of: Mapping, datagram: bytes, component: int = 0) -> Packet:
    return Packet(Protocol.UDP, of.client_partner.next(component), of.client_side.next(component), datagram)


def down(of: Mapping, text: bytes, component: int = 0) -> Packet:
    return Packet(Protocol.UDP, of.server_partner.next(component), of.server_side.next(component), text)


def payload(passed: Packet | Drop) -> bytes:
    assert isinstance(passed, Packet), passed
    return passed.payload


def test_text_toward_the_server_sealed_toward_the_client() -> None:
    fake, one = FakeBackend(seals=True), sealed(components=2)
    assert fake.seals()
    assert fake.apply([Install(one, 60, keys())]) == [Done(Counters())]
    sealer, opener = keys().sealer(), keys().opener()
    for component in (0, 1, 0):
        datagram = sealer.seal(b"question", component)
        expected = Packet(Protocol.UDP, one.server_side.next(component), one.server_partner.next(component), b"question")
        assert fake.pass_packet(up(one, datagram, component)) == expected
        assert fake.pass_packet(up(one, datagram, component)) is Drop.NOT_OPENED, "once"
        answer = fake.pass_packet(down(one, b"answer", component))
        assert isinstance(answer, Packet)
        assert (answer.source, answer.destination) == (one.client_side.next(component), one.client_partner.next(component))
        assert len(answer.payload) == len(b"answer") + SEALED_OVERHEAD
        assert opener.open(answer.payload, component) == b"answer"
    wrong = sealer.seal(b"question", 1)
    for datagram in (b"question", wrong, sealer.seal(b"question")[:-1] + b"x"):
        assert fake.pass_packet(up(one, datagram)) is Drop.NOT_OPENED
    size = 28 + len(b"question") + SEALED_OVERHEAD
    assert fake.counters([one]) == [Counters(3, 3 * size, 3, 3 * (28 + len(b"answer")))]
    assert all(flow.sealed for flow in fake.flows())
    assert fake.known_connections() == 0, "no connection tracking behind the fast path"


def test_after_its_lease_or_removal_a_sealed_session_is_a_strangers() -> None:
    clock = Clock()
    fake, one = FakeBackend(clock=clock, seals=True), sealed()
    fake.apply([Install(one, 1, keys())])
    clock.now = 2.0
    assert fake.pass_packet(up(one, keys().sealer().seal(b""))) is Drop.STRANGER
    assert fake.apply([Renew(one, 60)]) == [Done(Counters())], "the entry with its keys was still there"
    assert payload(fake.pass_packet(up(one, keys().sealer().seal(b"")))) == b""
    assert fake.apply([Remove(one)])[0] == Done(Counters(1, 28 + SEALED_OVERHEAD, 0, 0))
    for packet in (up(one, keys().sealer().seal(b"")), down(one, b"clear")):
        assert fake.pass_packet(packet) is Drop.STRANGER
    for lost in (Renew(one, 60), Rekey(one, keys(1))):
        (outcome,) = fake.apply([lost])
        assert isinstance(outcome, Failed)
        assert outcome.keyless


def test_setup_forgets_keys_with_the_leases() -> None:
    clock = Clock()
    fake, one = FakeBackend(clock=clock, seals=True), sealed()
    fake.apply([Install(one, 1, keys())])
    clock.now = 2.0
    fake.setup()
    assert fake.apply([Renew(one, 60)]) == [Failed("the sealed session is not here", keyless=True)]


def test_a_new_key_opens_beside_the_old_one_for_a_while_and_seals_at_once() -> None:
    clock = Clock()
    fake, one = FakeBackend(clock=clock, seals=True), sealed()
    fake.apply([Install(one, 60, keys())])
    old, new = keys().sealer(), keys(1).sealer()
    replayed = old.seal(b"old")
    assert payload(fake.pass_packet(up(one, replayed))) == b"old"
    assert fake.pass_packet(up(one, new.seal(b"new"))) is Drop.NOT_OPENED
    assert fake.apply([Rekey(one, keys(1))]) == [Done(Counters())]
    assert payload(fake.pass_packet(up(one, old.seal(b"old")))) == b"old"
    assert payload(fake.pass_packet(up(one, new.seal(b"new")))) == b"new"
    assert fake.pass_packet(up(one, replayed)) is Drop.NOT_OPENED
    first = payload(fake.pass_packet(down(one, b"answer")))
    assert keys(1).opener().open(first) == b"answer"
    clock.now = SEAL_OVERLAP
    assert fake.pass_packet(up(one, old.seal(b"old"))) is Drop.NOT_OPENED
    assert payload(fake.pass_packet(up(one, new.seal(b"new")))) == b"new"


def test_the_same_keys_again_never_begin_to_count_anew() -> None:
    fake, one = FakeBackend(seals=True), sealed()
    counters = []
    for again in (Install(one, 60, keys()), Install(one, 60, keys()), Rekey(one, keys()), Rekey(one, keys(1)), Rekey(one, keys())):
        assert fake.apply([again]) == [Done(Counters())]
        datagram = payload(fake.pass_packet(down(one, b"answer")))
        counters.append((datagram[0], int.from_bytes(datagram[4:12], "big")))
    assert counters == [(0xD0, 0), (0xD0, 1), (0xD0, 2), (0xD1, 0), (0xD1, 1)]


def test_a_fake_that_cannot_seal_says_so() -> None:
    fake = FakeBackend()
    assert fake.apply([Install(sealed(), 60, keys()), Install(mapping(), 60)]) == [Failed(NO_SEAL), Done(Counters())]
    assert not fake.seals()
    assert isinstance(FakeBackend(seals=True).apply([Install(sealed(), 60)])[0], Failed), "no keys"


def test_keys_go_only_with_their_mapping() -> None:
    """Another session's tuple stays its own."""
    fake, plain = FakeBackend(seals=True), mapping()
    fake.apply([Install(plain, 60)])
    (outcome,) = fake.apply([Install(replace(sealed(), session=bytes(15) + b"x", server_partner=Endpoint.parse("10.2.0.9:1")), 60, keys())])
    assert isinstance(outcome, Failed)
    assert payload(fake.pass_packet(packet(plain))) == b"hello"
