"""`chainrelay offer`: the server's half around an unmodified program, started for each client when its exit (P5) is known."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
from typing import TYPE_CHECKING

from chainrelay import client
from chainrelay.client.advice import Exit
from chainrelay.client.cli import common
from chainrelay.client.control import Identity
from chainrelay.client.offer import Admission, Offering, Visitor
from chainrelay.config.client import ClientConfig, load_client
from chainrelay.errors import ConfigError, OutputError
from chainrelay.limits import OFFER_PORT, PROGRAM_STOP
from chainrelay.output import put
from chainrelay.wire.endpoint import Endpoint, parse_address
from chainrelay.wire.messages import Protocol

if TYPE_CHECKING:
    from chainrelay.client.cli.common import Verbs

log = logging.getLogger(__name__)

CANNOT_EXECUTE = 126  # as a shell has it
STOP_LOOK = 0.05  # seconds between looks at whether a program's group is gone

PLACEHOLDERS = """placeholders in the program's arguments:
  {peer}       the client's exit P5, HOST:PORT, where to send and what to expect datagrams from
  {peer_host}  its address         {peer_port}  its port
  {port}       this client's P6, from --port

"""


def add(verbs: Verbs) -> None:
    """The verb's options."""
    parser = verbs.add_parser(
        "offer",
        usage="chainrelay offer --port PORT[-LAST] [options] [-- PROGRAM [ARGUMENT ...]]",
        help="the server's half: announce a port, learn each client's, run a program for it",
        description=PLACEHOLDERS + "Without PROGRAM every client's P5 is printed and the service at P6 must be running already.",
    )
    parser.add_argument(
        "--listen", type=common.listen, metavar="ADDRESS:PORT", help=f"for clients (default: client.toml, else 0.0.0.0:{OFFER_PORT})"
    )
    parser.add_argument("--port", type=ports, required=True, metavar="PORT[-LAST]", help="P6; with a range that many clients at once")
    parser.add_argument("--address", type=common.address, metavar="ADDRESS", help="announce P6 at it (default: where the client connected)")
    parser.add_argument("--tcp", action="store_true", help="P6 is a TCP port")
    parser.add_argument("--components", type=int, choices=(1, 2), default=1, help="2: P6 and the next port")
    parser.add_argument(
        "--allow", type=common.network, action="append", default=[], metavar="PREFIX", help="only clients that connect from there"
    )
    parser.add_argument(
        "--allow-exit", type=common.network, action="append", default=[], metavar="PREFIX",
        help="where P5 may lie besides the address from which its client connected",
    )  # fmt: skip
    parser.add_argument("--allow-id", action="append", default=[], metavar="ID", help="only these ids (with --authenticate)")
    parser.add_argument("--authenticate", action="store_true", help="only clients whose key is in peers.toml")
    parser.add_argument("--once", action="store_true", help="serve one client, then end with the program's exit code")
    parser.add_argument("--json", action="store_true", help="JSON, one object per line: listening, peer, left")
    parser.add_argument("program", nargs="*", metavar="PROGRAM", help="and its arguments, after --")
    common.add_config(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Serve until interrupted, or one client with --once."""
    logging.basicConfig(format="chainrelay offer: %(message)s", level=logging.WARNING)
    if options.program and shutil.which(options.program[0]) is None:
        raise ConfigError(f"program {options.program[0]}", "not found or not executable", "give its path")
    config = load_client(options.config or client.default_config()) if options.config or options.authenticate else None
    identity = Identity(config.id, config.peers) if config and (options.authenticate or config.authenticate) else None
    if options.allow_id and identity is None:
        raise ConfigError("--allow-id", "ids are known only of clients that authenticate", "add --authenticate")
    if options.components == 2 and options.port[0] % 2:
        raise ConfigError("--port", "a pair of components starts at an even port", "give an even port")
    listening = _listen(options, config)
    _check_address(options, listening)
    server = _Server(options)
    offering = Offering(
        listening,
        server.serve,
        ports=options.port[:: options.components],
        shared=not options.program,
        protocol=Protocol.TCP if options.tcp else Protocol.UDP,
        components=options.components,
        address=options.address,
        admission=Admission(tuple(options.allow), tuple(options.allow_exit), frozenset(options.allow_id)),
        identity=identity,
    )
    async with offering:
        server.tell({"event": "listening", "at": str(offering.listening)}, f"listening at {offering.listening}")
        if options.once:
            return await server.first
        await common.until_one(offering.forever(), server.broken)
    return Exit.OK


class _Server:
    """What is done for each client."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._program, self._json = options.program, options.json
        self.first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Exit code of the first client's program; 0 when the client left before the program's end."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises OutputError once something can't be told any more; `first` does, too."""

    async def serve(self, visitor: Visitor) -> None:
        """Tell of a client, run its program, tell how it ended."""
        try:
            await self._serve(visitor)
        except OutputError as fault:
            for future in (self.first, self.broken):
                if not future.done():
                    future.set_exception(fault)
                    future.exception()  # the command waits for one of the two

    async def _serve(self, visitor: Visitor) -> None:
        known = {"session": visitor.session.hex(), "peer": str(visitor.peer), "server": str(visitor.server), "id": visitor.principal}
        who = f" ({visitor.principal})" if visitor.principal else ""
        self.tell({"event": "peer", **known}, f"peer {visitor.peer}{who} for {visitor.server}, session {visitor.session.hex()}")
        code = Exit.OK.value
        try:
            if self._program:
                code = await run_program(arguments(self._program, visitor))
            else:
                await asyncio.get_running_loop().create_future()
        finally:
            self.tell({"event": "left", **known, "exit": code}, f"end of {visitor.peer}, exit code {code}")
            if not self.first.done():
                self.first.set_result(code)

    def tell(self, event: dict[str, object], text: str) -> None:
        """A line for whoever watches. The program's own output goes to the same place, so ours names itself unless it is JSON."""
        put(json.dumps(event) if self._json else f"chainrelay offer: {text}")


def arguments(program: list[str], visitor: Visitor) -> list[str]:
    """The program's arguments with placeholders filled in; other braces stay as they are."""
    values = {
        "{peer}": str(visitor.peer),
        "{peer_host}": str(visitor.peer.address),
        "{peer_port}": str(visitor.peer.port),
        "{port}": str(visitor.server.port),
    }
    filled = []
    for argument in program:
        for name, value in values.items():
            argument = argument.replace(name, value)  # noqa: PLW2901
        filled.append(argument)
    return filled


async def run_program(argv: list[str]) -> int:
    """Run a program in a process group of its own; its exit code, 128 + n for signal n, 126 when it can't be started.
    Cancelled: the group is ended."""
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, process_group=0)
    except OSError as fault:  # the file is there and executable (see run), but its interpreter is not, or it is no program at all
        why = os.strerror(fault.errno or 0)
        log.warning("%s can't be started: %s; check its first line (#!) and its format", argv[0], why)
        return CANNOT_EXECUTE
    try:
        code = await process.wait()
    finally:
        await _stop(process)
    return code if code >= 0 else 128 - code


async def _stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL for who does not listen: for the whole group, as a shell's children may outlive it. One that ended by
    itself is left in peace with what it put into the background."""
    if process.returncode is not None:
        return
    _signal_group(process, signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + PROGRAM_STOP
    # No asyncio.timeout: in a task that was cancelled, as this one, Python 3.11.2 lets its cancellation out instead of TimeoutError.
    while _signal_group(process, 0):
        if asyncio.get_running_loop().time() > deadline:
            _signal_group(process, signal.SIGKILL)
            break
        await asyncio.sleep(STOP_LOOK)
    await process.wait()


def _signal_group(process: asyncio.subprocess.Process, number: int) -> bool:
    """Whether anybody was there to get it; signal 0 only asks."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def ports(text: str) -> list[int]:
    """`5004` or `5004-5010`."""
    first, dash, last = text.partition("-")
    try:
        found = list(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        found = []
    if not found or not 1 <= found[0] <= found[-1] <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port or FIRST-LAST within 1-65535")
    return found


def _check_address(options: argparse.Namespace, listening: Endpoint) -> None:
    """What no client could be told, or come to. Raises ConfigError."""
    address = options.address
    if address is None:
        return
    where = f"--address {address}"
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise ConfigError(where, "clients can't send datagrams of a session there", "give one address at which they reach this host")
    if address.version != listening.family and not any(each.version == address.version for each in options.allow_exit):
        why = f"clients come to {listening}, by IPv{listening.family}, and their datagrams would come by IPv{address.version}"
        raise ConfigError(where, why, "give both of one family, or say by --allow-exit from where the datagrams come")


def _listen(options: argparse.Namespace, config: ClientConfig | None) -> Endpoint:
    if options.listen is not None:
        listen: Endpoint = options.listen
        return listen
    return config.listen if config else Endpoint(parse_address("0.0.0.0"), OFFER_PORT)
