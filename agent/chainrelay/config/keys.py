"""Key files: 32 random bytes as one line of base64, readable by their owner only. Made here, read here.

    $ chainrelay key new keys/alice-2026a.key

Nothing here prints, logs or raises a key; an error names the file and never its content.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from chainrelay.config.schema import WrongError
from chainrelay.wire.primitives import KEY_LENGTH

PRIVATE: Final = 0o077  # mode bits that a key file must not have
CREDENTIAL: Final = 0o007  # systemd grants a credential by an ACL, whose mask shows as group bits; nobody else's way in
_LONGEST_FILE: Final = 4096  # far above one line; a wrong path may name a disk image


def new_key() -> str:
    """A new random key as a key file holds it: one line of base64 (RFC 4648 §4), with its line end."""
    return base64.b64encode(secrets.token_bytes(KEY_LENGTH)).decode("ascii") + "\n"


def read_key(path: Path, *, forbidden: int = PRIVATE) -> bytes:
    """The 32 bytes of a key file. `forbidden`: mode bits that refuse it. Raises WrongError."""
    try:
        # O_NONBLOCK: a FIFO must be refused, not waited for
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise WrongError(f"key file {path}: {error.strerror}", _mend_open(error, path)) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise WrongError(f"key file {path} is not a regular file", "name a file made by `chainrelay key new`")
        if status.st_mode & forbidden:
            who = "everybody" if status.st_mode & 0o007 else "its group"
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise WrongError(f"key file {path} is open to {who} (mode {mode})", f"chmod 0600 {path}")
        text = os.read(handle, _LONGEST_FILE)
    except OSError as error:
        raise WrongError(f"key file {path}: {error.strerror}", _mend_open(error, path)) from None
    finally:
        os.close(handle)
    return _decode(text, path)


def _decode(text: bytes, path: Path) -> bytes:
    mend = "copy the partner's file, or make a new one for both: chainrelay key new FILE"
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise WrongError(f"key file {path} is not one line of base64", mend) from None
    if len(key) != KEY_LENGTH:
        raise WrongError(f"key file {path} holds {len(key)} bytes, not {KEY_LENGTH}", mend)
    if len(set(key)) == 1:
        raise WrongError(f"key file {path} holds the same byte {KEY_LENGTH} times: not a random key", mend)
    return key


def _mend_open(error: OSError, path: Path) -> str:
    match error:
        case FileNotFoundError():
            return f"copy the partner's file, or make it: chainrelay key new {path}"
        case PermissionError():
            return f"let the agent's user own it: chown chainrelay {path}"
        case _:
            return "name a file made by `chainrelay key new`"
