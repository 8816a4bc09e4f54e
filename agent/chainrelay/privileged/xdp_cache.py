"""Compiled instructions, kept for the next load: a boot, or a session more, then takes no compiler.

They lie in the folder that systemd gives by CacheDirectory= ($CACHE_DIRECTORY); without one nothing is kept. Whatever can't be read,
or lies where somebody else may write, is as good as not there. The verifier judges what comes from here like everything else.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT: Final = 4  # versions per file: this one, those of an upgrade and of the way back


def folder_from_environment() -> Path | None:
    """The first of the folders that systemd names, if it is ours alone."""
    named = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    return Path(named) if named and _is_ours(Path(named)) else None


class CodeCache:
    """Instructions of one fingerprint (xdp_load.py); in them -1 stands for the first map of xdp_layout.MAPS, -2 for the second …"""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def find(self, file: str) -> dict[str, bytes] | None:
        """What was kept of a source file, by program."""
        if self._folder is None:
            return None
        try:
            kept = json.loads(self._path(file).read_text(encoding="ascii"))
            return {str(name): bytes.fromhex(code) for name, code in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def keep(self, file: str, code: Mapping[str, bytes]) -> None:
        """Keep it, whole or not at all; a full disk is no reason to fail."""
        if self._folder is None:
            return
        path = self._path(file)
        made = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(OSError):
            made.write_text(json.dumps({name: each.hex() for name, each in code.items()}), encoding="ascii")
            made.rename(path)
            versions = sorted(self._folder.glob(f"{file}-*.json"), key=lambda each: each.stat().st_mtime)
            for old in versions[:-KEPT]:
                old.unlink()

    def _path(self, file: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{file}-{self._fingerprint}.json"


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
