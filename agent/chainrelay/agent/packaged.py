"""Where the package and its units put what, for a command typed by hand: systemd tells these things to the service alone."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from chainrelay.config.agent_keys import DEFAULT_SOCKET
from chainrelay.config.check import Finding
from chainrelay.config.problems import Level
from chainrelay.net.helper import is_served

USER = "chainrelay"  # User= of the unit
DIRECTORY, STATE = Path("/etc/chainrelay"), Path("/var/lib/chainrelay")  # --config and StateDirectory= of the unit


def unreadable(directory: Path) -> list[Finding]:
    """Key files of the packaged agent that root reads here and its user can't."""
    if directory != DIRECTORY or os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return []
    keys, found = directory / "keys", []
    for path in [keys, *keys.glob("*")] if keys.is_dir() else []:
        status = path.stat()
        by_group = status.st_gid == user.pw_gid and status.st_mode & 0o040
        if status.st_uid != user.pw_uid and not by_group and not status.st_mode & 0o004:
            why = f"{path} is not readable for {USER}, as which the service runs"
            found.append(Finding("peers.toml", "keys", Level.WARNING, why, f"chown {USER} {path}"))
    return found


def state(directory: Path) -> Path | None:
    """Where the packaged agent has its journal: systemd tells it alone (StateDirectory=), not who runs the command by hand."""
    return STATE if directory == DIRECTORY and STATE.is_dir() else None


def helper(directory: Path) -> Path | None:
    """The packaged helper's socket, if it serves: what is removed behind its back it would still believe in."""
    return DEFAULT_SOCKET if directory == DIRECTORY and is_served(DEFAULT_SOCKET) else None
