"""`Machine`: one of Vagrant's four (vagrant/), with a kernel of its own, behind the same interface as the containers, by ssh.

`Fleet` brings them up and takes them away; `join` and `lead` are what lab.row needs to see vagrant/Vagrantfile's links as its own.
Commands run as root. A program that is started gets signals by `kill` in the machine: ssh passes none on.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from hosts.booted import ENVIRONMENT
from hosts.system import System
from lab import cleanup, wait
from lab.host import CommandError
from lab.link import End, Link

if TYPE_CHECKING:
    from chainrelay.wire.endpoint import Address

VAGRANT: Final = Path(__file__).parents[2] / "vagrant"
NAMES: Final = ("client", "fw1", "fw2", "server")
SLOWER: Final = 8.0  # how much more patience an emulated machine gets
UP_TIMEOUT: Final = 1500.0  # four machines under emulation: 3 minutes on idle cores
BOOT_TIMEOUT: Final = 300.0


class Fleet:
    """All four machines, from `vagrant up` to `vagrant destroy`. Nothing of ours is installed on them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fleet-")
        self._token = cleanup.register(self.close)
        self.ssh_config = Path(self._folder.name, "ssh_config")
        _vagrant("up", "--provision-with", "network")
        told = _vagrant("ssh-config")
        more = f"  ControlMaster auto\n  ControlPath {self._folder.name}/%n\n  ControlPersist yes\n  ServerAliveInterval 30\n"
        self.ssh_config.write_text(told + f"Host *\n{more}", encoding="utf-8")
        self.machines = {name: Machine(name, self.ssh_config) for name in NAMES}

    def close(self) -> None:
        """Destroy them, and end the private libvirtd; with $CHAINRELAY_KEEP=1 they stay for another run, or for a look at them."""
        if os.environ.get("CHAINRELAY_KEEP") != "1":
            _vagrant("destroy", "-f")
            _private("stop")
        self._folder.cleanup()
        cleanup.forget(self._token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Remote(subprocess.Popen[str]):
    """A program on a machine: ssh here, and there the process whose number is in `pid_file`."""

    machine: Machine
    pid_file: str

    def send_signal(self, sig: int) -> None:
        """To the program itself."""
        name = signal.Signals(sig).name.removeprefix("SIG")
        self.machine.run(["sh", "-c", f"kill -{name} $(cat {self.pid_file})"], check=False)


class Machine(System):
    """One machine."""

    def __init__(self, name: str, ssh_config: Path) -> None:
        super().__init__(name)
        self._ssh_config = ssh_config
        self._numbers = itertools.count(1)
        self._started: list[Remote] = []

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """By ssh, as root."""
        inside = shlex.join(["env", "-i", *ENVIRONMENT, *argv])
        return [*_PRIVATE, "ssh", "-F", str(self._ssh_config), "-q", self.name, f"cd / && exec sudo -n -- {inside}"]

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 20.0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """As Host.run, with the patience that an emulated machine needs."""
        return super().run(argv, check=check, timeout=timeout * SLOWER, stdin=stdin if stdin is not None else "", env=env)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,  # noqa: ARG002  of this machine; inside there is another world
    ) -> subprocess.Popen[str]:
        """As Host.popen; signals reach the program."""
        pid_file = f"/run/test-{next(self._numbers)}.pid"
        command = self.wrap(["sh", "-c", f'echo $$ >{pid_file}; exec "$0" "$@"', *argv])
        process = Remote(command, stdin=stdin, stdout=stdout, stderr=stderr, text=True, start_new_session=True)
        process.machine, process.pid_file = self, pid_file
        self._started.append(process)
        return process

    def boot(self) -> None:
        """It has booted; what the last scenario left is what the next one begins with."""

    def reboot(self) -> None:
        """For real."""
        before = self._boot_id()
        self.run(["systemctl", "reboot"], check=False)

        def back() -> bool:
            with suppress(CommandError, subprocess.TimeoutExpired):
                return self._boot_id() != before
            return False

        wait.until(back, f"{self.name} to boot again", BOOT_TIMEOUT)
        running = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=BOOT_TIMEOUT).stdout.strip()
        if running != "running":
            raise CommandError(f"{self.name} booted {running}: {self.run(['systemctl', '--failed', '--no-legend'], check=False).stdout}")

    def close(self) -> None:
        """End what was started; the machine is the fleet's."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with suppress(OSError):  # what was not written yet, nobody reads
                        pipe.close()
        self._started.clear()

    def _boot_id(self) -> str:
        return self.run(["cat", "/proc/sys/kernel/random/boot_id"], timeout=5).stdout


def join(left: Machine, right: Machine, networks: tuple[str, ...], **_: object) -> Link:
    """The link that Vagrant has laid between two of them, found by its addresses."""
    return Link(_end(left, networks, 1), _end(right, networks, 2))


def lead(host: Machine, network: str, via: Address) -> None:
    """A route that the Vagrantfile must have made: one by hand would not outlive a reboot."""
    if network != "default":
        raise CommandError(f"{host.name}: the Vagrantfile knows no route to {network}")
    found = host.run(["ip", "-4", "route", "get", "10.254.0.1"]).stdout
    if f"via {via} " not in found:
        raise CommandError(f"{host.name}: no route for the row via {via}: {found}")


def _end(host: Machine, networks: tuple[str, ...], number: int) -> End:
    interfaces = tuple(ip_interface(f"{ip_network(each).network_address + number}/{ip_network(each).prefixlen}") for each in networks)
    for listed in json.loads(host.run(["ip", "-j", "-4", "address", "show"]).stdout):
        if str(interfaces[0].ip) in [each["local"] for each in listed["addr_info"]]:
            return End(host, listed["ifname"], interfaces)  # type: ignore[arg-type]  # nobody enters these ends
    raise CommandError(f"{host.name} has no interface with {interfaces[0]}: vagrant/Vagrantfile and tests/lab/row.py differ")


_PRIVATE: Final = (str(VAGRANT / "private.sh"),)


def _private(*words: str) -> str:
    done = subprocess.run([*_PRIVATE, *words], cwd=VAGRANT, capture_output=True, text=True, timeout=UP_TIMEOUT, check=False)
    if done.returncode != 0:
        raise CommandError(f"vagrant/private.sh {' '.join(words)} ended with {done.returncode}: {(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def _vagrant(*words: str) -> str:
    return _private("vagrant", *words)
