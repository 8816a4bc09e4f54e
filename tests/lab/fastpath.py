"""Firewalls of a row with the fast path in front of their rules, and one session's mappings along the row.

The loader is the real process, run on the host; backends are opened inside the host's network namespace. A test that means
the fast path asks `fast_only`, which fails when the rules carried something.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from chainrelay.datapath.mapping import Counters, Done, Install, Mapping, Remove
from chainrelay.datapath.nft_backend import NftBackend
from chainrelay.datapath.ruleset import Firewall as Policy
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.datapath.stack import Stack
from chainrelay.datapath.xdp import XdpBackend
from chainrelay.datapath.xdp_layout import Verdict
from chainrelay.privileged.kernel import LinuxKernel
from chainrelay.privileged.xdp_kernel import LOADER_TIMEOUT, XdpKernel
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from lab.row import Firewall, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chainrelay.datapath.xdp_entries import Way
    from chainrelay.wire.endpoint import Address
    from lab.host import Namespace

LEASE = 60.0


def mappings_along(row: Row, family: int, port: int) -> list[Mapping]:
    """The mappings of one session, from the first firewall on: P1 and P6 have `port`, the relays' ports go with it."""
    client = Endpoint(row.client_end.address(family), port)
    server = Endpoint(row.server_end.address(family), port)
    sides = [
        (Endpoint(each.left.address(family), 15000 + port), Endpoint(each.right.address(family), 15001 + port))
        for each in row.firewalls
    ]
    points = [client, *itertools.chain.from_iterable(sides), server]
    return [
        Mapping(port.to_bytes(16, "big"), Protocol.UDP, 1, *points[2 * at : 2 * at + 4]) for at in range(len(row.firewalls))
    ]


class Pins:
    """A folder for the loader's bpffs and log, gone at the end with everything pinned in it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chainrelay-")
        self.path, self.log = Path(self._folder.name, "bpf"), Path(self._folder.name, "log")

    def load(self, host: Namespace, interfaces: Sequence[str], *options: str, check: bool = True) -> dict[str, Any]:
        """Run the loader on the host; its report, or {"error": text} when not `check`."""
        done = host.run(
            [
                sys.executable, "-m", "chainrelay.privileged.xdp_load",
                "--pins", str(self.path), "--log", str(self.log), "--flows", "4096", "--hops", "64",
                *options, *interfaces,
            ],
            check=False,
            timeout=LOADER_TIMEOUT,
        )  # fmt: skip
        words = self.log.read_text() if self.log.exists() else ""
        assert done.returncode == 0 or not check, f"{done.stderr}\n{words[-3000:]}"
        report: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
        return report

    def close(self) -> None:
        """Unmount and delete."""
        subprocess.run(["umount", "-q", str(self.path)], check=False)
        self._folder.cleanup()


class Fast:
    """One firewall with rules and fast path."""

    def __init__(self, firewall: Firewall, mode: str, flows: int = 4096) -> None:
        self.firewall, self.host = firewall, firewall.host
        self.interfaces = (firewall.left.name, firewall.right.name)
        with ExitStack() as stack:
            self.pins = Pins()
            stack.callback(self.pins.close)
            self.report = self.pins.load(self.host, self.interfaces, "--mode", mode, "--flows", str(flows))
            self.folder = Path(self.report["folder"])
            with self.host.enter():
                self.rules = NftBackend(Ruleset(Policy.GUEST), LinuxKernel())
                self.kernel = XdpKernel(self.folder)
                self.fast = XdpBackend(self.kernel)
                self.backend = Stack(self.rules, self.fast)
                stack.callback(self.backend.close)
                self.backend.setup()
            self._stack = stack.pop_all()

    def verdict(self, verdict: Verdict) -> int:
        """How often so far."""
        return self.fast.verdicts()[verdict]

    def way(self, address: Address) -> Way:
        """The way to a partner as it is now."""
        return self.kernel.ways([address])[address][1]

    def ready(self, mapping: Mapping) -> bool:
        """Whether both neighbours of the mapping are resolved."""
        ends = (mapping.client_partner, mapping.server_partner)
        return all(self.way(end.address).ready for end in ends)

    def close(self) -> None:
        """Handles and pins; the host closes itself."""
        self._stack.close()


class FastRow:
    """A row whose firewalls all have the fast path. Close it, or use it in `with`."""

    def __init__(self, hops: int, mode: str = "native", families: tuple[int, ...] = (4, 6), mtu: int = 1500, flows: int = 4096) -> None:
        with ExitStack() as stack:
            self.row = Row(hops, families, gro=True, tx_checksum=mode == "native", mtu=mtu)
            stack.callback(self.row.close)
            self.firewalls: list[Fast] = []
            for firewall in self.row.firewalls:
                self.firewalls.append(Fast(firewall, mode, flows))
                stack.callback(self.firewalls[-1].close)
            self._stack = stack.pop_all()

    def session(self, family: int, port: int = 5000) -> list[Mapping]:
        """See mappings_along."""
        return mappings_along(self.row, family, port)

    def install(self, mappings: Sequence[Mapping], lease: float = LEASE) -> None:
        """At every firewall, from the last to the first."""
        for fast, mapping in reversed(list(zip(self.firewalls, mappings, strict=True))):
            assert fast.backend.apply([Install(mapping, lease)]) == [Done(Counters())]

    def remove(self, mappings: Sequence[Mapping]) -> None:
        """At every firewall."""
        for fast, mapping in zip(self.firewalls, mappings, strict=True):
            outcome = fast.backend.apply([Remove(mapping)])
            assert isinstance(outcome[0], Done)

    def fast_only(self, mappings: Sequence[Mapping], each_way: int) -> None:
        """The fast path of every firewall carried `each_way` datagrams in both directions, the rules none."""
        for fast, mapping in zip(self.firewalls, mappings, strict=True):
            counted = fast.fast.counters([mapping])[0]
            assert (counted.to_server_packets, counted.to_client_packets) == (each_way, each_way), fast.fast.verdicts()
            assert fast.rules.counters([mapping]) == [Counters()], fast.fast.verdicts()

    def close(self) -> None:
        """Everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
