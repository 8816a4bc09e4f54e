"""What each mode makes of a fast path that can or can't be had: the real backends over rules and maps in memory."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chainrelay.agent.fast_path import STATE, FastPathed, options_of
from chainrelay.config.agent import XdpConfig
from chainrelay.config.agent_keys import Xdp
from chainrelay.datapath.fake import FakeBackend
from chainrelay.datapath.mapping import Counters, Done, Install
from chainrelay.datapath.xdp import XdpBackend
from chainrelay.errors import DatapathError
from chainrelay.privileged.xdp_kernel import FastPath, FastPathOptions
from unit.datapath.fast_maps import Maps, mapping


@dataclass
class Loader:
    """Instead of the loader's process; `fault`: why it can't."""

    fault: str = ""
    maps: Maps = field(default_factory=lambda: Maps([]))
    calls: list[str] = field(default_factory=list)

    def load(self, options: FastPathOptions) -> FastPath:
        self.calls.append(f"load {options.mode}")
        if self.fault:
            raise DatapathError(self.fault)
        return FastPath(XdpBackend(self.maps), {"wan": {"mode": "generic", "why": "native: no"}})

    def unload(self, pins: Path) -> None:
        self.calls.append(f"unload {pins.name}")


def make(mode: Xdp, folder: Path, fault: str = "") -> tuple[FastPathed, Loader]:
    loader = Loader(fault)
    config = XdpConfig(mode, ("wan",), pins=folder / "bpf")
    return FastPathed(FakeBackend(clock=lambda: 0.0), config, loader.load, loader.unload), loader


@pytest.mark.parametrize("mode", [Xdp.AUTO, Xdp.NATIVE, Xdp.GENERIC])
def test_it_is_loaded_once_and_holds_sessions(mode: Xdp, tmp_path: Path) -> None:
    backend, loader = make(mode, tmp_path)
    backend.setup()
    backend.setup()
    assert backend.apply([Install(mapping(), 60)]) == [Done(Counters())]
    assert loader.calls == [f"load {mode.value}"]
    assert len(loader.maps.held) == 2
    assert json.loads((tmp_path / STATE).read_text()) == {"why": "", "interfaces": {"wan": {"mode": "generic", "why": "native: no"}}}


def test_off_removes_what_an_earlier_configuration_left(tmp_path: Path) -> None:
    backend, loader = make(Xdp.OFF, tmp_path)
    backend.setup()
    assert backend.apply([Install(mapping(), 60)]) == [Done(Counters())]
    assert (loader.calls, loader.maps.held) == (["unload bpf"], {})


def test_off_starts_although_it_may_not_look_at_the_pins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refused(pins: Path) -> None:
        raise DatapathError(f"{pins}: Permission denied")

    config = XdpConfig(Xdp.OFF, pins=tmp_path / "bpf")
    backend = FastPathed(FakeBackend(clock=lambda: 0.0), config, unload=refused)
    backend.setup()
    assert backend.apply([Install(mapping(), 60)]) == [Done(Counters())]
    assert "Permission denied" in caplog.text


def test_auto_goes_on_with_the_rules_and_says_why_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend, loader = make(Xdp.AUTO, tmp_path, "no compiler")
    with caplog.at_level(logging.INFO):
        backend.setup()
    assert backend.apply([Install(mapping(), 60)]) == [Done(Counters())]
    assert [record.getMessage() for record in caplog.records] == ["fast path (auto): off, the rules carry everything: no compiler"]
    assert loader.calls == ["load auto", "unload bpf"]
    assert json.loads((tmp_path / STATE).read_text())["why"] == "no compiler"


@pytest.mark.parametrize("mode", [Xdp.NATIVE, Xdp.GENERIC])
def test_who_insists_gets_an_error_with_the_key_and_what_to_do(mode: Xdp, tmp_path: Path) -> None:
    backend, loader = make(mode, tmp_path, "no compiler")
    with pytest.raises(DatapathError, match=f'agent.toml:datapath.xdp: "{mode.value}".*no compiler.*"auto"'):
        backend.setup()
    assert loader.calls == [f"load {mode.value}"]


def test_flush_takes_it_away_and_setup_brings_it_back(tmp_path: Path) -> None:
    backend, loader = make(Xdp.NATIVE, tmp_path)
    backend.setup()
    backend.flush_own()
    assert not (tmp_path / STATE).exists()
    backend.setup()
    assert loader.calls == ["load native", "unload bpf", "load native"]


def test_room_is_two_entries_a_session(tmp_path: Path) -> None:
    options = options_of(XdpConfig(Xdp.AUTO, ("wan",), 5, tmp_path / "bpf"))
    assert (options.flows, options.interfaces, options.log) == (10, ("wan",), tmp_path / "xdp.log")
