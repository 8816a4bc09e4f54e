"""Before maintenance: SIGUSR1 takes no new sessions, SIGUSR2 ends those that stand, a restart takes new ones again."""

from __future__ import annotations

import signal

import pytest

from chainrelay.errors import Code, Refusal
from chainrelay.limits import LEASE_GRACE, TCP_LINGER
from e2e.chain import Chain
from lab import wait

pytestmark = pytest.mark.root
LEASE = 6  # renewed every two seconds


@pytest.mark.parametrize("way", ["recursive", "iterative"])
def test_a_relay_is_drained(way: str) -> None:
    with Chain(2, (4,), lease=LEASE, confined=True, level="info", way=way) as chain, chain.server(4) as server:
        with chain.open(server) as call:
            first = chain.relays.agents[0]
            first.tell(signal.SIGUSR1)
            # UDP, and TCP for the control connection
            wait.until(lambda: "draining: no new sessions until the next start; 2 stand" in first.log(), "the word in the log")
            with pytest.raises(Refusal) as refused:
                chain.open(server)
            assert (refused.value.code, refused.value.hop) == (Code.DRAINING, "fw1")
            wait.never(lambda: call.to_server(5).lost, "a loss of the session that stands", LEASE * 1.5)

            first.tell(signal.SIGUSR2)
            wait.until(lambda: "fw1" not in chain.leftovers(), "the drained relay to hold nothing")
            assert "2 that stand are ended" in first.log()
            if way == "recursive":  # relay 1 has no authority over what the client holds at relay 2 itself
                wait.until(lambda: not chain.leftovers(), "the next relay to be told", LEASE / 2)
        first.stop()
        first.start()
        ended = LEASE + LEASE_GRACE + TCP_LINGER + 5
        wait.until(lambda: not chain.leftovers(), "the far end's lease to end", ended)
        with chain.open(server) as call:
            call.proves_flow()
            call.close()
        assert chain.leftovers() == {}
