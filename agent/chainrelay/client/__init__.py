"""The client side as a library (M23): sessions through the chain behind one call, and the server's half.

    from chainrelay import client
    async with client.open("server.example:9799") as session:
        await session.send(b"hello"); print(session.exit)

    client.py       open, open_to, reserve: the order of M1 to M8
    wishes.py       what a caller may want, and what contradicts
    session.py      what they give: endpoints, datagrams, counters, close
    leg.py          OPEN, BIND, RENEW, CLOSE with relay 1; leases; opening again
    trouble.py      when the chain does not answer, and what is told of it
    walk.py         the iterative way: each relay asked by the client itself
    recursive.py    the recursive way of a sealed session
    end_to_end.py   a relay as the client talks with it, directly or inside EXTEND
    sealing.py      a sealed session's keys: made, compared, renewed
    data_keys.py    which key seals and which ones open
    datagrams.py    sending and receiving, sealed or plain
    links.py        one authenticated connection per first relay
    direct.py       when no relay is needed
    sockets.py      P1
    control.py      the client-server control connection, both ends of it
    rendezvous.py   the client's half, kept alive
    offer.py        the server's half
    blocking.py     the same without asyncio
    advice.py       what to do about a refusal; exit codes
    cli/            the `chainrelay` command, a file per verb

Needs cryptography and cbor2 only. Knows nothing of kernels and rules.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Unpack

from chainrelay.client.client import Client
from chainrelay.client.control import Identity
from chainrelay.client.data_keys import SealCounters
from chainrelay.client.offer import Admission, Offering, Visitor
from chainrelay.client.session import Session
from chainrelay.client.trouble import Trouble
from chainrelay.client.wishes import ServerWishes, TargetWishes, Wishes
from chainrelay.wire.messages import HopCounters, Protocol, Way

TCP, UDP = Protocol.TCP, Protocol.UDP

__all__ = [
    "TCP", "UDP", "Admission", "Client", "HopCounters", "Identity", "Offering", "SealCounters", "Session", "Trouble", "Visitor", "Way",
    "default_config", "open", "open_to", "reserve",
]  # fmt: skip


def default_config() -> Path:
    """$XDG_CONFIG_HOME/chainrelay (~/.config/chainrelay) if it is there, else /etc/chainrelay."""
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "chainrelay"
    return own if own.is_dir() else Path("/etc/chainrelay")


@contextlib.asynccontextmanager
async def open(server: str, *, config: Path | str | None = None, **wishes: Unpack[ServerWishes]) -> AsyncIterator[Session]:  # noqa: A001
    """`Client.open` with a client of its own: for a program that has one session."""
    async with Client(config or default_config()) as client, client.open(server, **wishes) as session:
        yield session


@contextlib.asynccontextmanager
async def open_to(peer: str, *, config: Path | str | None = None, **wishes: Unpack[TargetWishes]) -> AsyncIterator[Session]:
    """`Client.open_to` with a client of its own."""
    async with Client(config or default_config()) as client, client.open_to(peer, **wishes) as session:
        yield session


@contextlib.asynccontextmanager
async def reserve(host: str, *, config: Path | str | None = None, **wishes: Unpack[Wishes]) -> AsyncIterator[Session]:
    """`Client.reserve` with a client of its own."""
    async with Client(config or default_config()) as client, client.reserve(host, **wishes) as session:
        yield session
