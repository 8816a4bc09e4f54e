"""Agents as processes: one per firewall of a row, each with its own configuration directory and log.

`Relays` starts them all; each `Agent` can be stopped, killed, started again, told to reload, torn down. What an agent
does is not this module's business, only whether it runs and what it said.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab import cleanup, wait
from lab.configuration import Configuration
from lab.rulesets import CONTROL_PORT

if TYPE_CHECKING:
    from lab.host import Namespace
    from lab.row import Row

LISTEN = "0A"  # Linux's number of the TCP state, as /proc shows it
START_TIMEOUT = 60.0  # seconds; the compiler and the verifier of the sealing programs on busy cores included
STOP_TIMEOUT = 10.0


class AgentError(AssertionError):
    """An agent did not do what it was started for; the text has the end of its log."""


class Agent:
    """One `chainrelay-agent`, running or not."""

    def __init__(self, host: Namespace, directory: Path, log: Path, listening: int) -> None:
        self.host, self.directory, self._log, self._listening = host, directory, log, listening
        self._process: subprocess.Popen[str] | None = None
        self.packages: Path | None = None
        """A folder in which its Python looks for packages first."""

    def start(self) -> None:
        """Start it and wait until it listens at all of its endpoints."""
        with self._log.open("ab") as log:
            self._process = process = self.host.popen(self._command(), stdout=log, stderr=log, env=self._environment())

        def listens() -> bool:
            if process.poll() is not None:
                raise AgentError(f"{self.host.name}: the agent ended with {process.returncode}: {self.log()[-3000:]}")
            return _listening(process.pid, CONTROL_PORT) >= self._listening

        wait.until(listens, f"the agent of {self.host.name} to listen (log: {self._log})", START_TIMEOUT)

    def run(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The agent's command with other options (`--check-config`, `--print-ruleset`, `--print-datapath`, `--teardown`)."""
        return self.host.run([*self._command(), *options], check=check, env=self._environment())

    def stop(self) -> None:
        """SIGTERM; it must end by itself with status 0."""
        self._end(signal.SIGTERM, 0)

    def kill(self) -> None:
        """SIGKILL: what an agent can do nothing about."""
        self._end(signal.SIGKILL, -signal.SIGKILL)

    def teardown(self) -> None:
        """Remove everything of the agent's from the kernel."""
        self.run("--teardown")

    def fast_path(self) -> dict[str, Any]:
        """What `--print-datapath --json` says."""
        state: dict[str, Any] = json.loads(self.run("--print-datapath", "--json").stdout)
        return state

    def reload(self) -> None:
        """SIGHUP."""
        self.tell(signal.SIGHUP)

    def tell(self, signum: int) -> None:
        """Whatever does not end it."""
        assert self._process is not None
        self._process.send_signal(signum)

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What it has said so far, over all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _environment(self) -> dict[str, str]:
        return environment(self.packages)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "chainrelay.agent.main", "--config", str(self.directory)]

    def _end(self, signum: signal.Signals, status: int) -> None:
        assert self._process is not None
        self._process.send_signal(signum)
        try:
            ended = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            ended = None
        if ended != status:
            raise AgentError(f"{self.host.name}: after {signum.name} the agent's status is {ended}: {self.log()[-3000:]}")
        self._process = None


class Relays:
    """An agent for every firewall of `row`, started from the last to the first. The rest is Configuration's."""

    def __init__(self, row: Row, *, start: bool = True, confined: bool = False, **wishes: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="relays-")
        self._token = cleanup.register(self._clean)
        folder = Path(self._folder.name)
        self.row = row
        self.configuration = Configuration(row, folder, **wishes)
        self.configuration.write()
        endpoints = len(row.families)
        kind: type[Agent] = Agent
        if confined:
            from lab.daemons import ConfinedAgent

            kind = ConfinedAgent
        self.agents = [
            kind(each.host, folder / each.name, folder / f"{each.name}.log", endpoints) for each in row.firewalls
        ]
        if start:
            try:
                for agent in reversed(self.agents):
                    agent.start()
            except BaseException:
                self.close()
                raise

    @property
    def client_directory(self) -> Path:
        """The client's configuration."""
        return self.configuration.directory("client")

    def logs(self) -> str:
        """Everything that the agents said, for a failure's report."""
        return "\n".join(f"--- {agent.host.name}\n{agent.log()}" for agent in self.agents)

    def close(self) -> None:
        """Remove the directories; the processes end with their hosts."""
        self._clean()
        cleanup.forget(self._token)

    def _clean(self) -> None:
        for firewall in self.row.firewalls:
            pins = self.configuration.pins(firewall.name)
            if pins.is_mount():
                subprocess.run(["umount", "--lazy", str(pins)], check=True)  # a daemon that still runs holds the folder of its maps
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(first: Path | None = None) -> dict[str, str]:
    """For processes of ours on a host: they find the same packages as this one, those in `first` before all others.

    With other packages it may be another compiler, so what an earlier one made is not at hand.
    """
    folders = [*([str(first)] if first else []), *(each for each in sys.path if each)]
    cache = {"CACHE_DIRECTORY": ""} if first else {}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONUNBUFFERED": "1", **cache}


def _listening(pid: int, port: int) -> int:
    """How many sockets the process's network namespace listens with; none before it has entered one of its own. There may be an agent
    outside of it as well, the machine's."""
    count = 0
    if Path("/proc", str(pid), "ns", "net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino:
        return count
    for table in ("tcp", "tcp6"):
        for line in Path("/proc", str(pid), "net", table).read_text(encoding="ascii").splitlines()[1:]:
            _number, local, _remote, state = line.split()[:4]
            count += state == LISTEN and int(local.rpartition(":")[2], 16) == port
    return count
