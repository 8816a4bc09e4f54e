"""The command's parser, and what becomes of errors: two lines on stderr and an exit code (advice.py)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from importlib import metadata

from chainrelay.client import advice
from chainrelay.client.advice import Exit
from chainrelay.client.cli import forward, key, offer
from chainrelay.client.cli import open as open_
from chainrelay.errors import ChainrelayError
from chainrelay.output import warn

EXITS = """exit codes:
  0  ok
  1  failed
  2  wrong usage: the command line or a configuration file
  3  not reachable: a relay, the server or a way to it
  4  refused by a policy: authentication, access, forbidden targets, limits"""


def parser() -> argparse.ArgumentParser:
    """All verbs."""
    top = argparse.ArgumentParser(
        prog="chainrelay",
        description="UDP and TCP sessions through several firewalls in a row.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"chainrelay {_version()}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in (open_, forward, offer, key):
        module.add(verbs)
    for verb in verbs.choices.values():
        verb.epilog, verb.formatter_class = EXITS, argparse.RawDescriptionHelpFormatter
    return top


def run(arguments: list[str]) -> int:
    """Run the command; its exit code. SIGINT and SIGTERM end a verb in good order."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    try:
        return asyncio.run(_until_signal(options))
    except ChainrelayError as error:
        if text := advice.explain(error):
            warn(f"chainrelay {options.verb}: {text}")
        return advice.exit_code(error)
    except ValueError as error:  # an argument that only the library could judge
        warn(f"chainrelay {options.verb}: {error}")
        return Exit.USAGE


async def _until_signal(options: argparse.Namespace) -> int:
    """The verb, cancelled by the first SIGINT or SIGTERM; that is its ordinary end."""
    verb = asyncio.ensure_future(options.run(options))
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        verb.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    with contextlib.suppress(asyncio.CancelledError):
        return int(await verb)
    if not interrupted:
        raise asyncio.CancelledError
    return Exit.OK


def _version() -> str:
    try:
        return metadata.version("chainrelay")
    except metadata.PackageNotFoundError:
        return "(from a source tree)"
