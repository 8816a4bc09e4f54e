"""Frames by scapy, and scapy as the independent oracle: what a frame must look like after the program.

Nothing here shares code with the product: checksums are scapy's, computed from nothing.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

if TYPE_CHECKING:
    from chainrelay.datapath.mapping import Flow
    from chainrelay.wire.endpoint import Endpoint

from unit.ebpf.world import OUT, OWN, PEER, STRANGER


def mac(octets: bytes) -> str:
    """`02:00:…`."""
    return octets.hex(":")


def datagram(flow: Flow, payload: bytes = b"payload.", **header: Any) -> Packet:
    """A datagram as it arrives; `header` sets IP fields (`ttl` serves both families)."""
    frame = Ether(dst=mac(OWN), src=mac(STRANGER))
    return frame / _ip(flow.source, flow.destination, header) / _udp(flow.source, flow.destination) / Raw(payload)


def rewritten(flow: Flow, payload: bytes = b"payload.", **header: Any) -> Packet:
    """The same datagram as it must leave; `header` as given to `datagram`."""
    hops = int(header.pop("ttl", 64))
    frame = Ether(dst=mac(PEER), src=mac(OUT))
    network = _ip(flow.new_source, flow.new_destination, {**header, "ttl": hops - 1})
    return frame / network / _udp(flow.new_source, flow.new_destination) / Raw(payload)


def error(flow: Flow, kind: str = "too-big", router: str | None = None, **header: Any) -> Packet:
    """An ICMP error from beyond about a datagram that had left by `flow`, as it arrives at us."""
    quoted = rewritten(flow, b"q" * 64)
    quoted = type(quoted[1])(bytes(quoted[1])[: 28 + 20 if flow.source.family == 4 else 48 + 20])
    if flow.source.family == 4:
        icmp = {
            "too-big": ICMP(type=3, code=4, nexthopmtu=1280),
            "port": ICMP(type=3, code=3),
            "time": ICMP(type=11, code=0),
            "echo": ICMP(type=8),
        }[kind]
        outer: Packet = IP(src=router or "10.0.9.9", dst=str(flow.new_source.address), **header)
    else:
        icmp = {"too-big": ICMPv6PacketTooBig(mtu=1280), "port": ICMPv6DestUnreach(code=4)}[kind]
        header = {"hlim" if name == "ttl" else name: value for name, value in header.items()}
        outer = IPv6(src=router or "fd00:9::9", dst=str(flow.new_source.address), **header)
    return Ether(dst=mac(OWN), src=mac(STRANGER)) / outer / icmp / Raw(bytes(quoted))


def error_rewritten(flow: Flow, kind: str = "too-big") -> Packet:
    """The same error as the flow's own source must get it: from the endpoint it knows, about what it had sent."""
    quoted = rewritten(flow, b"q" * 64)
    quoted[1].src, quoted[1].dst = str(flow.source.address), str(flow.destination.address)
    quoted[UDP].sport, quoted[UDP].dport = flow.source.port, flow.destination.port
    quoted = type(quoted[1])(bytes(quoted[1])[: 28 + 20 if flow.source.family == 4 else 48 + 20])
    # the outer addresses: from our endpoint on that side, to the flow's source
    made = error(flow, kind)
    made[0].src, made[0].dst = mac(OUT), mac(PEER)
    made[1].src, made[1].dst = str(flow.destination.address), str(flow.source.address)
    if flow.source.family == 4:
        made[1].ttl = 63
    else:
        made[1].hlim = 63
    made[Raw].load = bytes(quoted)
    return made


def octets(packet: Packet) -> bytes:
    """The frame, all checksums that are not set by hand computed by scapy."""
    return bytes(packet)


def pseudo_sum(packet: Packet) -> int:
    """What a local socket leaves in the check field for hardware to finish: the pseudo-header's sum, not complemented."""
    ip, udp = packet[1], packet[UDP]
    addresses = ipaddress.ip_address(ip.src).packed + ipaddress.ip_address(ip.dst).packed
    length = 8 + len(bytes(udp.payload))
    total: int = sum(struct.unpack(f"!{len(addresses) // 2}H", addresses)) + 17 + length
    return (total - 1) % 65535 + 1


def _ip(source: Endpoint, destination: Endpoint, header: dict[str, Any]) -> Packet:
    if source.family == 4:
        return IP(src=str(source.address), dst=str(destination.address), **header)
    header = {"hlim" if name == "ttl" else name: value for name, value in header.items()}
    return IPv6(src=str(source.address), dst=str(destination.address), **header)


def _udp(source: Endpoint, destination: Endpoint) -> Packet:
    return UDP(sport=source.port, dport=destination.port)


__all__ = ["ICMP", "IP", "UDP", "Ether", "IPv6", "Raw", "datagram", "error", "error_rewritten", "octets", "rewritten"]
