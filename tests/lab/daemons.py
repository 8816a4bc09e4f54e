"""Agent and datapath helper as two processes under uids of their own, with the rights of their units and no more.

    with Relays(row, confined=True) as relays: relays.agents[0].helper.kill() …

The package is copied to where these users can read it: the tree may lie in a folder of root's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chainrelay
from lab import wait
from lab.relays import START_TIMEOUT, STOP_TIMEOUT, Agent, AgentError

if TYPE_CHECKING:
    from lab.host import Namespace

AGENT_UID, HELPER_UID = 64001, 64002
PYTHON = "/usr/bin/python3"  # Debian's, with Debian's packages: a venv may be out of these users' sight
HELPER_CAPABILITIES = "net_admin bpf perfmon"
TREE = Path(__file__).resolve().parents[2]


def copy_package(folder: Path) -> Path:
    """The package where everybody can read it; what PYTHONPATH should be."""
    target = folder / "lib"
    if not target.exists():
        shutil.copytree(TREE / "ebpf", folder / "ebpf")  # where the loader looks for it in a checkout
        shutil.copytree(Path(chainrelay.__file__).parent, target / "chainrelay", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def confine(uid: int, gid: int, capabilities: str) -> list[str]:
    """The command that becomes a user with these capabilities only."""
    keep = "".join(f",+{each}" for each in capabilities.split())
    caps = [f"--{kind}=-all{keep}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return ["setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", "--no-new-privs", *caps]


class Helper:
    """One `chainrelay-datapath`, running or not."""

    def __init__(self, host: Namespace, directory: Path, log: Path, library: Path) -> None:
        self.host, self._directory, self._log, self._library = host, directory, log, library
        run = directory.with_name(f"{directory.name}-run")
        run.mkdir()
        run.chmod(0o750)
        os.chown(run, HELPER_UID, AGENT_UID)
        self.socket = run / "socket"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        if "\nxdp = " in (self._directory / "agent.toml").read_text():  # ExecStartPre= of the unit
            mount = str(TREE / "systemd" / "mount-bpffs")
            self.host.run(["sh", mount, str(self.socket.with_name("bpf")), str(HELPER_UID)])
        command = [
            *self._rights(), PYTHON, "-m", "chainrelay.agent.datapath",
            "--config", str(self._directory), "--socket", str(self.socket), "--agent-user", str(AGENT_UID),
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = process = self.host.popen(command, stdout=log, stderr=log, env=environment(self._library))

        def ready() -> bool:
            if process.poll() is not None:
                raise AgentError(f"{self.host.name}: the helper ended with {process.returncode}: {self.log()[-3000:]}")
            return _accepts(self.socket)

        wait.until(ready, f"the helper of {self.host.name} (log: {self._log})", START_TIMEOUT)

    def _rights(self) -> list[str]:
        """As its unit gives them; with the legacy tables also what docs/configuration.md says of these."""
        if '"iptables-legacy"' not in (self._directory / "agent.toml").read_text():
            return confine(HELPER_UID, AGENT_UID, HELPER_CAPABILITIES)
        lock = self.socket.with_name("xtables.lock")
        lock.touch(0o640)
        os.chown(lock, 0, AGENT_UID)
        bind = f'mount --bind {lock} /run/xtables.lock && exec "$0" "$@"'
        return ["unshare", "--mount", "--", "sh", "-c", bind, *confine(HELPER_UID, AGENT_UID, f"{HELPER_CAPABILITIES} net_raw")]

    def stop(self) -> None:
        """SIGTERM; it must end with status 0."""
        self._end(signal.SIGTERM, 0)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL, -signal.SIGKILL)

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What it has said over all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _end(self, signum: signal.Signals, status: int) -> None:
        assert self._process is not None
        self._process.send_signal(signum)
        ended = self._process.wait(STOP_TIMEOUT)
        if ended != status:
            raise AgentError(f"{self.host.name}: after {signum.name} the helper's status is {ended}: {self.log()[-3000:]}")
        self._process = None


class ConfinedAgent(Agent):
    """An agent without any capability, and its helper. `start` and `stop` are the agent's alone once the helper runs."""

    def __init__(self, host: Namespace, directory: Path, log: Path, listening: int) -> None:
        super().__init__(host, directory, log, listening)
        folder = directory.parent
        folder.chmod(0o755)
        self._library = copy_package(folder)
        for each in (directory, *directory.rglob("*")):
            os.chown(each, AGENT_UID, AGENT_UID)
        directory.chmod(0o750)
        (directory / "agent.toml").chmod(0o640)
        self.state = directory.with_name(f"{directory.name}-state")
        self.state.mkdir(mode=0o700)
        os.chown(self.state, AGENT_UID, AGENT_UID)
        self.helper = Helper(host, directory, log.with_name(f"{directory.name}-helper.log"), self._library)

    def start(self) -> None:
        """Start the helper, if it does not run, and the agent."""
        if self.helper._process is None:
            self.helper.start()
        super().start()

    def log(self) -> str:
        """Both logs."""
        return super().log() + self.helper.log()

    def fast_path(self) -> dict[str, Any]:
        """As root: the pins are the helper's."""
        command = [PYTHON, "-m", "chainrelay.agent.main", "--config", str(self.directory), "--print-datapath", "--json"]
        state: dict[str, Any] = json.loads(self.host.run(command, env=environment(self._library)).stdout)
        return state

    def _environment(self) -> dict[str, str]:
        return {**environment(self._library), "STATE_DIRECTORY": str(self.state)}

    def _command(self) -> list[str]:
        return [
            *confine(AGENT_UID, AGENT_UID, ""), PYTHON, "-m", "chainrelay.agent.main",
            "--config", str(self.directory), "--datapath-socket", str(self.helper.socket),
        ]  # fmt: skip


def _accepts(path: Path) -> bool:
    """Whether somebody listens there (what a killed helper left does not)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def environment(library: Path) -> dict[str, str]:
    """For these processes."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(library), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
