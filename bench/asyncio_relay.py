"""`python asyncio_relay.py LISTEN_HOST LISTEN_PORT TO_HOST TO_PORT`: a UDP relay as one writes it with asyncio; a row of `make bench`.

Both directions, a socket per client, the first datagrams kept until that socket is there. No more than a relay must do.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

Address = tuple[str, int]


class Upstream(asyncio.DatagramProtocol):
    """Toward the server, for one client."""

    def __init__(self, front: asyncio.DatagramTransport, client: Address) -> None:
        self._front, self._client = front, client

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Back to the client."""
        del addr
        self._front.sendto(data, self._client)


class Front(asyncio.DatagramProtocol):
    """Toward the clients."""

    def __init__(self, to: Address) -> None:
        self._to = to
        self._upstreams: dict[Address, asyncio.DatagramTransport] = {}
        self._waiting: dict[Address, list[bytes]] = {}
        self._opening: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The listening socket is open."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """On to the server."""
        upstream = self._upstreams.get(addr)
        if upstream is not None:
            upstream.sendto(data)
        elif addr in self._waiting:
            self._waiting[addr].append(data)
        else:
            self._waiting[addr] = [data]
            task = asyncio.get_running_loop().create_task(self._open(addr))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, client: Address) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Upstream(self._transport, client), remote_addr=self._to)
        self._upstreams[client] = transport
        for data in self._waiting.pop(client):
            transport.sendto(data)


async def main() -> None:
    """Until it is ended."""
    host, port, to_host, to_port = sys.argv[1:]
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Front((to_host, int(to_port))), local_addr=(host, int(port)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
