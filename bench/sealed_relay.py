"""`python sealed_relay.py seal|open LISTEN_HOST LISTEN_PORT TO_HOST TO_PORT KEY IV KEY_ID`: a sealing relay as one writes it with asyncio.

The row `sealed-python` of `make bench`: asyncio and `cryptography`, the datagrams of docs/protocol.md §13, one direction, one session.
"""

from __future__ import annotations

import asyncio
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


class Relay(asyncio.DatagramProtocol):
    """From whoever sends to `far`."""

    def __init__(self, key: bytes, iv: bytes, key_id: bytes, far: asyncio.DatagramTransport) -> None:
        self._cipher, self._head = ChaCha20Poly1305(key), iv[:4]
        self._iv, self._id, self._far = int.from_bytes(iv[4:]), key_id, far
        self._counter, self._top = 0, -1


class Seal(Relay):
    """Text in, sealed datagrams out."""

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """One."""
        del addr
        counter = self._counter
        self._counter += 1
        header = self._id + counter.to_bytes(8)
        self._far.sendto(header + self._cipher.encrypt(self._head + (self._iv ^ counter).to_bytes(8), data, header))


class Open(Relay):
    """Sealed datagrams in, text out; a counter must rise."""

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """One."""
        del addr
        counter = int.from_bytes(data[4:12])
        if data[:4] != self._id or counter <= self._top:
            return
        try:
            text = self._cipher.decrypt(self._head + (self._iv ^ counter).to_bytes(8), data[12:], data[:12])
        except InvalidTag:
            return
        self._top = counter
        self._far.sendto(text)


async def main() -> None:
    """Until it is ended."""
    what, host, port, to_host, to_port, key, iv, key_id = sys.argv[1:]
    loop = asyncio.get_running_loop()
    far, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(to_host, int(to_port)))
    kind = Seal if what == "seal" else Open
    words = [bytes.fromhex(each) for each in (key, iv, key_id)]
    await loop.create_datagram_endpoint(lambda: kind(words[0], words[1], words[2], far), local_addr=(host, int(port)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
