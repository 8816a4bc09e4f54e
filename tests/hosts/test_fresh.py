"""A bare Debian, as its installer leaves it, and the README's steps typed as they stand there.

The host reaches the network that this machine reaches, with this machine's own configuration of pip and its certificates: what its
administrator would have set up. Everything else comes from the README.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts import trees
from hosts.appliance import wait_listening
from hosts.booted import Booted, Tree
from hosts.conftest import SITES

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(5400)]
ROOT = Path(__file__).parents[2]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CLONE = "/root/chainrelay"
PATIENCE = 1800.0  # packages and their dependencies come from a mirror
TESTS_PATIENCE = 5000.0

# What the administrator types into his editor, and at which address the relay then listens.
ADDRESS = "10.77.0.1"
EDITOR = f"""#!/bin/sh
set -eu
cd /etc/chainrelay
printf 'id = "fw1"\\nlisten = ["{ADDRESS}:9798"]\\n' >agent.toml
printf '[[route]]\\nto = "*"\\ndirect = true\\n' >routes.toml
printf '[[peer]]\\nid = "alice"\\nkind = "client"\\nkeys = [{{ kid = "1", file = "keys/alice.key" }}]\\nusers = ["alice"]\\n' >peers.toml
printf '[[allow]]\\nuser = "alice"\\nsource = "10.77.0.0/24"\\ndestination = ["10.78.0.0/24"]\\n' >access.toml
test $# = 4
"""


@pytest.fixture(scope="module", params=[each for each in SITES if each in trees.RELEASES])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """Bare, online, with a fresh clone on it."""
    clone = tmp_path_factory.mktemp("clone") / "chainrelay"
    subprocess.run(["git", "-c", f"safe.directory={ROOT}", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    settings, named = pip_of_this_machine()
    inside = {str(each): each for each in named}
    room = tmp_path_factory.mktemp("room")  # an overlay can't lie on an overlay: the tests' own hosts need a disk
    tree = Tree(request.param, trees.Kind.BARE)
    with Booted("fresh", tree, inside, online=True, room=room) as made:
        (made.root / "etc/pip.conf").write_text(settings, encoding="utf-8")
        made.boot()
        made.put(clone, CLONE)
        lan = "ip link add lan type veth peer name wire && ip link set wire up && ip link set lan up"
        made.run(["sh", "-c", f"{lan} && ip address add {ADDRESS}/24 dev lan"])
        made.write("/usr/local/bin/editor", EDITOR)
        made.run(["chmod", "+x", "/usr/local/bin/editor"])
        made.run(["sh", "-c", "apt-get -qq update && apt-get -qq -y install make git"], timeout=PATIENCE)  # how a checkout comes about
        yield made
    tree.close()


@pytest.mark.parametrize("more", ["", " SEAL=1", " WAY=iterative SEAL=1"])
def test_make_demo(host: Booted, more: str) -> None:
    said = types(host, steps("Try it")[0] + more)
    assert said.rstrip().endswith("demo: ok"), said[-3000:]


def test_from_bare_to_relaying(host: Booted) -> None:
    types(host, "make deb")
    for step in steps("Use it"):
        types(host, step)
    wait_listening(host)
    assert host.run(["systemctl", "is-active", "chainrelay-agent", "chainrelay-datapath"]).stdout.split() == ["active", "active"]


def test_make_test(host: Booted) -> None:
    said = types(host, steps("Try it")[1], TESTS_PATIENCE)
    last = said.rstrip().splitlines()[-1]
    assert re.search(r"\d+ passed", last), said[-5000:]
    assert "failed" not in last, said[-5000:]


def steps(section: str) -> list[str]:
    """The commands of the first indented block below a heading of the README, without their comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {section}\n", 1)[1]
    block = re.search(r"(?:^    .+\n)+", text, re.MULTILINE)
    assert block, section
    return [line.split("  #")[0].strip() for line in block[0].splitlines()]


def types(host: Booted, command: str, timeout: float = PATIENCE) -> str:
    """As somebody at its terminal would, who answers every question of apt's with yes; what came out."""
    line = command.replace("apt install", "apt install -y")
    done = host.run(["bash", "-c", f"cd {CLONE} && exec 2>&1 && {line}"], check=False, timeout=timeout)
    print(f"$ {command}\n{done.stdout}")
    assert done.returncode == 0, f"{command}: {done.stdout[-5000:]}"
    return done.stdout


def pip_of_this_machine() -> tuple[str, list[Path]]:
    """pip's settings as a pip.conf, and the files and folders that they name."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    values = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    words = [each for value in values.values() for each in value.split()]
    # the files of an index lie beside its pages
    named = [Path(each.removeprefix("file://")).parent if each.startswith("file://") else Path(each) for each in words]
    found = [each for each in named if each.is_absolute() and each.exists()]
    certificates = [CERTIFICATES] if CERTIFICATES.exists() else []
    text = "[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
    return text, sorted({*found, *certificates})
