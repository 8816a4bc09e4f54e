"""What is told of a fast path that runs, or does not. How agents bring it about is tests/e2e/test_fast_path.py's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chainrelay.datapath.mapping import Counters, Done, Install, Rekey
from chainrelay.privileged import xdp_pins
from chainrelay.privileged.xdp_bpf import Map
from chainrelay.privileged.xdp_kernel import FastPathOptions, open_fast_path, unload_fast_path
from chainrelay.privileged.xdp_state import FastPathState, read_state
from chainrelay.wire.sealed import SealKeys
from lab.host import Namespace
from unit.privileged.test_xdp_kernel import host, mapping

pytestmark = pytest.mark.root
__all__ = ["host"]


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "bpf"
    subprocess.run(["umount", "-q", str(tmp_path / "bpf")], check=False)


@pytest.mark.usefixtures("host")
def test_of_sealed_sessions_and_their_keys_end(pins: Path) -> None:
    fast = open_fast_path(FastPathOptions("native", ("wan",), pins, pins.with_name("log"), flows=64, hops=4))
    one = replace(mapping(4, 1), sealed=True)
    keys = SealKeys(bytes.fromhex("d0000000"), b"secret-o" * 4, b"p" * 12, b"secret-s" * 4, b"t" * 12)
    assert fast.backend.seals()
    new = replace(keys, key_id=bytes.fromhex("d1000000"))
    assert fast.backend.apply([Install(one, 30, keys), Rekey(one, new)]) == [Done(Counters())] * 2
    state = read_state("native", ["wan"], pins, "", {})
    assert state.seals
    assert {(each.key_id, each.current) for each in state.sealed} == {("d0000000", False), ("d1000000", True)}
    assert "sealing: 1 sessions, 2 keys" in state.as_text()
    told = json.loads(state.as_json())["sealed"][0]
    assert (told["session"], told["forged"], told["replayed"]) == (one.session.hex(), 0, 0)
    assert "secret" not in state.as_json() + state.as_text()
    with Map.open(xdp_pins.folder_of(pins) / "seals") as seals:
        fast.backend.close()
        unload_fast_path(pins)
        assert list(seals.items()) == [], "keys are wiped although somebody still holds the map"


@pytest.mark.usefixtures("host")
def test_of_one_that_runs(pins: Path) -> None:
    fast = open_fast_path(FastPathOptions("native", ("wan",), pins, pins.with_name("log"), flows=64, hops=4))
    fast.backend.apply([Install(mapping(4, 1), 30), Install(mapping(6, 2), 30)])
    state = read_state("native", ["wan"], pins, "", {"wan": "because"})
    assert (state.sessions, state.entries, state.room) == (2, 4, 64)
    assert (state.interfaces["wan"].mode, state.interfaces["wan"].why) == ("native", "because")
    assert state.interfaces["wan"].program > 0
    assert "2 sessions" in state.as_text()
    assert json.loads(state.as_json())["verdicts"]["forwarded"] == 0
    assert len(fast.backend.flows()) == 4, "looking changes nothing"
    fast.backend.close()
    unload_fast_path(pins)
    gone = read_state("native", ["wan"], pins, "", {})
    assert (gone.layout, gone.interfaces["wan"].mode, gone.interfaces["wan"].program) == (0, "off", 0)
    assert not pins.exists()


def test_of_none(pins: Path) -> None:
    with Namespace("bare") as bare, bare.enter():
        state = read_state("auto", [], pins, "no compiler", {})
    assert state == FastPathState("auto", "no compiler")
    assert state.as_text() == "fast path: xdp = 'auto', not loaded (no compiler)"
