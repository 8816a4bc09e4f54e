"""relay.c packet by packet: verdict, action, octets. Every refusal is one mutation of a datagram that is forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Padding, Raw

from chainrelay.datapath.xdp_entries import held_of, key_of
from chainrelay.datapath.xdp_layout import Verdict
from unit.ebpf import frames
from unit.ebpf.world import CASES, STRANGER, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from scapy.packet import Packet

pytestmark = pytest.mark.root

PASS, REDIRECT = 2, 4
FAMILIES = pytest.mark.parametrize("family", [4, 6])
MODES = pytest.mark.parametrize("mode", ["native", "generic"])


def forwarded(world: World, frame: bytes, mode: str = "native") -> bytes:
    """The frame after the program, which must have redirected it."""
    verdict, action, after = world.run(frame, mode)
    assert (verdict, action) == (Verdict.FORWARDED, REDIRECT)
    return after


def went_up(world: World, frame: Packet | bytes, expected: Verdict, mode: str = "native") -> None:
    """The frame goes up to the stack as it came."""
    given = bytes(frame)
    assert world.run(given, mode) == (expected, PASS, given)


@MODES
@FAMILIES
@pytest.mark.parametrize("direction", ["good", "good-back"])
@pytest.mark.parametrize("size", [0, 1, 22, 23, 512, 1400])
def test_datagram_leaves_with_the_new_tuple(world: World, family: int, direction: str, size: int, mode: str) -> None:
    flow = CASES[family][direction].flow
    payload = bytes(number % 251 for number in range(size))
    after = forwarded(world, frames.octets(frames.datagram(flow, payload)), mode)
    assert after == frames.octets(frames.rewritten(flow, payload))


def test_dscp_ecn_identification_and_df_stay(world: World) -> None:
    flow = CASES[4]["good"].flow
    kept: dict[str, Any] = {"tos": 0xB9, "id": 0x4321, "flags": "DF", "ttl": 2}
    after = forwarded(world, frames.octets(frames.datagram(flow, **kept)))
    assert after == frames.octets(frames.rewritten(flow, **kept))


def test_traffic_class_and_flow_label_stay(world: World) -> None:
    flow = CASES[6]["good"].flow
    kept: dict[str, Any] = {"tc": 0xB9, "fl": 0xABCDE, "ttl": 2}
    after = forwarded(world, frames.octets(frames.datagram(flow, **kept)))
    assert after == frames.octets(frames.rewritten(flow, **kept))


def test_udp_checksum_zero_stays_zero(world: World) -> None:
    flow = CASES[4]["good"].flow
    given, wanted = frames.datagram(flow), frames.rewritten(flow)
    given[UDP].chksum = wanted[UDP].chksum = 0
    assert forwarded(world, frames.octets(given)) == frames.octets(wanted)


@FAMILIES
def test_a_sum_of_zero_leaves_as_ffff(world: World, family: int) -> None:
    flow = CASES[family]["good"].flow
    bare = Ether(frames.octets(frames.rewritten(flow, bytes(2))))[UDP].chksum
    payload = bare.to_bytes(2, "big")  # with this payload the sum becomes 0, which is sent as 0xffff (RFC 768)
    after = forwarded(world, frames.octets(frames.datagram(flow, payload)))
    assert Ether(after)[UDP].chksum == 0xFFFF
    assert after == frames.octets(frames.rewritten(flow, payload))


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 63, 64, 1399, 1400, 1452])
def test_native_completes_a_partial_checksum(world: World, family: int, size: int) -> None:
    flow = CASES[family]["good"].flow
    payload = bytes((7 * number + 3) % 256 for number in range(size))
    given = frames.datagram(flow, payload)
    given[UDP].chksum = frames.pseudo_sum(given)
    assert forwarded(world, frames.octets(given)) == frames.octets(frames.rewritten(flow, payload))


@FAMILIES
def test_generic_leaves_a_partial_checksum_to_the_stack(world: World, family: int) -> None:
    given = frames.datagram(CASES[family]["good"].flow)
    given[UDP].chksum = frames.pseudo_sum(given)
    went_up(world, given, Verdict.PARTIAL_CHECKSUM, "generic")


@FAMILIES
def test_a_wrong_checksum_stays_wrong(world: World, family: int) -> None:
    flow = CASES[family]["good"].flow
    right = Ether(frames.octets(frames.datagram(flow)))[UDP].chksum
    given = frames.datagram(flow)
    given[UDP].chksum = right ^ 0x0101
    after = Ether(forwarded(world, frames.octets(given)))
    assert after[UDP].chksum != Ether(frames.octets(frames.rewritten(flow)))[UDP].chksum


def test_padding_behind_the_packet_is_not_part_of_it(world: World) -> None:
    flow = CASES[4]["good"].flow
    given = frames.octets(frames.datagram(flow, b"x")) + b"\xaa" * 20
    assert forwarded(world, given) == frames.octets(frames.rewritten(flow, b"x")) + b"\xaa" * 20


def _set(layer: type[Packet], **fields: object) -> Callable[[Packet], Packet]:
    def change(frame: Packet) -> Packet:
        for name, value in fields.items():
            setattr(frame[layer], name, value)
        return frame

    return change


MUTATIONS4: dict[str, tuple[Callable[[Packet], Packet | bytes], Verdict]] = {
    "options": (_set(IP, options=[b"\x01\x01\x01\x00"]), Verdict.OPTIONS),
    "first fragment": (_set(IP, flags="MF"), Verdict.FRAGMENT),
    "later fragment": (_set(IP, frag=100), Verdict.FRAGMENT),
    "tcp": (_set(IP, proto=6), Verdict.OTHER_PROTOCOL),
    "source port": (_set(UDP, sport=4999), Verdict.NO_SESSION),
    "destination port": (_set(UDP, dport=20002), Verdict.NO_SESSION),
    "source address": (_set(IP, src="10.0.0.9"), Verdict.NO_SESSION),
    "destination address": (_set(IP, dst="10.0.0.9"), Verdict.NO_SESSION),
    "ttl 1": (_set(IP, ttl=1), Verdict.TTL_ENDS),
    "ttl 0": (_set(IP, ttl=0), Verdict.TTL_ENDS),
    "another station": (_set(Ether, dst=frames.mac(STRANGER)), Verdict.OTHER_STATION),
    "broadcast frame": (_set(Ether, dst="ff:ff:ff:ff:ff:ff"), Verdict.OTHER_STATION),
    "udp length short": (_set(UDP, len=8), Verdict.MALFORMED),
    "udp length long": (_set(UDP, len=2000), Verdict.MALFORMED),
    "ip length long": (_set(IP, len=2000), Verdict.MALFORMED),
    "ip length short": (_set(IP, len=27), Verdict.MALFORMED),
    "version": (_set(IP, version=5), Verdict.MALFORMED),
    "header length": (_set(IP, ihl=4), Verdict.MALFORMED),
}  # fmt: skip

MUTATIONS6: dict[str, tuple[Callable[[Packet], Packet | bytes], Verdict]] = {
    "hop-by-hop": (lambda frame: _behind(frame, IPv6ExtHdrHopByHop()), Verdict.OPTIONS),
    "destination options": (lambda frame: _behind(frame, IPv6ExtHdrDestOpt()), Verdict.OPTIONS),
    "fragment": (lambda frame: _behind(frame, IPv6ExtHdrFragment(m=1)), Verdict.FRAGMENT),
    "tcp": (_set(IPv6, nh=6), Verdict.OTHER_PROTOCOL),
    "source port": (_set(UDP, sport=4999), Verdict.NO_SESSION),
    "destination port": (_set(UDP, dport=20002), Verdict.NO_SESSION),
    "source address": (_set(IPv6, src="fd00::9"), Verdict.NO_SESSION),
    "destination address": (_set(IPv6, dst="fd00::9"), Verdict.NO_SESSION),
    "hop limit 1": (_set(IPv6, hlim=1), Verdict.TTL_ENDS),
    "hop limit 0": (_set(IPv6, hlim=0), Verdict.TTL_ENDS),
    "another station": (_set(Ether, dst=frames.mac(STRANGER)), Verdict.OTHER_STATION),
    "no checksum": (_set(UDP, chksum=0), Verdict.NO_CHECKSUM),
    "udp length short": (_set(UDP, len=8), Verdict.MALFORMED),
    "udp length long": (_set(UDP, len=2000), Verdict.MALFORMED),
    "ip length long": (_set(IPv6, plen=2000), Verdict.MALFORMED),
    "ip length short": (_set(IPv6, plen=7), Verdict.MALFORMED),
    "version": (_set(IPv6, version=5), Verdict.MALFORMED),
}


def _behind(frame: Packet, header: Packet) -> Packet:
    made = frame[Ether].copy()
    made.remove_payload()
    network = frame[IPv6].copy()
    network.remove_payload()
    return made / network / header / frame[UDP]


@MODES
@pytest.mark.parametrize("mutation", MUTATIONS4)
def test_odd_ipv4_goes_up_untouched(world: World, mutation: str, mode: str) -> None:
    change, expected = MUTATIONS4[mutation]
    went_up(world, change(frames.datagram(CASES[4]["good"].flow)), expected, mode)


@MODES
@pytest.mark.parametrize("mutation", MUTATIONS6)
def test_odd_ipv6_goes_up_untouched(world: World, mutation: str, mode: str) -> None:
    change, expected = MUTATIONS6[mutation]
    went_up(world, change(frames.datagram(CASES[6]["good"].flow)), expected, mode)


@FAMILIES
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ended", Verdict.LEASE_ENDED),
        ("elsewhere", Verdict.OTHER_INTERFACE),
        ("station", Verdict.OTHER_STATION),
        ("unresolved", Verdict.NO_NEXT_HOP),
        ("outside", Verdict.NO_NEXT_HOP),
        ("no exit", Verdict.NO_NEXT_HOP),
    ],
)
def test_a_flow_that_can_not_go_now_goes_up(world: World, family: int, name: str, expected: Verdict) -> None:
    went_up(world, frames.datagram(CASES[family][name].flow), expected)
    went_up(world, frames.error(CASES[family][f"{name}-back"].flow), expected)


@FAMILIES
def test_what_the_way_out_can_not_take_goes_up(world: World, family: int) -> None:
    flow = CASES[family]["narrow"].flow
    fits = 600 - (28 if family == 4 else 48)
    forwarded(world, frames.octets(frames.datagram(flow, bytes(fits))))
    went_up(world, frames.datagram(flow, bytes(fits + 1)), Verdict.TOO_LARGE)


def test_every_truncation_goes_up(world: World) -> None:
    for family in (4, 6):
        whole = frames.octets(frames.datagram(CASES[family]["good"].flow))
        for length in range(14, len(whole)):
            went_up(world, whole[:length], Verdict.MALFORMED)


@FAMILIES
def test_vlan_tags_go_up(world: World, family: int) -> None:
    octets = frames.octets(frames.datagram(CASES[family]["good"].flow))
    went_up(world, octets[:12] + bytes.fromhex("81000005") + octets[12:], Verdict.NOT_IP)


def test_other_frames_go_up(world: World) -> None:
    went_up(world, Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(), Verdict.NOT_IP)
    went_up(world, Ether(dst=frames.mac(STRANGER), type=0x88CC) / Raw(bytes(60)), Verdict.NOT_IP)


@MODES
@FAMILIES
@pytest.mark.parametrize("direction", ["good", "good-back"])
@pytest.mark.parametrize("kind", ["too-big", "port", "time"])
def test_icmp_error_is_translated_from_the_quote(
    world: World, family: int, direction: str, kind: str, mode: str
) -> None:
    if family == 6 and kind == "time":
        kind = "too-big"
    flow = CASES[family][direction].flow
    verdict, action, after = world.run(frames.octets(frames.error(flow, kind)), mode)
    assert (verdict, action) == (Verdict.ICMP_TRANSLATED, REDIRECT)
    assert after == frames.octets(frames.error_rewritten(flow, kind))


def test_icmp_that_is_not_about_us_goes_up(world: World) -> None:
    flow = CASES[4]["good"].flow
    went_up(world, frames.error(flow, "echo"), Verdict.ICMP_OTHER)
    for change in (
        _set(IP, dst="10.0.1.77"),  # the error is not for who sent the quoted datagram
        _set(IP, len=20 + 8 + 27),  # cut inside the quote
        _set(ICMP, type=5),  # redirect
    ):
        went_up(world, change(frames.error(flow)), Verdict.ICMP_OTHER)
    for at, value in ((0, 0x46), (0, 0x65), (7, 0x10), (9, 6), (20, 0), (23, 1)):
        given = frames.error(flow)
        quote = bytearray(given[Raw].load)
        quote[at] = value
        given[Raw].load = bytes(quote)
        went_up(world, given, Verdict.ICMP_OTHER)
    went_up(world, frames.error(flow, ttl=1), Verdict.TTL_ENDS)


def test_icmpv6_that_is_not_about_us_goes_up(world: World) -> None:
    flow = CASES[6]["good"].flow
    for at, value in ((0, 0x45), (6, 6), (40, 0), (43, 1), (8 + 15, 0x77)):
        given = frames.error(flow)
        quote = bytearray(given[Raw].load)
        quote[at] = value
        given[Raw].load = bytes(quote)
        went_up(world, given, Verdict.ICMP_OTHER)
    went_up(world, frames.error(flow, ttl=1), Verdict.TTL_ENDS)


@FAMILIES
def test_counters_hold_packets_and_ip_octets_of_what_was_forwarded(world: World, family: int) -> None:
    flow = CASES[family]["good"].flow
    given = frames.octets(frames.datagram(flow, bytes(10)) / Padding(bytes(6)))
    for _ in range(3):
        forwarded(world, given)
    went_up(world, frames.datagram(flow, ttl=1), Verdict.TTL_ENDS)
    key = key_of(flow.source, flow.destination)
    value = world.flows[family].lookup(key)
    assert value is not None
    held = held_of(value)
    assert (held.packets, held.octets) == (3, 3 * ((28 if family == 4 else 48) + 10))
