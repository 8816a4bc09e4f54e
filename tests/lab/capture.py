"""tcpdump on a host's interface into a file, and the UDP datagrams in it as values."""

from __future__ import annotations

import signal
import struct
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from chainrelay.wire.endpoint import Endpoint
from lab import wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lab.link import End

Direction = Literal["in", "out", "inout"]
FILE_HEADER, PACKET_HEADER, ETHERNET = 24, struct.Struct("<IIII"), 14
UDP = 17
FLAGS = ("-n", "-p", "-U", "--immediate-mode", "-B", "16384", "-s", "0", "-Z", "root")  # whole packets, written at once


@dataclass(frozen=True)
class Datagram:
    """One UDP datagram as it was on the wire."""

    source: Endpoint
    destination: Endpoint
    payload: bytes


class Capture:
    """A running tcpdump. `datagrams` can be read while it runs; `stop` checks that the kernel dropped none."""

    def __init__(self, end: End, expression: str = "udp", direction: Direction = "inout") -> None:
        self.frames: list[bytes] = []
        """After `stop`: all of it as it was on the wire, what is no UDP datagram included."""
        self._folder = tempfile.TemporaryDirectory(prefix="capture-")
        self._file, self._log = (Path(self._folder.name, name) for name in ("packets.pcap", "log"))
        with self._log.open("wb") as log, self._file.open("wb") as file:  # the file is here, wherever the host is
            command = ["tcpdump", "-i", end.name, "-Q", direction, *FLAGS, "-w", "-", expression]
            self._process = end.host.popen(command, stdout=file, stderr=log)
        wait.until(lambda: "listening on" in self._log.read_text(), f"tcpdump on {end.host.name}", 30)

    def datagrams(self) -> list[Datagram]:
        """What has been written so far."""
        return list(_datagrams(_frames(self._file.read_bytes())))

    def stop(self) -> list[Datagram]:
        """End tcpdump and return everything. Raises AssertionError when packets were lost before they were written."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        told = self._log.read_text()
        if "0 packets dropped by kernel" not in told:
            raise AssertionError(f"the capture is incomplete: {told}")
        self.frames = list(_frames(self._file.read_bytes()))
        self._folder.cleanup()
        return list(_datagrams(self.frames))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def _frames(pcap: bytes) -> Iterator[bytes]:
    at = FILE_HEADER
    while at + PACKET_HEADER.size <= len(pcap):
        length = PACKET_HEADER.unpack_from(pcap, at)[2]
        at += PACKET_HEADER.size
        frame = pcap[at : at + length]
        at += length
        if len(frame) == length:
            yield frame


def _datagrams(frames: Iterable[bytes]) -> Iterator[Datagram]:
    return (datagram for frame in frames if (datagram := _parse(frame)) is not None)


def _parse(frame: bytes) -> Datagram | None:
    """RFC 791, RFC 8200 and RFC 768; extension headers and fragments are nobody's here and come out as None."""
    kind, packet = frame[12:14], frame[ETHERNET:]
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    if kind == b"\x08\x00" and packet[9] == UDP and not int.from_bytes(packet[6:8]) & 0x3FFF:
        source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        udp = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4])]
    elif kind == b"\x86\xdd" and packet[6] == UDP:
        source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        udp = packet[40 : 40 + int.from_bytes(packet[4:6])]
    else:
        return None
    ports = struct.unpack("!HH", udp[:4])
    return Datagram(Endpoint(source, ports[0]), Endpoint(destination, ports[1]), udp[8:])
