"""libnftables in this process: a transaction's text in, nothing or an error out. The only importer of `nftables`. For the static
rules; sessions go by elements.py.

Forking `nft` would cost 5 ms a transaction. One context; its netlink socket belongs to the network namespace in which
the object was made. Not for several threads at once.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from chainrelay.datapath.nft_backend import TransactionError
from chainrelay.errors import DatapathError

_SHOWN: Final = 300  # characters of libnftables' text in an error: it quotes the whole command
FULL: Final = (errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOBUFS)
NOT_PERMITTED: Final = "the agent needs CAP_NET_ADMIN in this network namespace: run it as root or by its systemd unit"


class Nftables:
    """A libnftables context. Raises DatapathError when Debian's python3-nftables or libnftables is missing."""

    def __init__(self) -> None:
        try:
            import nftables

            self._context = nftables.Nftables()
        except (ImportError, OSError) as missing:
            raise DatapathError(
                f"nftables is not usable here ({missing}); install it: apt install nftables python3-nftables, "
                "and run the agent with /usr/bin/python3"
            ) from missing

    def run(self, text: str) -> None:
        """All of `text` or nothing. Raises TransactionError."""
        status, _, error = self._context.cmd(text)
        if status != 0:
            raise refused(error)


def refused(error: str) -> TransactionError:
    """libnftables' error text as a value. Its interface passes no numbers on, so errno's texts are looked for."""

    def says(number: int) -> bool:
        return os.strerror(number) in error

    first = error.partition("\n")[0].removeprefix("Error: ")[:_SHOWN] or "nft gave no reason"
    if says(errno.EPERM):
        return TransactionError(f"nftables: {first}; {NOT_PERMITTED}")
    return TransactionError(
        f"nftables: {first}",
        full=any(map(says, FULL)),
        exists=says(errno.EEXIST),
        missing=says(errno.ENOENT),
    )
