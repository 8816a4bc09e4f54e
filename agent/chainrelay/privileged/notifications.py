"""Counters of nftables elements, over netlink: final ones, which the kernel announces on deletion, and live ones.

libnftables can't tell what a deleted element had counted (its echo leaves deletions out), and reading before deleting
loses what is counted in between. The kernel queues its announcements while it commits, so joining the multicast group
just around a transaction and reading what is there afterwards gives them all, and nothing piles up in between.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from chainrelay.datapath.nft import KEY_SIZES
from chainrelay.datapath.nft_backend import Counted, LiveElement
from chainrelay.datapath.ruleset import GATE, LIVE, TABLE, TO_DESTINATION
from chainrelay.privileged import netlink
from chainrelay.privileged.netlink import Message
from chainrelay.privileged.netlink_socket import NetlinkSocket, raise_unless

log = logging.getLogger(__name__)

_GROUP: Final = 7  # NFNLGRP_NFTABLES
_LIVE: Final = LIVE.encode() + b"\0"


class ElementReader:
    """Two sockets: one that hears announcements, one that asks."""

    def __init__(self) -> None:
        self._announcements, self._requests = NetlinkSocket(), NetlinkSocket()

    def watch(self, commit: Callable[[], None]) -> Counted:
        """Run `commit`; the final counters of the elements of `live` that went with it. Raises what `commit` raises."""
        self._announcements.join(_GROUP)
        try:
            commit()
        finally:
            self._announcements.leave(_GROUP)
            heard = self._hear()
        return final_counters(heard)

    def counters(self, keys: Sequence[bytes]) -> Counted:
        """Counters of those of `keys` that are alive. Raises DatapathError."""
        requests = [
            netlink.get_elements(KEY_SIZES[len(key)], TABLE, LIVE, self._requests.next_sequence(), key) for key in keys
        ]
        counted: Counted = {}
        for message in self._requests.exchange(requests):
            if message.kind == netlink.ERROR:
                raise_unless(message, errno.ENOENT)
            elif message.kind == netlink.NEW_ELEMENT:
                counted |= {each.key: (each.packets, each.octets) for each in netlink.parse_news(message).elements()}
        return counted

    def live(self, family: int) -> list[LiveElement]:
        """All of `live`. Raises DatapathError."""
        return [LiveElement(e.key, e.expires / 1000, e.packets, e.octets) for e in self._all(family, LIVE)]

    def destinations(self, family: int) -> list[tuple[bytes, bytes]]:
        """All of `to_destination`. Raises DatapathError."""
        return [(element.key, element.data) for element in self._all(family, TO_DESTINATION)]

    def has_gate(self, family: int) -> bool:
        """Whether the gate of our table has rules. Raises DatapathError."""
        return bool(self._requests.dump(netlink.get_rules(family, TABLE, GATE, self._requests.next_sequence())))

    def close(self) -> None:
        """Close both sockets."""
        self._announcements.close()
        self._requests.close()

    def _all(self, family: int, name: str) -> Iterable[netlink.Element]:
        answer = self._requests.dump(netlink.get_elements(family, TABLE, name, self._requests.next_sequence()))
        return [element for message in answer for element in netlink.parse_news(message).elements()]

    def _hear(self) -> list[Message]:
        try:
            return self._announcements.drain()
        except BufferError as overrun:
            log.warning("final counters of a batch are unknown and taken as 0: %s", overrun)
            return []


def final_counters(heard: Iterable[Message]) -> Counted:
    """Counters of the deleted elements of our `live` sets, summed up per key. Others' news is passed over."""
    counted: Counted = {}
    for message in heard:
        if message.kind != netlink.DELETE_ELEMENT or _LIVE not in message.body:  # most are about maps: spare the parsing
            continue
        news = netlink.parse_news(message)
        if (news.table, news.set) != (TABLE, LIVE):
            continue
        for each in news.elements():
            packets, octets = counted.get(each.key, (0, 0))
            counted[each.key] = packets + each.packets, octets + each.octets
    return counted
