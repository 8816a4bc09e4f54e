"""A configuration or a host that an agent can't work with: it does not start, and says where, why and what to do.

What each mistake is called is unit/config/'s; here the real command ends with its status, on a host of its own, and
`--check-config` tells the same, as text and as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.host import Namespace
from lab.relays import environment
from lab.remains import remains
from unit.config.directory import RELAY, write, write_key

pytestmark = pytest.mark.root

ADDRESS = "10.0.1.1"
TAKEN = 20500
Spoil = Callable[[Path], object]
COMMAND = [sys.executable, "-m", "chainrelay.agent.main", "--config"]


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    """A host with the relay's address; something listens at a port that pools like."""
    with Namespace("fw") as host:
        host.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"])
        host.sysctl(net__ipv4__ip_forward=1)
        with host.enter():
            listener = socket.create_server((ADDRESS, TAKEN))
        yield host
        listener.close()


def says(file: str, text: str) -> Spoil:
    """Another text for a file."""
    return lambda directory: (directory / file).write_text(text)


def adds(text: str) -> Spoil:
    """More text in agent.toml."""
    return says("agent.toml", RELAY["agent.toml"] + text)


def folder_for_key(directory: Path) -> None:
    """A folder where a key file is expected."""
    (directory / "fw2.key").unlink()
    (directory / "fw2.key").mkdir()


MISTAKES: dict[str, tuple[Spoil, str, str, str]] = {
    "unknown key": (adds("[ports]\npol = 5\n"), "agent.toml:ports.pol", "unknown key", "did you mean 'pool'?"),
    "wrong type": (says("agent.toml", 'id = "fw1"\nlisten = 5\n'), "agent.toml:listen", "", "write"),
    "number as text": (adds('[limits]\nopens_per_second = "many"\n'), "agent.toml:limits.opens_per_second", "many", "write"),
    "not TOML": (says("routes.toml", "[[route\n"), "routes.toml", "not TOML", "mend"),
    "file missing": (lambda directory: (directory / "access.toml").unlink(), "access.toml", "", ""),
    "key file missing": (lambda directory: (directory / "fw2.key").unlink(), "peers.toml:peer[2].keys[1].file", "No such file", "key new"),
    "key file is a folder": (
        folder_for_key, "peers.toml:peer[2].keys[1].file", "not a regular file", "key new",
    ),
    "key readable by everybody": (
        lambda directory: write_key(directory / "alice.key", mode=0o644),
        "peers.toml:peer[1].keys[1].file", "open to everybody", "chmod 0600",
    ),
    "key too short": (
        lambda directory: write_key(directory / "alice.key", "c2hvcnQ=\n"), "peers.toml:peer[1].keys[1].file", "bytes, not 32", "key new",
    ),
    "pool reversed": (adds('[ports]\npool = "29999-20000"\n'), "agent.toml:ports.pool", "reversed", '"20000-29999"'),
    "pools that overlap": (adds('[ports]\npool = ["20000-20400", "20300-20450"]\n'), "agent.toml:ports.pool", "", "write"),
    "pool meets a listening port": (
        adds('[ports]\npool = "20000-29999"\n'), "agent.toml:ports.pool", f"listens at {TAKEN}", "move the pool",
    ),
    "pool meets ephemeral ports": (
        adds('[ports]\npool = "30000-40000"\n'), "agent.toml:ports.pool", "ephemeral range", "ip_local_reserved_ports=32768-40000",
    ),
    "pool holds the control port": (adds('[ports]\npool = "9000-9999"\n'), "agent.toml:ports.pool", "control port 9798", "move"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_keeps_the_agent_from_starting(host: Namespace, tmp_path: Path, mistake: str) -> None:
    """Status 2, file and key, why, mend; the check tells the same; nothing is in the kernel."""
    spoil, where, why, mend = MISTAKES[mistake]
    write(tmp_path, RELAY, agent=RELAY["agent.toml"] + '[ports]\npool = "21000-29999"\n')
    spoil(tmp_path)
    started, text, as_json = outcomes(host, [], ["--check-config"], ["--check-config", "--json"], directory=tmp_path)
    for status, told in (started, text):
        assert status == 2, told
        line = next(line for line in told.splitlines() if where in line)
        assert why in line
        assert mend in line
        assert "Traceback" not in told
    report = json.loads(as_json[1])
    assert (as_json[0], report["ok"]) == (2, False)
    file, _, key = where.partition(":")
    problem = next(each for each in report["problems"] if (each["file"], each["key"]) == (file, key))
    assert why in problem["why"]
    assert mend in problem["mend"]
    assert remains(host).tables == ()


def test_a_good_directory_passes(host: Namespace, tmp_path: Path) -> None:
    """The control of the test above: there is one mistake in each of its directories, not more."""
    write(tmp_path, RELAY, agent=RELAY["agent.toml"] + '[ports]\npool = "21000-29999"\n')
    [(status, told)] = outcomes(host, ["--check-config"], directory=tmp_path)
    assert (status, "good" in told) == (0, True), told


def test_a_key_file_that_the_agents_user_may_not_read(host: Namespace) -> None:
    """A real EACCES: root reads everything, so it runs without the capabilities that let it, and the key is another's."""
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        directory = write(Path(folder), RELAY, agent=RELAY["agent.toml"] + '[ports]\npool = "21000-29999"\n')
        for key in directory.glob("*.key"):
            os.chown(key, 65534, 65534)
        user = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search", "--"]
        done = host.run([*user, *COMMAND, folder, "--check-config"], check=False, env=environment())
    assert done.returncode == 2, done.stdout + done.stderr
    assert "peers.toml:peer[1].keys[1].file" in done.stdout
    assert "Permission denied" in done.stdout
    assert "chown" in done.stdout


@pytest.mark.parametrize(
    ("listen", "why"), [(f"{ADDRESS}:{TAKEN}", "in use"), ("192.0.2.77:9798", "assign requested address")], ids=["taken", "foreign"]
)
def test_an_endpoint_that_can_not_be_listened_at(host: Namespace, tmp_path: Path, listen: str, why: str) -> None:
    text = RELAY["agent.toml"].replace(f"{ADDRESS}:9798", listen)
    write(tmp_path, RELAY, agent=text + '[ports]\npool = "21000-29999"\n')
    [(status, told)] = outcomes(host, [], directory=tmp_path)
    outcomes(host, ["--teardown"], directory=tmp_path)  # the static tables stand from before the attempt to listen
    assert status == 2, told
    assert f"agent.toml:listen: can't listen on {listen}: " in told
    assert why in told
    assert "Traceback" not in told


def test_without_the_right_to_change_rules(host: Namespace, tmp_path: Path) -> None:
    """Everything of root's but CAP_NET_ADMIN."""
    write(tmp_path, RELAY, agent=RELAY["agent.toml"] + '[ports]\npool = "21000-29999"\n')
    [(status, told)] = outcomes(host, [], directory=tmp_path, through=["setpriv", "--bounding-set=-net_admin", "--"])
    assert status == 1, told
    assert "CAP_NET_ADMIN" in told
    assert "Traceback" not in told
    assert remains(host).tables == ()


@pytest.mark.parametrize("missing", ["module", "library"])
def test_without_nftables(host: Namespace, tmp_path: Path, missing: str) -> None:
    """python3-nftables is not there, or libnftables behind it is not."""
    write(tmp_path, RELAY, agent=RELAY["agent.toml"] + '[ports]\npool = "21000-29999"\n')
    with shim(missing) as folder:
        env = environment()
        env["PYTHONPATH"] = f"{folder}:{env['PYTHONPATH']}"
        [(status, told)] = outcomes(host, [], directory=tmp_path, env=env)
    assert status == 1, told
    assert "nftables is not usable here" in told
    assert "apt install nftables python3-nftables" in told
    assert "Traceback" not in told


@contextmanager
def shim(missing: str) -> Iterator[str]:
    """A folder for PYTHONPATH whose `nftables` fails as the real one does when it, or its library, is not installed."""
    fault = {
        "module": "raise ModuleNotFoundError(\"No module named 'nftables'\")\n",
        "library": "class Nftables:\n    def __init__(self):\n        raise OSError('libnftables.so.1: cannot open shared object file')\n",
    }[missing]
    folder = tempfile.mkdtemp(prefix="shim-")
    try:
        Path(folder, "nftables.py").write_text(fault)
        yield folder
    finally:
        shutil.rmtree(folder)


def outcomes(
    host: Namespace, *options: list[str], directory: Path, through: list[str] | None = None, env: dict[str, str] | None = None
) -> list[tuple[int, str]]:
    """Run the agent with each of the options, at the same time: status and what it said."""
    processes = [
        host.popen(
            [*(through or []), *COMMAND, str(directory), *each], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env or environment()
        )
        for each in options
    ]
    found = []
    for process in processes:
        told, _ = process.communicate(timeout=20)
        found.append((process.returncode, told))
    return found
