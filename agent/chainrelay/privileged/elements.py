"""Transactions of elements, straight to the kernel: sessions come and go by the thousand, and libnftables would spend 50 µs
on the text of each where the kernel needs 5. The static rules, which are few and complicated, stay with it (nftables.py).

One socket; it belongs to the network namespace in which the object was made. Not for several threads at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from chainrelay.datapath.nft import Change
from chainrelay.datapath.nft_backend import TransactionError
from chainrelay.errors import DatapathError
from chainrelay.privileged import netlink
from chainrelay.privileged.netlink_socket import NetlinkSocket
from chainrelay.privileged.nftables import FULL, NOT_PERMITTED


class ElementWriter:
    """Adds and deletes elements of our sets and maps."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket()

    def commit(self, changes: Sequence[Change]) -> None:
        """All changes or none. Raises TransactionError with the kernel's first reason."""
        if not changes:
            return
        answers = self._socket.commit(netlink.transaction(changes, self._socket.next_sequence()))
        numbers = [netlink.error_number(answer) for answer in answers if answer.kind == netlink.ERROR]
        if not numbers:
            raise DatapathError("nftables: the kernel did not answer a transaction")
        if number := next(filter(None, numbers), 0):
            raise refused(number)

    def close(self) -> None:
        """Close the socket; the elements stay."""
        self._socket.close()


def refused(number: int) -> TransactionError:
    """An errno as a value."""
    why = f"nftables: {os.strerror(number)}"
    if number == errno.EPERM:
        why += f"; {NOT_PERMITTED}"
    return TransactionError(why, full=number in FULL, exists=number == errno.EEXIST, missing=number == errno.ENOENT)
