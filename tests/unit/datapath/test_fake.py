"""The fake by itself; that it behaves as the kernel does is tests/conformance."""

from __future__ import annotations

from chainrelay.datapath.fake import Drop, FakeBackend, Packet
from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Mapping, Remove
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol


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
