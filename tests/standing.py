"""Sessions that stand already, for scripts about what comes after."""

from __future__ import annotations

from typing import Any

from chainrelay.datapath.mapping import Counters, Install
from chainrelay.wire.messages import Open, Opened, Protocol
from playbook import Play, an_opened, first, last, play

SEEN = Counters(1, 100, 2, 200)


def opened(protocol: Protocol = Protocol.UDP, **policy: Any) -> Play:
    """Open at relay 1 of 2."""
    playing = play(first(**policy)).opens(protocol=protocol).locates("10.0.2.2").located("10.0.2.2").asks(Open)
    return playing.answered(an_opened()).applies(Install).applied().replies(Opened).done()


def opened_last(**policy: Any) -> Play:
    """Open at relay 2 of 2."""
    playing = play(last(**policy)).fw1_opens().locates("10.9.0.9").located("10.9.0.9").applies(Install).applied()
    return playing.replies(Opened).done()
