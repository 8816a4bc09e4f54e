"""iptables-legacy of one network namespace, as values: the side of the workers' pipes that has no python-iptables in it.

All commands and commits happen in the workers (iptables_worker.py), which hold the xtables lock meanwhile, so an administrator's
command never falls in between. What a worker says went wrong gets its advice here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from chainrelay.datapath.legacy_backend import ChainsGoneError
from chainrelay.datapath.legacy_ruleset import DESTINATIONS, SOURCES, TABLES, render, teardown
from chainrelay.datapath.mapping import Flow
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.errors import DatapathError

COMMANDS: Final = {4: "iptables-legacy", 6: "ip6tables-legacy"}
INSTALL: Final = "apt install iptables python3-iptables, and run the agent with /usr/bin/python3"
NO_TABLES: Final = 'set datapath.rules = "nftables", or use a kernel with CONFIG_IP_NF_IPTABLES_LEGACY and CONFIG_IP6_NF_IPTABLES_LEGACY'
_TIMEOUT: Final = 30.0  # seconds for a worker to end


class Tables:
    """Everything about iptables. The workers belong to the network namespace of the thread that starts them."""

    def __init__(self) -> None:
        self._workers = {family: Worker(family) for family in COMMANDS}

    def load(self, ruleset: Ruleset, family: int, flows: Iterable[Flow]) -> None:
        """Our chains as they should be with these flows. Raises DatapathError."""
        worker = self._workers[family]
        for table in TABLES:
            worker.ask({"restore": render(ruleset, family, table, flows, worker.ask({"save": table}))})

    def unload(self, family: int) -> None:
        """Remove our chains and hooks. Raises DatapathError."""
        worker = self._workers[family]
        for table in TABLES:
            text = teardown(table, worker.ask({"save": table}))
            if text:
                worker.ask({"restore": text})

    def hooked(self, family: int) -> bool:
        """Whether our chains stand, and are called first. Raises DatapathError."""
        try:
            self._workers[family].ask({"look": None})
        except ChainsGoneError:
            return False
        return True

    def commit(self, family: int, add: Sequence[Flow], delete: Sequence[Flow]) -> None:
        """Rules of flows, all or nothing. Raises ChainsGoneError, DatapathError."""
        self._workers[family].ask({"commit": [_rules(add), _rules(delete)]})

    def close(self) -> None:
        """End the workers; the rules stay."""
        for worker in self._workers.values():
            worker.close()


class Worker:
    """One worker process. It is started at once, so that it sits in the right network namespace; one that dies is replaced."""

    def __init__(self, family: int) -> None:
        self._name = COMMANDS[family]
        self._command = [sys.executable, "-m", "chainrelay.privileged.iptables_worker", str(family)]
        self._process = self._start()

    def ask(self, order: dict[str, Any]) -> str:
        """The text that was asked for, or an empty one. Raises ChainsGoneError, DatapathError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self.close()
            status = self._process.returncode
            self._process = self._start()
            raise DatapathError(f"the worker of {self._name} ended with {status} (its own words are above); {INSTALL}")
        said: dict[str, Any] = json.loads(line)
        if said.get("gone"):
            raise ChainsGoneError(f"{self._name}: the chains CHAINRELAY-* are gone")
        if "error" in said:
            raise DatapathError(f"{self._name}: {advised(said['error'])}")
        return str(said.get("text", ""))

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait(_TIMEOUT)


def advised(said: str) -> str:
    """The words of a command or a commit that failed, with what to do."""
    first = (said.strip() or "no reason given").partition("\n")[0]
    if lacks_tables(said):
        return f"{first}; this kernel has no legacy tables: {NO_TABLES}"
    if not_permitted(said):
        return f"{first}; the agent needs CAP_NET_ADMIN and CAP_NET_RAW in this network namespace, and /run/xtables.lock"
    if "No such file or directory" in said and "iptables-legacy" in said:
        return f"{first}; {INSTALL}"
    return first


def lacks_tables(said: str) -> bool:
    """Whether a command's words mean that the kernel has no such table."""
    return "Table does not exist" in said or "do you need to insmod" in said


def not_permitted(said: str) -> bool:
    """Whether they mean that we may not."""
    return any(words in said for words in ("Permission denied", "must be root", "Operation not permitted"))


def _rules(flows: Sequence[Flow]) -> list[list[Any]]:
    return [rule for flow in flows for rule in (_rule(flow, DESTINATIONS), _rule(flow, SOURCES))]


def _rule(flow: Flow, root: str) -> list[Any]:
    arriving = root == DESTINATIONS
    destination, new = (flow.destination, flow.new_destination) if arriving else (flow.new_destination, flow.new_source)
    ends = [part for end in (flow.source, destination) for part in (str(end.address), end.port)]
    return [root, flow.protocol.name.lower(), *ends, flow.destination.port, str(new.address), new.port]
