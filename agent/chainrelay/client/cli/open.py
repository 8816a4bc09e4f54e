"""`chainrelay open`: a session whose endpoints another program uses. It lives until the command is interrupted."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from chainrelay.client.advice import Exit
from chainrelay.client.cli import common
from chainrelay.client.cli.report import Report
from chainrelay.errors import ConfigError
from chainrelay.wire.messages import Protocol

if TYPE_CHECKING:
    from chainrelay.client.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """The verb's options."""
    parser = verbs.add_parser(
        "open",
        help="open a session for another program and print its endpoints",
        description="Opens a session and prints its endpoints. The other program binds P1 and sends to P2. Ctrl-C closes it.",
    )
    common.add_session(parser)
    parser.add_argument("--tcp", action="store_true", help="with --peer: a TCP session (one connection from P1)")
    parser.add_argument("--local", type=common.local, default=0, metavar="[ADDRESS:]PORT", help="P1 (default: a free port)")
    parser.add_argument("--json", action="store_true", help="JSON, one object per line: open, moved, trouble, back, closed")
    parser.add_argument("--once", action="store_true", help="close at once: tells whether the chain works")
    parser.add_argument("--until-done", action="store_true", help="end when the server says that it is done")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Open, print, wait, close."""
    if options.seal and not options.once:
        why = "the program that uses P1 would have to seal its datagrams itself"
        raise ConfigError("--seal", why, "use `chainrelay forward --seal`; `open --seal --once` tells whether a sealed session can be had")
    common.check_options(options, tcp_needs_peer=True)
    report = Report(as_json=options.json)
    protocol = (Protocol.TCP if options.tcp else Protocol.UDP) if options.peer is not None else None
    async with common.make_client(options) as owner:
        session = await common.opening(owner, options, protocol, options.local, sockets=bool(options.seal))
        report.watch(session)
        try:
            report.opened(session)
            if not options.once:
                done = session.server_done() if options.until_done else common.for_ever()
                await common.until_one(session.ended(), report.broken, done)
        finally:
            await report.end(session)
    return Exit.OK
