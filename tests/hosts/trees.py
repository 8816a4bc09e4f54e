"""Debian file systems to boot: made once by debootstrap, kept as tarballs in a cache directory, unpacked for each run.

    python -m hosts.trees bookworm            makes what is missing (a few minutes; the only step that needs a mirror)

The cache is $CHAINRELAY_TREES, else /var/cache/chainrelay-trees. The mirror is the one that this machine's own apt uses.
`bare` is what an installer leaves, `ready` has besides what chainrelay's packages depend on and the tools of the
tests, so that an installation needs no network. A change of the lists below makes new ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from enum import Enum
from pathlib import Path
from typing import Final

RELEASES: Final = ("bookworm", "trixie")
SYSTEM: Final = (
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "udev", "kmod", "procps", "iproute2", "iputils-ping", "ca-certificates",
    "apt-utils",
)  # fmt: skip
DEPENDENCIES: Final = (
    "python3", "python3-bpfcc", "python3-cbor2", "python3-cryptography", "python3-iptables", "python3-nftables", "python3-pyroute2",
    "python3-systemd", "nftables", "linux-libc-dev",
)  # fmt: skip
MACHINE: Final = ("linux-image-cloud-amd64", "openssh-server", "sudo", "rsync", "ipset", "iptables")
TOOLS: Final = ("conntrack", "ethtool", "ffmpeg", "tcpdump", "dpkg-dev")


class Kind(Enum):
    """How much is on it."""

    BARE = "bare"
    READY = "ready"
    MACHINE = "machine"
    """`ready`, a kernel, and what Vagrant wants: vagrant/box.sh makes a disk of it."""


class TreeError(RuntimeError):
    """A tree could not be made; the text says what to do."""


def cache() -> Path:
    """Where the tarballs lie."""
    return Path(os.environ.get("CHAINRELAY_TREES", "/var/cache/chainrelay-trees"))


def tarball(release: str, kind: Kind) -> Path:
    """The tarball, made now if it is missing."""
    path = cache() / f"{release}-{kind.value}-{_fingerprint(kind)}.tar.zst"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tree-", dir=path.parent) as folder:
            root = Path(folder, "root")
            _bare(release, root) if kind is Kind.BARE else _more(release, kind, root)
            part = Path(folder, "tar.zst")
            _run(["tar", "--create", "--zstd", "--numeric-owner", "--xattrs", "--file", str(part), "--directory", str(root), "."])
            part.rename(path)
    return path


def unpack(release: str, kind: Kind, root: Path) -> None:
    """The whole tree into `root`, which must be empty or missing."""
    root.mkdir(parents=True, exist_ok=True)
    path = tarball(release, kind)
    _run(["tar", "--extract", "--zstd", "--numeric-owner", "--xattrs", "--same-permissions", "--file", str(path), "--directory", str(root)])


def mirror() -> str:
    """The first Debian mirror in apt's own sources. Raises TreeError."""
    apt = Path("/etc/apt")
    for path in [*apt.glob("sources.list.d/*.sources"), *apt.glob("sources.list.d/*.list"), *apt.glob("sources.list")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            found = re.match(r"(?:URIs:|deb (?:\[[^]]*\] )?)\s*(\S+/debian/?)(?:\s|$)", line)
            if found:
                return found[1]
    raise TreeError("no Debian mirror in /etc/apt/sources.list*: name one there (URIs: …/debian), or copy the tarballs of another machine")


def _bare(release: str, root: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise TreeError("debootstrap is missing: apt-get install debootstrap systemd-container")
    _run(["debootstrap", "--variant=minbase", f"--include={','.join(SYSTEM)}", release, str(root), mirror()])
    _run(["chroot", str(root), "apt-get", "clean"])
    (root / "etc/hostname").unlink(missing_ok=True)  # the host's name comes from who boots it
    (root / "etc/machine-id").write_text("", encoding="ascii")


def _more(release: str, kind: Kind, root: Path) -> None:
    unpack(release, Kind.READY if kind is Kind.MACHINE else Kind.BARE, root)
    resolver = root / "etc/resolv.conf"
    shutil.copyfile("/etc/resolv.conf", resolver)
    script = root / "usr/sbin/policy-rc.d"  # nothing is to be started while this is no system yet
    script.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    script.chmod(0o755)
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "--no-install-recommends"]
    _run(["chroot", str(root), "apt-get", "-qq", "update"])
    _run(["chroot", str(root), *quiet, "install", *(MACHINE if kind is Kind.MACHINE else (*DEPENDENCIES, *TOOLS))])
    _run(["chroot", str(root), "apt-get", "clean"])
    shutil.rmtree(root / "var/lib/apt/lists")
    script.unlink()
    resolver.unlink()


def _fingerprint(kind: Kind) -> str:
    lists = {
        Kind.BARE: SYSTEM,
        Kind.READY: (*SYSTEM, *DEPENDENCIES, *TOOLS),
        Kind.MACHINE: (*SYSTEM, *DEPENDENCIES, *TOOLS, *MACHINE),
    }[kind]
    return hashlib.sha256(" ".join(lists).encode()).hexdigest()[:12]


def _run(argv: list[str]) -> None:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # debootstrap and chroot live in sbin
    environment = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise TreeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout.strip()[-2000:]}")


if __name__ == "__main__":
    for name in sys.argv[1:] or RELEASES[:1]:
        for wanted in (Kind.BARE, Kind.READY):
            print(tarball(name, wanted), flush=True)
