"""The rules with the fast path in front of them as far as the configuration wants it and the host can: one `Backend`.

Decides what a failure means. Under "auto" the rules carry everything and one line of the log says why; under "native" and
"generic" `setup` raises, so that the daemon doesn't start. How the fast path comes to run is privileged/xdp_kernel.py's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from chainrelay.config.agent import XdpConfig
from chainrelay.config.agent_keys import Xdp
from chainrelay.datapath.backend import Backend
from chainrelay.datapath.mapping import Counters, LiveFlow, Mapping, Operation, Outcome
from chainrelay.datapath.stack import Stack
from chainrelay.datapath.xdp import XdpBackend
from chainrelay.errors import DatapathError
from chainrelay.limits import FAST_PATH_PARTNERS
from chainrelay.privileged.addresses import interfaces_with_addresses
from chainrelay.privileged.xdp_kernel import FastPath, FastPathOptions, open_fast_path, unload_fast_path
from chainrelay.privileged.xdp_state import FastPathState, read_state

log = logging.getLogger("chainrelay.xdp")

STATE: Final = "xdp.json"
"""Beside the pins: what was chosen at the last start and why, for `--print-datapath`."""


class FastPathed:
    """`Backend`. The fast path is loaded by `setup` and removed by `flush_own`; between them it outlives the process."""

    def __init__(
        self,
        rules: Backend,
        config: XdpConfig,
        load: Callable[[FastPathOptions], FastPath] = open_fast_path,
        unload: Callable[[Path], None] = unload_fast_path,
    ) -> None:
        self._rules, self._config = rules, config
        self._load, self._unload = load, unload
        self._fast: XdpBackend | None = None
        self._backend: Backend = rules

    def setup(self) -> None:
        """Rules first: a host that can't have them gets no program either. What an earlier process left is taken over, or removed."""
        self._rules.setup()
        if self._fast is None and (fast := self._start()) is not None:
            self._fast, self._backend = fast, Stack(self._rules, fast)
        if self._fast is not None:
            self._fast.setup()

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """See Stack."""
        return self._backend.apply(operations)

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """See Stack."""
        return self._backend.counters(mappings)

    def flows(self) -> list[LiveFlow]:
        """See Stack."""
        return self._backend.flows()

    def intact(self) -> bool:
        """See Stack."""
        return self._backend.intact()

    def seals(self) -> bool:
        """See Stack."""
        return self._backend.seals()

    def flush_own(self) -> None:
        """Programs, maps and pins first, then the rules."""
        if self._fast is not None:
            self._fast.close()
        self._fast, self._backend = None, self._rules
        self._unload(self._config.pins)
        self._state.unlink(missing_ok=True)
        self._rules.flush_own()

    def close(self) -> None:
        """The kernel's state stays."""
        self._backend.close()

    @property
    def _state(self) -> Path:
        return self._config.pins.with_name(STATE)

    def _start(self) -> XdpBackend | None:
        """The fast path, or None when the rules are to carry everything. Raises DatapathError when the configuration insists."""
        mode = self._config.mode
        if mode is Xdp.OFF:
            self._clear()
            return None
        try:
            opened = self._load(options_of(self._config))
        except DatapathError as fault:
            if mode is not Xdp.AUTO:
                advice = 'mend that, or write "auto" or "off": the rules carry everything then'
                raise DatapathError(f'agent.toml:datapath.xdp: "{mode.value}" can\'t be had: {fault}; {advice}') from fault
            log.warning("fast path (auto): off, the rules carry everything: %s", fault)
            self._clear()
            self._remember(str(fault), {})
            return None
        self._remember("", opened.interfaces)
        return opened.backend

    def _clear(self) -> None:
        """Remove what an earlier configuration or version left: its entries would outlive their sessions."""
        try:
            self._unload(self._config.pins)
        except DatapathError as fault:
            log.warning("what an earlier fast path may have left stays until its leases end: %s", fault)

    def _remember(self, why: str, interfaces: dict[str, dict[str, str]]) -> None:
        try:
            self._state.write_text(json.dumps({"why": why, "interfaces": interfaces}), encoding="utf-8")
        except OSError as fault:
            log.warning("%s: %s; --print-datapath can't tell reasons", self._state, fault.strerror)


def state_of(config: XdpConfig) -> FastPathState:
    """What runs now, and what the last start said about it. Raises DatapathError."""
    try:
        said = json.loads(config.pins.with_name(STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = {"why": "", "interfaces": {}}
    reasons = {name: state["why"] for name, state in said["interfaces"].items()}
    interfaces = () if config.mode is Xdp.OFF else options_of(config).interfaces
    return read_state(config.mode.value, interfaces, config.pins, said["why"], reasons)


def options_of(config: XdpConfig) -> FastPathOptions:
    """As the loader is asked."""
    interfaces = config.interfaces or interfaces_with_addresses()
    log_file = config.pins.with_name("xdp.log")
    return FastPathOptions(config.mode.value, interfaces, config.pins, log_file, 2 * config.sessions, FAST_PATH_PARTNERS)
