"""`chainrelay key new`: 32 random bytes for a pair of neighbours, in a file that only its owner reads."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from chainrelay.client.advice import Exit
from chainrelay.config.keys import new_key
from chainrelay.errors import ConfigError
from chainrelay.output import put

if TYPE_CHECKING:
    from chainrelay.client.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """The verb's options."""
    parser = verbs.add_parser("key", help="make keys", description="Keys are shared by two neighbours; both get the same file.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="a new random key")
    new.add_argument("file", nargs="?", type=Path, metavar="FILE", help="written with mode 0600, never over a file (default: stdout)")
    new.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Write the key."""
    if options.file is None:
        put(new_key(), end="")
        return Exit.OK
    if not options.file.name:
        raise ConfigError("FILE", "an empty name", "give a file's name, or leave it out for standard output")
    try:
        handle = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as fault:
        mend = "look at its folder and your rights there"
        if isinstance(fault, FileExistsError):
            mend = "choose another name; a key in use is replaced by a new file beside it"
        raise ConfigError(str(options.file), f"can't make it: {fault.strerror}", mend) from fault
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(new_key())
    except OSError as fault:  # half a key would be in the way of the next attempt
        options.file.unlink(missing_ok=True)
        raise ConfigError(str(options.file), f"can't write it: {fault.strerror}", "make room, or choose another place") from fault
    return Exit.OK
