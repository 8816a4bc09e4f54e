"""What systemd is told of a daemon: ready, reloading, stopping, a line of status, and that it is alive (sd_notify).

Through systemd-python, imported when systemd has asked for it ($NOTIFY_SOCKET); started by hand, all of this does nothing.
"""

from __future__ import annotations

import os
import time
from typing import Final

_LOOKS: Final = 3  # signs of life per watchdog period: one may come late


class Notify:
    """One daemon's voice. `watchdog`: seconds between two `alive`, None when systemd does not watch."""

    def __init__(self) -> None:
        self._asked = "NOTIFY_SOCKET" in os.environ
        period, watched = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
        self.watchdog = int(period) / 1e6 / _LOOKS if self._asked and period.isdecimal() and watched == str(os.getpid()) else None

    def ready(self, status: str) -> None:
        """It serves. Also the end of `reloading`."""
        self._say(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._say(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """It reads its configuration again; `ready` follows."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It ends."""
        self._say("STOPPING=1")

    def alive(self) -> None:
        """For the watchdog."""
        if self.watchdog is not None:
            self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if self._asked:
            from systemd import daemon

            daemon.notify(text)


def _line(text: str) -> str:
    return text.partition("\n")[0]
