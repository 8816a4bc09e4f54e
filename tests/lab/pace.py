"""A sender's loop, as text for the Python of hosts that have nothing of ours: numbered datagrams at a steady pace until a line is read.

    script = f"{LOOP}\nsock = …\npace(sock.send, rate, size)"      # says "{}" at its start, and at its end a line for `told`

A machine that others keep busy holds a sender up now and then. It catches up, before its end at the latest, and tells how long it was
held up: its rate says how dense the traffic was while there was any, its pauses for how long there was none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

LEAST: Final = 20_000.0  # datagrams per second that "nothing is lost" must be said of
HELD_UP: Final = 0.02  # seconds between two bursts; the pace has them a few milliseconds apart at most
CATCH_UP: Final = 5.0  # seconds at the end for what is still owed
LOOP: Final = f"""
import json, select, socket, sys, time
def pace(send, rate, size):
    burst, payload, errors = max(1, int(rate / 1000)), bytearray(size), []
    sent, longest, held, asked = 0, 0.0, 0.0, 0.0
    start = now = time.monotonic()
    print("{{}}", flush=True)
    while True:
        if not asked and select.select([sys.stdin], [], [], 0)[0]:
            asked = now
        ahead = start + sent / rate - now
        if asked and sent and (ahead >= 0 or now - asked > {CATCH_UP}):
            break
        if ahead > 0:
            time.sleep(ahead)
        for _ in range(burst):
            payload[:8] = sent.to_bytes(8, "big")
            try:
                send(payload)
            except OSError as error:
                errors.append(str(error))
            sent += 1
        before, now = now, time.monotonic()
        longest = max(longest, now - before)
        held += now - before if now - before > {HELD_UP} else 0.0
    print(json.dumps(dict(count=sent, seconds=now - start, longest=longest, held=held, errors=errors[:3])), flush=True)
"""


@dataclass(frozen=True)
class Sent:
    """What a sender tells at its end."""

    count: int
    seconds: float
    longest: float
    """Seconds between two bursts: a gap of the sender's own making."""
    held: float
    """Seconds of all pauses longer than HELD_UP together."""

    @property
    def rate(self) -> float:
        """Datagrams per second of the time that it was not held up."""
        return self.count / (self.seconds - self.held)

    @property
    def mostly_at_work(self) -> bool:
        """Whether it was held up for less than half of the time. Else it may have slept through what its traffic was to see."""
        return self.held < self.seconds / 2

    def __str__(self) -> str:
        return (
            f"{self.count} datagrams at {self.rate:.0f}/s for {self.seconds:.1f} s "
            f"(the sender's own pauses: longest {self.longest * 1000:.1f} ms, those over {HELD_UP * 1000:.0f} ms {self.held * 1000:.0f} ms)"
        )


def told(line: str) -> Sent:
    """Read a sender's last line. AssertionError if the kernel refused a datagram."""
    said = json.loads(line)
    if said["errors"]:
        raise AssertionError(f"sending failed: {said['errors']}")
    return Sent(said["count"], said["seconds"], said["longest"], said["held"])
