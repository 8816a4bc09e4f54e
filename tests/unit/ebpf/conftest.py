"""One load of the programs for all program tests: the real loader process, a bpffs of its own, no interface."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from chainrelay.datapath.xdp_layout import LAYOUT_VERSION
from unit.ebpf.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the loader may mount its bpffs; unmounted in the end, and the pinned things go with it."""
    folder = tmp_path_factory.mktemp("xdp") / "bpf"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", "-q", str(folder)], check=False)


@pytest.fixture(scope="session")
def loaded(pins: Path) -> Path:
    """The folder with maps and programs."""
    log = pins.parent / "log"
    done = subprocess.run(
        [sys.executable, "-m", "chainrelay.privileged.xdp_load", "--pins", str(pins), "--log", str(log)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{log.read_text() if log.exists() else ''}"
    return pins / f"v{LAYOUT_VERSION}"


@pytest.fixture(scope="session")
def cipher(loaded: Path) -> Path:
    """The folder with the cipher's test entries in it as well."""
    log = loaded.parent.parent / "cipher-log"
    subprocess.run([sys.executable, "-m", "unit.ebpf.cipher_load", str(loaded), str(log)], check=True)
    return loaded


@pytest.fixture
def world(loaded: Path) -> Iterator[World]:
    """The world, fresh."""
    made = World(loaded)
    yield made
    made.close()
