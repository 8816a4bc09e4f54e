"""A row of booted hosts with the packages on them: client, firewalls, server, as administrators would set them up.

    with Appliances(site) as row: ...      # everything installed, configured, started

The topology, the administrators' rulesets and the configuration are the lab's own; only the hosts differ.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from chainrelay.wire.endpoint import Endpoint
from hosts import packages
from hosts.system import System
from hosts.traffic import Ends
from lab import wait
from lab.configuration import Configuration
from lab.row import links_for
from lab.rulesets import CONTROL_PORT

if TYPE_CHECKING:
    from hosts.site import Site
    from hosts.traffic import Outcome

FAMILY: Final = 4
OFFER_PORT: Final = 9799
AGENT: Final = "chainrelay-agent"
HELPER: Final = "chainrelay-datapath"
PINS: Final = Path("/run/chainrelay/bpf")
LISTEN_TIMEOUT: Final = 60.0
CLOSE_TIMEOUT: Final = 20.0  # seconds; a client asks its relays again until they answer


@dataclass
class Outcomes:
    """Measured in a run, for its report."""

    lines: list[str] = field(default_factory=list)

    def add(self, what: str, outcome: Outcome) -> None:
        """One ordeal."""
        self.lines.append(f"{what}: {outcome}")


class Appliances:
    """The row. Every host runs the packages of `version`; `xdp` is as in agent.toml; `sealed`: sessions are (Call)."""

    def __init__(self, site: Site, hops: int = 2, version: str = packages.NEW, xdp: str = "off", *, sealed: bool = False) -> None:
        self.site, self.xdp, self.sealed = site, xdp, sealed
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="appliances-")))
            self.row = stack.enter_context(site.row(hops, **links_for(xdp)))
            pins = None if xdp == "off" else PINS
            last = self.row.firewalls[-1].name if sealed else ""  # the routes name it; `forward --seal` seals
            self.configuration = Configuration(self.row, self.folder, xdp=xdp, pinned=pins, last=last)
            self.configuration.write()
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda host: self._set_up(host, version), self.hosts))
            for firewall in reversed(self.firewalls):
                start(firewall)
            self._stack = stack.pop_all()

    @property
    def hosts(self) -> list[System]:
        """All, from client to server."""
        return [self.client, *self.firewalls, self.server]

    @property
    def firewalls(self) -> list[System]:
        """The relays."""
        return [as_system(each.host) for each in self.row.firewalls]

    @property
    def client(self) -> System:
        """The client."""
        return as_system(self.row.client)

    @property
    def server(self) -> System:
        """The server."""
        return as_system(self.row.server)

    @property
    def control(self) -> Endpoint:
        """The server's control endpoint."""
        return Endpoint(self.row.server_end.address(FAMILY), OFFER_PORT)

    def _set_up(self, host: System, version: str) -> None:
        host.boot()
        packages.install(host, packages.AGENT if host in self.firewalls else packages.CLIENT, version)
        if host is not self.server:
            configure(host, self.configuration.directory(host.name))
        if host in self.firewalls and self.xdp != "off":
            self.site.spare_compiling(host)

    def close(self) -> None:
        """Everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_system(host: object) -> System:
    """The row's hosts are what its site makes."""
    assert isinstance(host, System)
    return host


def configure(host: System, directory: Path) -> None:
    """Copy the tables and the keys into /etc/chainrelay, the keys owned by the agent, as the manual says."""
    host.put(directory, "/etc/chainrelay")
    host.run(["sh", "-c", "if getent passwd chainrelay >/dev/null; then chown chainrelay /etc/chainrelay/keys/*; fi"])


def start(host: System) -> None:
    """`systemctl start chainrelay-agent`; waits until it listens."""
    host.run(["systemctl", "start", AGENT], timeout=60)
    wait_listening(host)


def wait_listening(host: System) -> None:
    """Until the agent takes connections."""

    def listens() -> bool:
        return bool(host.run(["ss", "-H", "-l", "-n", "-t", f"sport = :{CONTROL_PORT}"]).stdout)

    try:
        wait.until(listens, f"the agent of {host.name} to listen", LISTEN_TIMEOUT)
    except wait.WaitError as error:
        raise wait.WaitError(f"{error}\n{host.run(['systemctl', 'status', '--no-pager', '-l', AGENT], check=False).stdout}") from None


def fast_path(host: System) -> dict[str, Any]:
    """What its `--print-datapath` tells."""
    state: dict[str, Any] = json.loads(host.run(["chainrelay-agent", "--print-datapath", "--json"]).stdout)
    return state


def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next JSON line of a program of ours on a host."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{process.args!r} ended with {process.wait(10)}"
    said: dict[str, Any] = json.loads(line)
    return said


class Call:
    """A session that the packages' own command holds open: `offer` on the server, `open` on the client, sealed `forward`.

    It ends with the block, whatever happens there: a session that is left to its lease would be the next test's trouble.
    """

    def __init__(self, row: Appliances, port: int = 5004) -> None:
        with ExitStack() as stack:
            offering = ["chainrelay", "offer", "--listen", str(row.control), "--port", str(port), "--json"]
            self._offer = row.server.popen(offering, stdout=subprocess.PIPE)
            stack.callback(end, self._offer, signal.SIGTERM)
            assert next_line(self._offer)["event"] == "listening"
            verb = ["forward", "0", str(row.control), "--seal"] if row.sealed else ["open", str(row.control)]
            self._open = row.client.popen(["chainrelay", *verb, "--json"], stdout=subprocess.PIPE)
            stack.callback(end, self._open, signal.SIGINT)
            said = next_line(self._open)
            if row.sealed:
                assert said["event"] == "forward"
                said = next_line(self._open)
            self.id = str(said["session"])
            local, entry, exit_, peer = (Endpoint.parse(said[name]) for name in ("local", "entry", "exit", "peer"))
            self.ends = Ends(local, entry, exit_, peer, row.sealed)
            self._stack = stack.pop_all()

    def close(self) -> dict[str, Any]:
        """Ctrl-C at the client; returns what the hops counted."""
        self._open.send_signal(signal.SIGINT)
        try:
            said = next_line(self._open)
            while said["event"] != "closed":  # `moved` may have come before
                said = next_line(self._open)
            self._open.wait(CLOSE_TIMEOUT)
        finally:
            self._stack.close()
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def end(process: subprocess.Popen[str], signum: int) -> None:
    """By the signal; by force if it does not heed it."""
    for each in (signum, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(each)
            with suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_TIMEOUT)
