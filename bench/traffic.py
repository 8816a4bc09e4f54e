"""Offering and counting datagrams at the rate of the kernel: live XDP frames in, a counting sink at the far end.

A frame enters at the client's interface as if its driver had received nothing else; the sink counts what really arrives. bcc is
imported here: the benchmark's process may be large, the agent's may not.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from chainrelay.privileged import xdp_attach
from chainrelay.privileged.xdp_attach import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chainrelay.wire.endpoint import Endpoint
    from lab.link import End

ROOT: Final = Path(__file__).resolve().parents[1]
SYS_BPF, PROG_TEST_RUN, LIVE_FRAMES = 321, 10, 2
PER_PORT: Final = 50_000  # sessions that share a destination port unless a row says otherwise
SAMPLES: Final = 8_192  # probes that traffic.c remembers
BURST: Final = 64
WORK: Final = struct.Struct("=64sIIIIII")

_libc = ctypes.CDLL(None, use_errno=True)


def module(*defines: str) -> Any:  # noqa: ANN401 - bcc has no types
    """bench/bpf/traffic.c, compiled."""
    os.environ["BCC_KERNEL_SOURCE"] = str(ROOT / "ebpf" / "shim")
    from bcc import BPF

    flags = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu", *(f"-D{each}" for each in defines)]
    return BPF(src_file=str(ROOT / "bench" / "bpf" / "traffic.c"), cflags=flags)


@cache
def shared() -> Any:  # noqa: ANN401
    """Generator and sink of all rows: only one of them is measured at a time."""
    return module("LINES=0")


def attach(end: End, descriptor: int, mode: Mode = Mode.NATIVE) -> None:
    """A program of the benchmark on an interface of the lab."""
    with end.host.enter():
        xdp_attach.attach(xdp_attach.interface_index(end.name), descriptor, mode)


def index(end: End) -> int:
    """The interface's number."""
    with end.host.enter():
        return xdp_attach.interface_index(end.name)


def mac(end: End) -> str:
    """The interface's address."""
    return str(json.loads(end.host.run(["ip", "-j", "link", "show", "dev", end.name]).stdout)[0]["address"])


@dataclass(frozen=True)
class Measured:
    """One window."""

    offered: int
    arrived: int
    delivered: float
    """Per second, between the first arrival and the last."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Before everything else on this core but the relays in user space (proxies.py), so that other work there doesn't count."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Traffic:
    """One client interface, one sink, datagrams over one or more sessions, all sizes."""

    def __init__(
        self,
        near: End,
        far: End,
        source: Endpoint,
        to: Endpoint,
        gate: str,
        *,
        sessions: int = 1,
        per_port: int = PER_PORT,
        payload: Callable[[int], bytes] = bytes,
        burst: int = BURST,
        first: int = 50_000,
        summed: bool = True,
    ) -> None:
        """`gate`: the MAC of the first hop; `payload` makes so many octets; `burst`: frames that are in flight together;
        `first`: frames of the first window, which tells how many the others need; `summed`: with a UDP sum, which only holds
        while no hop changes the payload: pages come back as they were left."""
        self._near, self._source, self._to, self._gate, self._sessions = near, source, to, gate, sessions
        self._per_port = per_port
        self._payload, self._burst, self._first, self._summed = payload, burst, first, summed
        self._rates: dict[int, float] = {}
        self._module = shared()
        self._generate = self._module.load_func("generate", self._module.XDP).fd
        self._probe = self._module.load_func("probe", self._module.XDP).fd
        attach(far, self._module.load_func("sink", self._module.XDP).fd)

    def measure(self, seconds: float, size: int = 64) -> Measured:
        """Offer frames of `size` octets for about so long, at least one a session, and count what arrives. One system call: its ends
        wait for RCU."""
        offered = max(self._first, self._sessions, int(self._rates.get(size, 0) * seconds))
        table = self._module["arrived"]
        table.clear()
        self._send(self._generate, offered, size, self._burst)
        cpus = list(table[0])
        count = sum(each.count for each in cpus)
        if count < self._first // 10:
            return Measured(offered, count, 0.0)
        first = min(each.first_ns for each in cpus if each.count)
        last = max(each.last_ns for each in cpus if each.count)
        self._rates[size] = sum(each.count_at_last for each in cpus) * 1e9 / (last - first)
        return Measured(offered, count, self._rates[size])

    def latencies(self, count: int, size: int = 64) -> list[int]:
        """Nanoseconds from the client's interface to the sink, of up to `count` datagrams one after the other, sorted."""
        for name in ("sent", "probes"):
            self._module[name].clear()
        self._send(self._probe, min(count, SAMPLES), size, 1)
        arrived = self._module["probes"][0].value
        took = self._module["took"]
        return sorted(took[place].value for place in range(min(arrived, SAMPLES)))

    def _frame(self, size: int) -> tuple[bytes, int]:
        """Session 0's frame and the length of its headers."""
        headers = 42 if self._source.family == 4 else 62
        network = IP if self._source.family == 4 else IPv6
        frame = (
            Ether(dst=self._gate, src=mac(self._near))
            / network(src=str(self._source.address), dst=str(self._to.address))
            / UDP(sport=self._source.port, dport=self._to.port, **({} if self._summed else {"chksum": 0}))
            / Raw(self._payload(max(0, size - headers)))
        )
        return bytes(frame).ljust(64, b"\0"), headers

    def _send(self, program: int, count: int, size: int, burst: int) -> None:
        frame, headers = self._frame(size)
        work = WORK.pack(frame[:headers], headers, self._sessions, index(self._near), self._source.port, self._to.port, self._per_port)
        table = self._module["work"]
        table[table.Key(0)] = table.Leaf.from_buffer_copy(work)
        data = ctypes.create_string_buffer(frame, len(frame))
        attributes = struct.pack(
            "=IIIIQQIIIIQQIIII",
            program, 0, len(frame), 0, ctypes.addressof(data), 0, count, 0, 0, 0, 0, 0, LIVE_FRAMES, 0, burst, 0,
        )  # fmt: skip
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        with self._near.host.enter(), undisturbed():
            failed = _libc.syscall(SYS_BPF, PROG_TEST_RUN, buffer, len(attributes)) < 0
        if failed:
            number = ctypes.get_errno()
            raise OSError(number, f"live frames: {os.strerror(number)}")
