"""What the units forbid is tried from within: the shipped unit files, with a program in place of the daemon that tries to break out.

Every attempt must fail, and the few things that the daemons live on must work, or a sandbox that forbids everything would pass.
"""

from __future__ import annotations

import json
import re

import pytest

from hosts import packages
from hosts.appliance import configure
from hosts.system import System
from lab import wait
from lab.configuration import Configuration
from lab.row import Row

pytestmark = [pytest.mark.root, pytest.mark.containers, pytest.mark.timeout(1200)]

ATTEMPTS = r"""
import ctypes, json, mmap, os, socket, struct, subprocess
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def nft():
    import nftables
    status, _, why = nftables.Nftables().cmd("add table ip breakout")
    if status:
        raise OSError(why)

attempts = {
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "inet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "exec /usr/bin/true": lambda: subprocess.run(["/usr/bin/true"], check=True),
    "exec a shell": lambda: subprocess.run(["/bin/sh", "-c", ":"], check=True),
    "write /etc": lambda: Path("/etc/breakout").write_text(""),
    "write /usr": lambda: Path("/usr/bin/breakout").write_text(""),
    "write /run": lambda: Path("/run/breakout").write_text(""),
    "write /var/lib": lambda: Path("/var/lib/breakout").write_text(""),
    "write its configuration": lambda: Path("/etc/chainrelay/agent.toml").open("a"),
    "read /root": lambda: os.listdir("/root"),
    "read /etc/shadow": lambda: Path("/etc/shadow").read_text(),
    "read the agent's keys": lambda: [each.read_text() for each in sorted(Path("/etc/chainrelay/keys").iterdir())],
    "read the agent's journal": lambda: Path("/var/lib/chainrelay/probe").read_text(),
    "read the helper's maps": lambda: os.listdir("/run/chainrelay/bpf"),
    "list the helper's socket folder": lambda: os.listdir("/run/chainrelay-datapath"),
    "nft": nft,
    "ip_forward": lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1"),
    "load a module": lambda: called(libc.syscall(313, 0, b"", 0)),
    "mount": lambda: called(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)),
    "setuid 0": lambda: os.setuid(0),
    "bpf": lambda: called(libc.syscall(321, 0, struct.pack("=4I", 2, 4, 8, 1).ljust(72, b"\0"), 72)),  # an array map
    "writable and executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "see process 1": lambda: os.listdir("/proc/1"),
    "realtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "host name": lambda: socket.sethostname("breakout"),
    "a namespace": lambda: called(libc.unshare(0x10000000)),  # the last one: it takes rights away
}
told = {}
for name, attempt in attempts.items():
    try:
        attempt()
        told[name] = ""
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
print("TOLD", json.dumps(told), flush=True)
"""

PROBE = "/usr/lib/chainrelay/probe.py"

# What each daemon can do of that, since it lives on it; all else must have failed.
MAY = {
    "chainrelay-agent": {"inet socket", "read the agent's keys", "read the agent's journal", "list the helper's socket folder"},
    "chainrelay-datapath": {"nft", "bpf", "read the helper's maps", "list the helper's socket folder"},
}


@pytest.fixture(scope="module")
def installed(links: Row, host: System, tmp_path_factory: pytest.TempPathFactory) -> System:
    """The packages, a configuration, and everything that an attempt aims at."""
    packages.install(host, packages.AGENT)
    configuration = Configuration(links, tmp_path_factory.mktemp("etc"))
    configuration.write()
    configure(host, configuration.directory(host.name))
    host.run(["systemctl", "start", "chainrelay-agent"], timeout=60)
    host.run(["install", "-d", "-m", "0700", "-o", "chainrelay-datapath", "/run/chainrelay/bpf"])
    host.run(["install", "-o", "chainrelay", "-m", "0600", "/dev/null", "/var/lib/chainrelay/probe"])
    return host


@pytest.mark.parametrize("unit", MAY)
def test_nothing_breaks_out(installed: System, unit: str) -> None:
    told = tries(installed, unit)
    succeeded = {name for name, error in told.items() if not error}
    assert succeeded == MAY[unit], {name: error for name, error in told.items() if name in succeeded ^ MAY[unit]}


def tries(host: System, unit: str) -> dict[str, str]:
    """The unit as it is shipped, with the attempts instead of its daemon: what each came to, "" = it succeeded."""
    text = host.read(f"/usr/lib/systemd/system/{unit}.service")
    text = re.sub(r"^(ExecReload|Restart|WatchdogSec|ExecStartPre|Type)=.*\n", "", text, flags=re.MULTILINE)
    text, changed = re.subn(r"^ExecStart=.*$", f"Type=oneshot\nExecStart=/usr/bin/python3 {PROBE}", text, flags=re.MULTILINE)
    assert changed == 1
    host.write(PROBE, ATTEMPTS)
    host.write(f"/run/systemd/system/probe-{unit}.service", text)
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "start", f"probe-{unit}"], timeout=60)
    line = wait.until(lambda: next(iter(re.findall("^TOLD (.*)$", host.journal(f"probe-{unit}"), re.MULTILINE)), ""), "the attempts", 20)
    told: dict[str, str] = json.loads(line)
    return told


def test_the_attempts_are_worth_something(installed: System) -> None:
    """Outside of a sandbox, as root, all but one succeed."""
    try:
        said = installed.run(["/usr/bin/python3", "-c", ATTEMPTS]).stdout
    finally:
        clean = "umount /tmp; nft delete table ip breakout; rm -f /etc/breakout /usr/bin/breakout /run/breakout /var/lib/breakout"
        installed.run(["sh", "-c", f"{clean}; hostname -F /etc/hostname"], check=False)
    told = json.loads(said.removeprefix("TOLD "))
    assert {name for name, error in told.items() if error} == {"load a module"}, told  # there is none to load
