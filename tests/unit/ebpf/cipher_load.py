"""Loads cipher.c against the maps of a loaded fast path: `python -m unit.ebpf.cipher_load FOLDER LOG`. A process of its own: bcc."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from chainrelay.privileged.xdp_compile import load_programs

HERE = Path(__file__).resolve().parent
FILES = {"cipher.c": {"test_crypt": "test_crypt", "test_poly": "test_poly"}}


def main() -> None:
    """Beside a copy of ebpf/, so that the headers are the ones of the product."""
    with tempfile.TemporaryDirectory(prefix="chainrelay-") as folder:
        source = shutil.copytree(HERE.parents[2] / "ebpf", Path(folder, "ebpf"))
        shutil.copy(HERE / "cipher.c", source)
        load_programs(FILES, source, Path(sys.argv[1]), "", Path(sys.argv[2]))


if __name__ == "__main__":
    main()
