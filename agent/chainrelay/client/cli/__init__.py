"""The `chainrelay` command: one file per verb, and one place for what they share (common.py).

    open.py      a session for another program: prints its endpoints, keeps it until interrupted
    forward.py   a local UDP or TCP port for an unmodified program
    offer.py     the server's half around an unmodified program
    key.py       new key files

A verb parses its arguments, calls the library and prints. Anything that a program could want too belongs into the library.
"""

from __future__ import annotations

import sys

from chainrelay.client.cli.main import run


def main() -> None:
    """Entry point of the command."""
    sys.exit(run(sys.argv[1:]))
