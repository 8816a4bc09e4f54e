"""C and Python mean the same octets: every struct, field, offset, size and verdict of ebpf/*.h against xdp_layout.py."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chainrelay.datapath import xdp_layout
from chainrelay.datapath.xdp_layout import LAYOUTS, Layout, Verdict

SOURCE = Path(__file__).resolve().parents[3] / "ebpf"


def _structs() -> dict[str, list[str]]:
    """Struct -> field names, as layout.h writes them."""
    text = re.sub(r"/\*.*?\*/", "", (SOURCE / "layout.h").read_text(encoding="utf-8"), flags=re.DOTALL)
    return {
        name: re.findall(r"(\w+)(?:\[\w+\])?;", body)
        for name, body in re.findall(r"struct (\w+) \{(.*?)\n\};", text, flags=re.DOTALL)
    }


def _tops(layout: Layout) -> list[str]:
    """The C members in order: `leaves.x`, `leaves.y` are one member `leaves`."""
    return list(dict.fromkeys(re.split(r"[.\[]", field)[0] for field, _ in layout.fields))


def test_same_structs_and_fields_in_the_same_order() -> None:
    assert {layout.name: _tops(layout) for layout in LAYOUTS} == _structs()


def test_same_verdicts() -> None:
    text = (SOURCE / "verdict.h").read_text(encoding="utf-8")
    named = {name: int(number) for name, number in re.findall(r"^\t(\w+) = (\d+)", text, flags=re.MULTILINE)}
    assert named == {"CONTINUE": 0, **{each.name: each.value for each in Verdict}, "VERDICTS": xdp_layout.VERDICTS}


@pytest.mark.root
def test_same_sizes_and_offsets_as_compiled() -> None:
    wanted = {name: getattr(xdp_layout, name) for name in ("LAYOUT_VERSION", "VERDICTS", "REACH", "AT_ONCE", "SEALED_MOST")}
    for layout in LAYOUTS:
        wanted[f"sizeof(struct {layout.name})"] = layout.size
        for field, offset in layout.offsets.items():
            wanted[f"__builtin_offsetof(struct {layout.name}, {field})"] = offset
    done = subprocess.run(
        [sys.executable, "-m", "unit.ebpf.layout_probe"],
        input=json.dumps(list(wanted)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == wanted


def test_a_flow_is_one_cache_line_or_two() -> None:
    """And what a look-up and its checks read of an IPv6 flow lies in the first."""
    assert (xdp_layout.FLOW4.size, xdp_layout.FLOW6.size) == (64, 128)
    assert xdp_layout.FLOW6.offsets["leaves.source_be32"] == 64


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(KeyError, match="tuple4 has no port"):
        xdp_layout.TUPLE4.pack({"port": 1})
