"""A host of the lab. `Host` is what tests may rely on; `Namespace` is the kind that costs milliseconds.

Other kinds (booted containers, virtual machines) implement the same few verbs; only `enter`, sockets opened from
within the test's own process, is particular to namespaces. No topology here: that is link.py and row.py.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from lab import cleanup, wait

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RUN_NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000
RUN_TIMEOUT = 20.0  # seconds; a command that takes longer hangs
GRACE = 3.0  # seconds between SIGTERM and SIGKILL
_serials = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(RuntimeError):
    """A command on a host ended with an error; the text shows its output."""


class Host(ABC):
    """One machine of the lab, whatever it is made of."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on this host, as this machine's kernel must be told."""

    @abstractmethod
    def close(self) -> None:
        """End what runs on the host and the host itself. Idempotent."""

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = RUN_TIMEOUT,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end. Raises CommandError with the output when `check` and the status is not 0, and after `timeout` seconds."""
        try:
            done = subprocess.run(
                self.wrap(argv), capture_output=True, text=True, timeout=timeout, input=stdin, env=env, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise CommandError(f"{self.name}: {' '.join(argv)} did not end within {timeout:g} s") from late
        if check and done.returncode != 0:
            output = (done.stdout + done.stderr).strip()
            raise CommandError(f"{self.name}: {' '.join(argv)} ended with {done.returncode}: {output[-2000:]}")
        return done

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start; it ends with the host at the latest. A session of its own keeps the terminal's Ctrl-C from it."""
        return subprocess.Popen(
            self.wrap(argv), stdin=stdin, stdout=stdout, stderr=stderr, env=env, text=True, start_new_session=True
        )

    def sysctl(self, **values: int | str) -> None:
        """Set kernel parameters; `__` stands for the dot: `sysctl(net__ipv4__ip_forward=1)`."""
        self.run(["sysctl", "-q", "-w", *(f"{name.replace('__', '.')}={value}" for name, value in values.items())])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Namespace(Host):
    """A network namespace with a name that holds our pid: `cr-<pid>-<number>-<name>`.

    IPv6 addresses are usable at once (no duplicate address detection) and nothing is learnt from router advertisements. The port of a
    TCP connection that this side closed first is free again after a second: fuzzers make more of them in a minute than there are ports.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        sweep()
        self.netns = f"cr-{os.getpid()}-{next(_serials)}-{name}"
        self._started: list[subprocess.Popen[str]] = []
        self._closed = False
        self._names: tempfile.TemporaryDirectory[str] | None = None
        self._token = cleanup.register(self.close)
        _ip("netns", "add", self.netns)
        self._fd = os.open(RUN_NETNS / self.netns, os.O_RDONLY)
        self.sysctl(
            net__ipv6__conf__default__accept_dad=0,
            net__ipv6__conf__default__dad_transmits=0,
            net__ipv6__conf__default__accept_ra=0,
            net__ipv6__conf__default__router_solicitations=0,
            net__ipv4__tcp_tw_reuse=1,
        )
        _ip("-n", self.netns, "link", "set", "lo", "up")

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """By nsenter: unlike `ip netns exec` it leaves /sys, and so a bpffs, as it is. The pid is the command's own."""
        inside = ["nsenter", f"--net={RUN_NETNS / self.netns}", "--"]
        if self._names is not None:
            bind = f"mount --bind {self._names.name}/hosts /etc/hosts"
            inside += ["unshare", "--mount", "--", "sh", "-c", f'{bind} && exec "$0" "$@"']
        return [*inside, *argv]

    def know(self, names: Mapping[str, str]) -> None:
        """Let the host's own /etc/hosts have `names` (name → address), for what is started from now on."""
        self._names = self._names or tempfile.TemporaryDirectory(prefix="names-")
        lines = [f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **names}.items()]
        Path(self._names.name, "hosts").write_text("".join(lines), encoding="ascii")

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """As Host.popen; remembered, so that `close` reaps it."""
        process = super().popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env)
        self._started.append(process)
        return process

    def sysctl(self, **values: int | str) -> None:
        """As Host.sysctl, without a process per call."""
        with self.enter():
            for name, value in values.items():
                Path("/proc/sys", *name.split("__")).write_text(f"{value}\n", encoding="ascii")

    @contextmanager
    def enter(self) -> Iterator[None]:
        """The calling thread works inside; sockets opened there stay there."""
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _setns(self._fd)
            yield
        finally:
            _setns(outside)
            os.close(outside)

    def pids(self) -> list[int]:
        """Processes that sit in the namespace, ours excepted."""
        return _pids(self.netns)

    def close(self) -> None:
        """TERM, then KILL what sits inside, reap what we started, delete the namespace."""
        if self._closed:
            return
        self._closed = True
        _delete(self.netns, self._started)
        for process in self._started:
            with suppress(ProcessLookupError):
                process.kill()  # what changed its namespace meanwhile
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
        if self._names is not None:
            self._names.cleanup()
        if hasattr(self, "_fd"):
            os.close(self._fd)
        cleanup.forget(self._token)


def sweep() -> list[str]:
    """Delete the namespaces of lab runs that no longer live (killed by SIGKILL). Returns their names."""
    stale = []
    for path in RUN_NETNS.glob("cr-*-*-*") if RUN_NETNS.is_dir() else ():
        pid = path.name.split("-")[1]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            _delete(path.name)
            stale.append(path.name)
    return stale


def _delete(netns: str, started: Sequence[subprocess.Popen[str]] = ()) -> None:
    path = RUN_NETNS / netns
    if not path.exists():
        return

    def living() -> set[int]:
        """What sits inside, and what we started: it may be on its way in."""
        return {*_pids(netns), *(process.pid for process in started if process.poll() is None)}

    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in living():
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
        with suppress(wait.WaitError):
            wait.until(lambda: not living(), f"the processes of {netns} to end", GRACE)
            break
    subprocess.run(["ip", "netns", "delete", netns], check=False, capture_output=True)
    if path.exists():
        raise CommandError(f"namespace {netns} could not be deleted")


def _pids(netns: str) -> list[int]:
    try:
        inside = os.stat(RUN_NETNS / netns)
    except FileNotFoundError:
        return []
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            here = os.stat(f"/proc/{entry.name}/ns/net")
            if (here.st_ino, here.st_dev) == (inside.st_ino, inside.st_dev) and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
