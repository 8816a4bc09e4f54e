"""Numbered datagrams through a session, fast enough to fall into any gap, counted by the kernel behind the last relay's exit.

The sender is a thread of the test on the client's P1. What arrived is a counter in the server's prerouting hook, before any
socket; when it arrived comes from a capture of headers, from which the longest silence is read.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from lab import wait

if TYPE_CHECKING:
    from chainrelay.wire.endpoint import Endpoint
    from lab.link import End

RATE: Final = 20_000  # datagrams per second
BURST: Final = 20  # sent at once: 1 ms
SIZE: Final = 200  # octets
PCAP_HEADER, RECORD = 24, struct.Struct("<IIII")
SETTLE: Final = 5.0


@dataclass(frozen=True)
class Outcome:
    """What became of the traffic."""

    sent: int
    arrived: int
    seconds: float
    longest_gap: float
    """Seconds between two arrivals at the server."""
    longest_pause: float
    """Seconds between two sends: a gap of the sender's own making."""

    @property
    def lost(self) -> int:
        """Datagrams."""
        return self.sent - self.arrived

    @property
    def rate(self) -> float:
        """Datagrams per second."""
        return self.sent / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.sent} datagrams at {self.rate:.0f}/s, {self.lost} lost, longest gap {self.longest_gap * 1000:.1f} ms "
            f"(the sender's own longest pause {self.longest_pause * 1000:.1f} ms)"
        )


class Traffic:
    """Runs from entering to leaving the block; then `outcome` is there."""

    def __init__(self, client: End, server: End, local: Endpoint, entry: Endpoint, exit_: Endpoint, peer: Endpoint) -> None:
        self._client, self._server, self._entry = client, server, entry
        self._match = f"ip saddr {exit_.address} udp sport {exit_.port} udp dport {peer.port}"
        self._filter = f"udp and src port {exit_.port} and dst port {peer.port}"
        with client.host.enter():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind((str(local.address), local.port))
            self._socket.connect((str(entry.address), entry.port))
        with server.host.enter():  # without it the server's refusals (ICMP) come back; nobody reads it
            self._sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sink.bind((str(peer.address), peer.port))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, name="traffic")
        self._sent, self._pause, self._seconds = 0, 0.0, 0.0
        self._errors: list[OSError] = []
        self._folder = tempfile.TemporaryDirectory(prefix="traffic-")

    def __enter__(self) -> Self:
        rules = f"table inet traffic {{\n chain arrived {{\n  type filter hook prerouting priority raw; {self._match} counter\n }}\n}}\n"
        self._server.host.run(["nft", "-f", "-"], stdin=rules)
        log = Path(self._folder.name, "log")
        with log.open("wb") as file:
            self._tcpdump = self._server.host.popen(
                ["tcpdump", "-i", self._server.name, "-n", "-p", "-B", "65536", "-s", "48", "-Z", "root", "-w", self._pcap, self._filter],
                stderr=file,
            )  # fmt: skip
        wait.until(lambda: "listening on" in log.read_text(), "tcpdump", 10)
        self._start = time.monotonic()
        self._thread.start()
        return self

    def last(self, seconds: float) -> None:
        """Go on until the traffic has lasted so long: what comes after an event is looked at as well."""
        wait.until(lambda: time.monotonic() - self._start >= seconds, f"{seconds} s of traffic", seconds + 5)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()
        self._sink.close()
        with suppress(wait.WaitError):  # what is missing is the outcome's to tell
            wait.until(lambda: self._arrived() >= self._sent, "the last datagram", SETTLE)
        self._tcpdump.send_signal(signal.SIGINT)
        self._tcpdump.wait(20)
        self.outcome = Outcome(self._sent, self._arrived(), self._seconds, self._longest_gap(), self._pause)
        self._server.host.run(["nft", "delete", "table", "inet", "traffic"])
        self._folder.cleanup()
        if self._errors:
            raise AssertionError(f"sending failed {len(self._errors)} times: {self._errors[0]}")

    @property
    def _pcap(self) -> str:
        return str(Path(self._folder.name, "packets.pcap"))

    def _send(self) -> None:
        payload = bytearray(SIZE)
        start = before = self._start
        while not self._ended.is_set():
            for _ in range(BURST):
                struct.pack_into("!I", payload, 0, self._sent)
                try:
                    self._socket.send(payload)
                except OSError as error:
                    self._errors.append(error)
                self._sent += 1
            now = time.monotonic()
            self._pause, before = max(self._pause, now - before), now
            ahead = start + self._sent / RATE - now
            if ahead > 0:
                time.sleep(ahead)  # pacing
        self._seconds = time.monotonic() - start

    def _arrived(self) -> int:
        listed = json.loads(self._server.host.run(["nft", "-j", "list", "table", "inet", "traffic"]).stdout)["nftables"]
        expressions = [each for item in listed if "rule" in item for each in item["rule"]["expr"]]
        return next(int(each["counter"]["packets"]) for each in expressions if "counter" in each)

    def _longest_gap(self) -> float:
        data = Path(self._pcap).read_bytes()
        at, times = PCAP_HEADER, []
        while at + RECORD.size <= len(data):
            seconds, micros, kept, _length = RECORD.unpack_from(data, at)
            times.append(seconds + micros / 1e6)
            at += RECORD.size + kept
        return max((after - before for before, after in pairwise(times)), default=float("inf"))
