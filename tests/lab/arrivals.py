"""Datagrams of one flow where they arrive: counted in the kernel before any socket, and the longest silence between two of them.

    with Arrivals(row.server_end, exit_, port) as arrivals: …; arrivals.settles(sent); arrivals.longest_gap()

The count is a rule's and exact. The times come from a capture of headers, which may miss some under load and then tells a
longer silence than there was, never a shorter one.
"""

from __future__ import annotations

import json
import signal
import struct
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from lab import wait

if TYPE_CHECKING:
    from chainrelay.wire.endpoint import Endpoint
    from lab.link import End

PCAP_HEADER, RECORD = 24, struct.Struct("<IIII")
TABLE: Final = "arrivals"


class Arrivals:
    """Of what comes from `source` to UDP port `port` at `end`, while the block lasts; with `drop` no socket gets any of it."""

    def __init__(self, end: End, source: Endpoint, port: int, *, drop: bool = False) -> None:
        self._end, self._verdict = end, "drop" if drop else ""
        family = "ip" if source.family == 4 else "ip6"
        self._match = f"{family} saddr {source.address} udp sport {source.port} udp dport {port}"
        self._filter = f"udp and src port {source.port} and dst port {port}"
        self._folder = tempfile.TemporaryDirectory(prefix="arrivals-")
        self._pcap, self._log = Path(self._folder.name, "packets.pcap"), Path(self._folder.name, "log")

    def __enter__(self) -> Self:
        rule = f"type filter hook prerouting priority raw; {self._match} counter {self._verdict}\n"
        self._end.host.run(["nft", "-f", "-"], stdin=f"table inet {TABLE} {{\n chain arrived {{\n  {rule} }}\n}}\n")
        with self._log.open("wb") as log, self._pcap.open("wb") as pcap:
            self._tcpdump = self._end.host.popen(
                ["tcpdump", "-i", self._end.name, "-n", "-p", "-B", "65536", "-s", "48", "-Z", "root", "-w", "-", self._filter],
                stdout=pcap, stderr=log,
            )  # fmt: skip
        wait.until(lambda: "listening on" in self._log.read_text(), "tcpdump", 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._end.host.run(["nft", "delete", "table", "inet", TABLE])
        self._folder.cleanup()

    def count(self) -> int:
        """So far."""
        listed = json.loads(self._end.host.run(["nft", "-j", "list", "table", "inet", TABLE]).stdout)["nftables"]
        expressions = [each for item in listed if "rule" in item for each in item["rule"]["expr"]]
        return next(int(each["counter"]["packets"]) for each in expressions if "counter" in each)

    def settles(self, wanted: int, timeout: float = 5.0) -> int:
        """How many have come when `wanted` are there, or when the time is over."""
        with suppress(wait.WaitError):  # what is missing is for the caller to judge
            wait.until(lambda: self.count() >= wanted, "the last datagram", timeout)
        return self.count()

    def longest_gap(self) -> float:
        """Seconds between two arrivals. Ends the capture."""
        self._stop()
        data, at, times = self._pcap.read_bytes(), PCAP_HEADER, []
        while at + RECORD.size <= len(data):
            seconds, micros, kept, _length = RECORD.unpack_from(data, at)
            times.append(seconds + micros / 1e6)
            at += RECORD.size + kept
        return max((after - before for before, after in pairwise(times)), default=float("inf"))

    def _stop(self) -> None:
        if self._tcpdump.poll() is None:
            self._tcpdump.send_signal(signal.SIGINT)
            self._tcpdump.wait(30)
