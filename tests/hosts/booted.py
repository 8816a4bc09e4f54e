"""`Booted`: a Debian system with systemd as process 1, in systemd-nspawn, behind the interface of lab.host.

It begins as an ordinary namespace of the lab, so links, addresses and captures are the same as everywhere. `boot` puts a system into
it: an overlay over a shared, unpacked tree, a control group of its own in every hierarchy, a bpffs as Debian has it (root's,
mode 0700). From then on commands run inside the booted system. What a killed run leaves behind the next one sweeps away.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from hosts import trees
from hosts.system import System
from lab import cleanup, wait
from lab.host import RUN_NETNS, CommandError, Namespace, alive

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS: Final = Path("/sys/fs/cgroup")
HIERARCHIES: Final = ("systemd", "unified", "memory", "pids")  # of control groups version 1 and mixed; with version 2 there is one
BOOT_TIMEOUT: Final = 60.0  # seconds; 0.5 on idle cores
ENVIRONMENT: Final = ("HOME=/root", f"PATH={PATH}", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "PYTHONUNBUFFERED=1")
SLIRP_NAMES: Final = "10.0.2.3"  # slirp4netns's own name server, which asks this machine's
FOLDERS: Final = Path("/var/tmp")  # noqa: S108  mkdtemp makes what lies in it; /tmp may be in memory
# The tests' own, which look at a host's network with this machine's programs and write their files here.
INSTRUMENTS: Final = ("conntrack", "ip6tables-legacy-save", "ipset", "iptables-legacy-save", "tcpdump")
RUNNING: Final = ("running", "degraded")


class Tree:
    """A tree unpacked for this run, shared by all hosts that boot from it."""

    def __init__(self, release: str, kind: trees.Kind) -> None:
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"hosts-{os.getpid()}-tree-", dir=FOLDERS))
        self._token = cleanup.register(self.close)
        self.root = self.folder / "root"
        trees.unpack(release, kind, self.root)

    def close(self) -> None:
        """Remove it; hosts must be closed before."""
        _remove(self.folder)
        cleanup.forget(self._token)


class Inside(subprocess.Popen[str]):
    """A command within a booted system: nsenter, whose child it is. Signals are the child's; nsenter ends as the child does."""

    def send_signal(self, sig: int) -> None:
        """To the command itself."""
        for pid in _children(self.pid) or [self.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, sig)


class Booted(System, Namespace):
    """A host that boots from `tree`. `binds` are directories of this machine that it sees read-only: inside path -> outside path.

    `online`: it reaches what this machine reaches, through a program (slirp4netns); nothing of this machine's network is changed for it.
    `room` is an empty folder of this machine for its /var/tmp, which may then hold overlays of its own.
    """

    def __init__(
        self, name: str, tree: Tree, binds: Mapping[str, Path] | None = None, *, online: bool = False, room: Path | None = None
    ) -> None:
        self._tree, self._binds = tree, dict(binds or {})
        self._room = room
        self._slirp: subprocess.Popen[bytes] | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._inner_names: dict[str, str] = {}
        super().__init__(name)
        self.folder = Path(tempfile.mkdtemp(prefix=f"hosts-{os.getpid()}-{name}-", dir=FOLDERS))
        for each in ("upper", "work", "root", "bpf"):
            (self.folder / each).mkdir()
        layers = f"lowerdir={tree.root},upperdir={self.folder}/upper,workdir={self.folder}/work"
        _do("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        _do("mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(self.folder / "bpf"))
        (self.root / "etc/hostname").write_text(f"{name}\n", encoding="ascii")
        if online:
            (self.root / "etc/resolv.conf").write_text(f"nameserver {SLIRP_NAMES}\n", encoding="ascii")
            self._slirp = subprocess.Popen(
                ["slirp4netns", "--configure", "--mtu=1500", "--netns-type=path", str(RUN_NETNS / self.netns), "tap0"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def root(self) -> Path:
        """Its file system, as this machine sees it."""
        return self.folder / "root"

    def boot(self) -> None:
        """Start it and wait until systemd says that everything which should run does; nothing if it runs."""
        if self._leader:
            return
        groups = [CGROUPS / each / self.netns for each in HIERARCHIES if (CGROUPS / each).is_dir()] or [CGROUPS / self.netns]
        for group in groups:
            group.mkdir(exist_ok=True)
        command = [
            "systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot", "--register=no", "--keep-unit", f"--machine={self.netns}",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only", "--capability=all",
            "--system-call-filter=bpf", f"--bind={self.folder / 'bpf'}:/sys/fs/bpf",
            *(f"--bind-ro={outside}:{inside}" for inside, outside in self._binds.items()),
            *([f"--bind={self._room}:/var/tmp"] if self._room is not None else []),
            f"--network-namespace-path={RUN_NETNS / self.netns}",
        ]  # fmt: skip
        enter = " && ".join(f"echo $$ > {group}/cgroup.procs" for group in groups)
        environment = {
            **os.environ, "PATH": PATH,
            "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",  # root inside sets sysctls
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        }  # fmt: skip
        with (self.folder / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", f'{enter} && exec "$0" "$@"', *command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, start_new_session=True,
            )  # fmt: skip
        self._leader = wait.until(self._find_leader, f"{self.name} to start", BOOT_TIMEOUT)
        state = wait.until(self._state, f"{self.name} to boot (console: {self.folder / 'console'})", BOOT_TIMEOUT)
        if state != "running":
            failed = self.run(["systemctl", "--failed", "--no-legend"], check=False).stdout
            raise CommandError(f"{self.name} booted {state}: {failed}")

    def power_off(self) -> None:
        """As its administrator would; its file system stays for the next boot."""
        assert self._nspawn is not None
        self.run(["systemctl", "poweroff"], check=False)
        self._nspawn.wait(BOOT_TIMEOUT)
        self._leader = 0

    def reboot(self) -> None:
        """Power off and on: services stop in good order, the kernel's state of the namespace (rules, connections) is gone."""
        self.power_off()
        for family in ("ip", "ip6"):  # a namespace outlives its system, a machine's kernel does not
            super().run(["nft", "-f", "-"], stdin=f"add table {family} chainrelay\ndelete table {family} chainrelay\n")
        super().run(["conntrack", "-F"], check=False)
        self.boot()

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Inside the booted system as root, with nothing of this machine's environment; before it has booted, in its network only."""
        if not self._leader or argv[0] in INSTRUMENTS:
            return super().wrap(argv)
        return ["nsenter", f"--target={self._leader}", "--all", "--wd=/root", "--", "env", "-i", *ENVIRONMENT, *argv]

    def know(self, names: Mapping[str, str]) -> None:
        """Its own /etc/hosts."""
        self._inner_names.update(names)
        lines = [f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **self._inner_names}.items()]
        (self.root / "etc/hosts").write_text("".join(lines), encoding="ascii")

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,  # noqa: ARG002  of this machine; inside there is another world
    ) -> subprocess.Popen[str]:
        """As Namespace.popen, without an environment from outside."""
        process = Inside(self.wrap(argv), stdin=stdin, stdout=stdout, stderr=stderr, text=True, start_new_session=True)
        self._started.append(process)
        return process

    def close(self) -> None:
        """Pull the plug, then take everything away."""
        if self._nspawn is not None:
            for pid in (self._leader, self._nspawn.pid):
                if pid:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self._nspawn.wait()
            wait.until(lambda: not self._leader or not alive(self._leader), f"{self.name} to end", 10)
            self._leader, self._nspawn = 0, None
        if self._slirp is not None:
            self._slirp.kill()
            self._slirp.wait()
            self._slirp = None
        super().close()
        for group in [CGROUPS / each / self.netns for each in (*HIERARCHIES, "")]:
            _remove_group(group)
        if hasattr(self, "folder"):
            _remove(self.folder)

    def _find_leader(self) -> int:
        """The system's process 1: nspawn's child or grandchild that has become systemd."""
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise CommandError(f"{self.name}: nspawn ended: {(self.folder / 'console').read_text(errors='replace')[-2000:]}")
        for child in _children(self._nspawn.pid):
            for pid in (child, *_children(child)):
                with suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == "systemd":
                        return pid
        return 0

    def _state(self) -> str:
        """`running`, `degraded`, or nothing while it still starts."""
        with suppress(subprocess.TimeoutExpired):
            state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
            return state if state in RUNNING else ""
        return ""


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _remove_group(group: Path) -> None:
    """A control group with those below it; they are empty once the system has ended."""
    if not group.is_dir():
        return
    for below, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(below).rmdir()


def _remove(folder: Path) -> None:
    for mounted in ("root", "bpf"):
        if (folder / mounted).is_mount():
            _do("umount", "--lazy", str(folder / mounted))
    shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Folders of runs that no longer live."""
    for folder in FOLDERS.glob("hosts-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            _remove(folder)


def _do(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(f"{' '.join(argv)}: {done.stderr.strip()}")
