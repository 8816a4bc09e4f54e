"""The packages as apt finds them: built by `make deb`'s script, in two versions, each a `file:` repository of its own.

`OLD` is today's tree under a lower version number, so an upgrade exercises the maintainer scripts and the daemons' restart.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hosts.booted import PATH
from lab import cleanup
from lab.host import CommandError

if TYPE_CHECKING:
    from lab.host import Host

ROOT: Final = Path(__file__).parents[2]
INSIDE: Final = "/srv/repository"  # where hosts see it
OLD: Final = "0.0.1"
NEW: Final = ""  # as debian/changelog says
AGENT: Final = ("chainrelay-agent", "chainrelay-client")
CLIENT: Final = ("chainrelay-client",)


class Repository:
    """Both versions, built once."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="repository-")
        self._token = cleanup.register(self._folder.cleanup)
        self.path = Path(self._folder.name)
        self.path.chmod(0o755)  # apt's own user reads it
        foreign = self.path / "bin" / "python3"  # whatever Python comes first in the caller's PATH, it is not the one that builds
        foreign.parent.mkdir()
        foreign.write_text("#!/bin/sh\necho 'this is no Python' >&2\nexit 1\n", encoding="ascii")
        foreign.chmod(0o755)
        for name, version in (("old", OLD), ("new", NEW)):
            _run(["env", f"PATH={foreign.parent}:{PATH}", str(ROOT / "packaging/build-deb.sh"), version, str(self.path / name)])
            listed = _run(["sh", "-c", f"cd {self.path / name} && dpkg-scanpackages --multiversion ."])
            (self.path / name / "Packages").write_text(listed, encoding="utf-8")

    def close(self) -> None:
        """Remove it."""
        self._folder.cleanup()
        cleanup.forget(self._token)


def point_to(host: Host, version: str) -> None:
    """Let the host's apt see one repository, and no other."""
    folder = "old" if version == OLD else "new"
    line = f"deb [trusted=yes] file:{INSIDE}/{folder} ./"
    script = f"rm -f /etc/apt/sources.list; echo '{line}' > /etc/apt/sources.list.d/chainrelay.list; apt-get -qq update"
    host.run(["sh", "-c", script], timeout=60)


def install(host: Host, packages: tuple[str, ...], version: str = NEW) -> str:
    """`apt-get install`; returns what it printed. Also how an upgrade is done."""
    point_to(host, version)
    return host.run(["apt-get", "-y", "--no-install-recommends", "install", *packages], timeout=120).stdout


def installed(host: Host, package: str) -> str:
    """The version, or nothing."""
    done = host.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package], check=False)
    status, _, version = done.stdout.partition(" ")
    return version if status == "installed" else ""


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise CommandError(f"{' '.join(argv)} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
