"""`System`: a host of the lab that is a whole Debian: it boots, has a disk, a service manager and a journal of its own.

Scenarios here use these verbs and those of lab.host alone, so they run on every kind: containers (booted.py), Vagrant (machine.py).
"""

from __future__ import annotations

import base64
import io
import subprocess
import tarfile
from abc import abstractmethod
from typing import TYPE_CHECKING

from lab.host import CommandError, Host

if TYPE_CHECKING:
    from pathlib import Path

COPY_TIMEOUT = 300.0  # seconds; an emulated machine under load included


class System(Host):
    """One booted host, or one that will be."""

    @abstractmethod
    def boot(self) -> None:
        """Start it, and wait until everything that should run does; nothing if it runs."""

    @abstractmethod
    def reboot(self) -> None:
        """Services stop in good order, the kernel's state (rules, connections) is gone, and it boots again."""

    def put(self, folder: Path, inside: str) -> None:
        """Copy the files of a folder of this machine, with their modes, as root's."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(folder, ".", filter=_plain)
        command = self.wrap(["sh", "-c", 'mkdir -p "$0" && tar --extract --no-same-owner --directory "$0"', inside])
        done = subprocess.run(command, input=buffer.getvalue(), capture_output=True, timeout=COPY_TIMEOUT, check=False)
        if done.returncode != 0:
            raise CommandError(f"{self.name}: copying {folder} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")

    def write(self, path: str, text: str) -> None:
        """A file's whole text."""
        self.run(["sh", "-c", 'cat >"$0"', path], stdin=text)

    def read(self, path: str) -> str:
        """A file's whole text."""
        return self.run(["cat", path]).stdout

    def fetch(self, path: str) -> bytes:
        """A file's octets."""
        return base64.b64decode(self.run(["base64", path], timeout=COPY_TIMEOUT).stdout)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return self.run(["test", "-e", path], check=False).returncode == 0

    def journal(self, unit: str = "chainrelay-agent") -> str:
        """What a unit has said."""
        return self.run(["journalctl", "--no-pager", "-o", "cat", "-u", unit], check=False).stdout


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without what only the interpreter of this machine needs."""
    return None if "__pycache__" in entry.name else entry
