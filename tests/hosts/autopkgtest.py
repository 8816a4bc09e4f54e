"""`python -m hosts.autopkgtest FOLDER`: Debian's autopkgtest with the packages in FOLDER, on a booted Debian 12 of our own.

The host is a container with an ssh server, reached by the loopback of its own network; part of `make check-deb`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from hosts import trees
from hosts.booted import Booted, Tree

ROOT: Final = Path(__file__).parents[2]
TIMEOUT: Final = 600.0


def main(folder: Path, release: str = "bookworm") -> int:
    """Returns autopkgtest's status: 0 all passed."""
    with tempfile.TemporaryDirectory(prefix="autopkgtest-") as scratch:
        source, key = Path(scratch, "source"), Path(scratch, "key")
        shutil.copytree(ROOT / "packaging/debian", source / "debian")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        tree = Tree(release, trees.Kind.MACHINE)
        try:
            with Booted("testbed", tree) as host:
                host.boot()
                host.run(["install", "-d", "-m", "0700", "/root/.ssh"])
                host.write("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(encoding="ascii"))
                debs = [str(each) for each in sorted(folder.glob("*.deb"))]
                here = ["ssh", "-H", "127.0.0.1", "-l", "root", "-i", str(key), "--capability", "isolation-container"]
                command = ["autopkgtest", "--no-built-binaries", str(source), *debs, "--", *here]
                return subprocess.run(["ip", "netns", "exec", host.netns, *command], timeout=TIMEOUT, check=False).returncode
        finally:
            tree.close()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
