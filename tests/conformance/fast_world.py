"""The kernel's world with the fast path in front of the rules: every scenario must come out the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainrelay.datapath.stack import Stack
from chainrelay.datapath.xdp import XdpBackend
from chainrelay.privileged.xdp_kernel import XdpKernel
from chainrelay.wire.messages import Protocol
from conformance.world import KernelWorld, LegacyWorld
from lab.fastpath import Pins

if TYPE_CHECKING:
    from pathlib import Path

    from chainrelay.datapath.mapping import Mapping


class FastWorld(KernelWorld):
    """A relay with XDP on both interfaces."""

    mode = "native"

    def __init__(self, family: int) -> None:
        super().__init__(family)
        self.pins = Pins()
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        interfaces = (self.relay.left.name, self.relay.right.name)
        ends = (self.row.client_end, self.row.server_end)
        for end in ends:  # redirected frames need NAPI at the far end; generic XDP needs whole checksums
            end.host.run(["ethtool", "-K", end.name, "gro", "on", "tx", "on" if self.mode == "native" else "off"])
        report = self.pins.load(self.relay.host, interfaces, "--mode", self.mode)
        folder: Path = self.pins.path / f"v{report['layout']}"
        with self.relay.host.enter():
            self.fast = XdpBackend(XdpKernel(folder))
            self.backend = Stack(self.backend, self.fast)
            self.setup()

    def known(self, mapping: Mapping) -> int:
        """What the fast path carries conntrack does not see; it knows a connection by its entry."""
        listed = {(flow.source, flow.destination) for flow in self.fast.flows()}
        fast = sum((to_server.source, to_server.destination) in listed for to_server, _ in mapping.flows())
        return super().known(mapping) + (fast if mapping.protocol is Protocol.UDP else 0)

    def close(self) -> None:
        super().close()
        self.pins.close()


class NativeWorld(FastWorld):
    """In the driver."""


class NativeLegacyWorld(FastWorld, LegacyWorld):
    """In the driver, in front of the legacy tables."""


class GenericWorld(FastWorld):
    """In the stack's entrance."""

    mode = "generic"
