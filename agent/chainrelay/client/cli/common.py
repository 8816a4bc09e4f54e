"""What verbs share: options, and the session that they describe."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING

from chainrelay import client
from chainrelay.client import Client
from chainrelay.client.client import Opening
from chainrelay.errors import ConfigError
from chainrelay.wire.endpoint import Address, Endpoint, parse_address, split_host_port
from chainrelay.wire.messages import Protocol, Way

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  argparse has no public name for it

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def add_config(parser: argparse.ArgumentParser) -> None:
    """--config."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="DIR",
        help="directory with client.toml, routes.toml, peers.toml (default: $XDG_CONFIG_HOME/chainrelay, then /etc/chainrelay)",
    )


def add_session(parser: argparse.ArgumentParser) -> None:
    """Whom to reach, and how."""
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("server", nargs="?", metavar="SERVER", help="the server's control address, HOST or HOST:PORT (default port 9799)")
    whom.add_argument("--peer", metavar="HOST:PORT", help="the server's endpoint (P6), for a server without control connection")
    parser.add_argument("--server-id", metavar="ID", help="the server's id in peers.toml: both sides authenticate (default: client.toml)")
    parser.add_argument(
        "--peers", type=network, action="append", default=[], metavar="PREFIX", help="where the server's P6 may lie besides its own address"
    )
    parser.add_argument("--components", type=int, choices=(1, 2), help="2: an even port and the next one, for RTP and RTCP")
    parser.add_argument(
        "--way", type=way, choices=tuple(Way), metavar="WAY",
        help="recursive (relays ask each other) or iterative (this client asks each of them), instead of what routes.toml says",
    )  # fmt: skip
    seal = parser.add_mutually_exclusive_group()
    seal.add_argument(
        "--seal", action="store_true", default=None,
        help="encrypt datagrams up to the last relay, which routes.toml must name (`last`); it needs XDP",
    )  # fmt: skip
    seal.add_argument("--no-seal", dest="seal", action="store_false", default=None, help="don't, although routes.toml says seal = true")
    parser.add_argument("--lease", type=int, default=0, metavar="SECONDS", help="lease to ask for (default: client.toml)")
    add_config(parser)


def check_options(options: argparse.Namespace, *, tcp_needs_peer: bool = False) -> None:
    """An option that would do nothing is a mistake, and with --server-id a dangerous one. Raises ConfigError."""
    if options.server_id == "":
        raise ConfigError("--server-id", "an empty id would switch authentication off", "give the server's id, or leave it out")
    if options.peer is not None:
        without = {"--server-id": options.server_id, "--peers": options.peers, "--until-done": getattr(options, "until_done", False)}
        for name in [name for name, given in without.items() if given]:
            why = "with --peer there is no control connection to the server"
            raise ConfigError(name, why, "leave it out, or give SERVER in place of --peer")
    elif tcp_needs_peer and options.tcp:
        raise ConfigError("--tcp", "the server's offer says whether the session is TCP", "leave it out, or give --peer in place of SERVER")
    if options.tcp and options.components == 2:
        raise ConfigError("--components 2", "a TCP session has one port", "leave out one of the two")


def make_client(options: argparse.Namespace) -> Client:
    """A client with the options' configuration. Raises ConfigError."""
    return Client(options.config or client.default_config(), way=options.way, seal=options.seal)


def opening(owner: Client, options: argparse.Namespace, protocol: Protocol | None, local: int | Endpoint, *, sockets: bool) -> Opening:
    """The session that the options describe. Raises ConfigError."""
    if options.server_id is not None and owner.config.peers.current_key(options.server_id) is None:
        raise ConfigError(f"--server-id {options.server_id}", "peers.toml has no key for it", "add one there, or mend the id")
    if options.peer is not None:
        return owner.open_to(
            options.peer, protocol=protocol or Protocol.UDP, components=options.components or 1, local=local, sockets=sockets,
            lease=options.lease,
        )  # fmt: skip
    return owner.open(
        options.server, protocol=protocol, components=options.components, local=local, sockets=sockets, lease=options.lease,
        server_id=options.server_id, peers=options.peers,
    )  # fmt: skip


async def until_one(*ends: Awaitable[None]) -> None:
    """Until the first of them returns or raises; it is what the command ends with."""
    waits = [asyncio.ensure_future(end) for end in ends]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in done:
            wait.result()
    finally:
        for wait in waits:
            wait.cancel()


async def for_ever() -> None:
    """Until cancelled."""
    await asyncio.get_running_loop().create_future()


def way(text: str) -> Way:
    """`recursive` or `iterative`."""
    try:
        return Way[text.upper()]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither recursive nor iterative") from error


def local(text: str) -> int | Endpoint:
    """`PORT` or `ADDRESS:PORT`."""
    try:
        return Endpoint.parse(f"127.0.0.1:{text}").port if text.isdecimal() else Endpoint.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def endpoint(text: str) -> Endpoint:
    """`ADDRESS:PORT`."""
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def listen(text: str) -> Endpoint:
    """`ADDRESS:PORT` to listen on; port 0 = a free one."""
    try:
        host, port = split_host_port(text, lowest=0)
        return Endpoint(parse_address(host), port)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def address(text: str) -> Address:
    """An address."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def network(text: str) -> Network:
    """A prefix."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
