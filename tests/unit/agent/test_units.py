"""The units stay as confined as they were measured, and each line of a sandbox has its reason."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[3] / "systemd"
UNITS = {"chainrelay-agent.service": 1.3, "chainrelay-datapath.service": 1.7}


@pytest.mark.parametrize("unit", UNITS)
def test_exposure(unit: str) -> None:
    shown = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SYSTEMD / unit)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+ (\d+\.\d+)", shown.stdout)
    assert found, shown.stderr
    assert float(found[1]) <= UNITS[unit], shown.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_the_agent_has_no_capability_and_the_helper_three(unit: str) -> None:
    text = (SYSTEMD / unit).read_text(encoding="utf-8")
    wanted = "" if "agent" in unit else "CAP_NET_ADMIN CAP_BPF CAP_PERFMON"
    assert re.findall(r"^(?:CapabilityBoundingSet|AmbientCapabilities)=(.*)$", text, re.MULTILINE) == [wanted, wanted]


def test_the_folder_script_is_sound() -> None:
    script = SYSTEMD / "mount-bpffs"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(script)], check=False, timeout=20).returncode == 0
