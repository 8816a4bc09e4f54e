"""Real programs that know nothing of relays, through `chainrelay offer` and `chainrelay forward`."""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chainrelay.wire.endpoint import Endpoint
from e2e.chain import OFFER_PORT, Chain
from lab import wait
from lab.host import Host
from lab.relays import environment

pytestmark = pytest.mark.root

COMMAND = (sys.executable, "-m", "chainrelay.client.cli")
IPERF = 5201
PEER = """
[[peer]]
id = "{0}"
kind = "{1}"
keys = [{{ kid = "2026a", file = "keys/{0}.key" }}]
"""


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("family", [4, 6])
def test_iperf3_loses_nothing(two: Chain, family: int, reverse: bool) -> None:
    """Its control connection is TCP and its load UDP, to the same port number; with -R the server sends."""
    address = two.row.server_end.address(family)
    to = ["--peer", str(Endpoint(address, IPERF)), "--config", str(two.relays.client_directory), "--json"]
    server = two.row.server.popen(["iperf3", "-s", "-1", "-B", str(address)], stdout=subprocess.DEVNULL)
    with talking(two.row.client, [*COMMAND, "forward", str(IPERF), *to, "--tcp"]) as stream:
        assert hear(stream)["event"] == "forward"
        with talking(two.row.client, [*COMMAND, "forward", str(IPERF), *to]) as datagrams:
            assert hear(datagrams)["event"] == "forward"
            load = ["iperf3", "-c", "127.0.0.1", "-u", "-b", "4M", "-l", "1200", "-t", "2", "-J", *(["-R"] if reverse else [])]
            report = json.loads(two.row.client.run(load).stdout)
            opened = hear(datagrams)
            assert opened["peer"] == str(Endpoint(address, IPERF))
    assert server.wait(10) == 0
    total = report["end"]["sum"]
    assert total["packets"] > 500
    assert total["lost_packets"] == 0
    assert two.leftovers() == {}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_forward_ends_the_sessions_of_connections_that_stand(two: Chain, signum: signal.Signals) -> None:
    """Connections in use, and one that is just coming to its end, when the command is told to end."""
    address = two.row.server_end.address(4)
    to = ["--tcp", "--peer", str(Endpoint(address, IPERF)), "--config", str(two.relays.client_directory), "--json"]
    with two.row.server.enter():
        service = socket.create_server((str(address), IPERF))
    with service, talking(two.row.client, [*COMMAND, "forward", "0", *to]) as forwarding, ExitStack() as stack:
        listen = Endpoint.parse(hear(forwarding)["listen"])
        for _ in range(3):
            with two.row.client.enter():
                near = stack.enter_context(socket.create_connection((str(listen.address), listen.port), 10))
            near.sendall(b"x")
            far = stack.enter_context(service.accept()[0])
            assert far.recv(10) == b"x"
            hear(forwarding)
        assert set(two.leftovers()) == {"fw1", "fw2"}
        far.close()
        near.close()
        forwarding.send_signal(signum)
        assert forwarding.wait(10) == 0
        assert two.leftovers() == {}


def test_mosh_through_the_chain(two: Chain) -> None:
    """mosh-server chooses its port; the control connection tells it to the client and P5 to the server's side."""
    address = two.row.server_end.address(4)
    environ = {**environment(), "LC_ALL": "C.UTF-8", "TERM": "xterm", "SHELL": "/bin/sh"}
    started = two.row.server.run(["mosh-server", "new", "-i", str(address), "-p", "60001:60010", "--", "/bin/sh"], env=environ)
    port, key = next(line.split()[2:4] for line in started.stdout.splitlines() if line.startswith("MOSH CONNECT"))
    control = str(Endpoint(address, OFFER_PORT))
    with talking(two.row.server, [*COMMAND, "offer", "--listen", control, "--port", port, "--json"]) as offer:
        assert hear(offer)["event"] == "listening"
        forward = [*COMMAND, "forward", "0", control, "--config", str(two.relays.client_directory), "--json"]
        with talking(two.row.client, forward) as forwarding:
            local = Endpoint.parse(hear(forwarding)["listen"])
            assert hear(offer)["peer"] == hear(forwarding)["exit"]
            ours, theirs = pty.openpty()
            termios.tcsetwinsize(theirs, (24, 80))
            client = two.row.client.popen(
                ["mosh-client", str(local.address), str(local.port)], stdin=theirs, stdout=theirs, stderr=theirs,
                env={**environ, "MOSH_KEY": key},
            )  # fmt: skip
            try:
                os.write(ours, b"echo answer=$((6*7))\n")
                assert b"answer=42" in read_until(ours, b"answer=42")
                os.write(ours, b"exit\n")
                assert client.wait(10) == 0
            finally:
                client.kill()
                os.close(ours)
                os.close(theirs)
    assert two.leftovers() == {}


def test_offer_runs_a_program_for_each_client(two: Chain, tmp_path: Path) -> None:
    """The program is started with the client's P5 and its own port, and ends when the client leaves."""
    control = str(Endpoint(two.row.server_end.address(6), OFFER_PORT))
    started = tmp_path / "started"
    script = f'echo "$0 $1" > {started}; exec sleep 100'
    program = ["--", "sh", "-c", script, "{peer}", "{port}"]
    with talking(two.row.server, [*COMMAND, "offer", "--listen", control, "--port", "5004", "--json", *program]) as offer:
        assert hear(offer)["event"] == "listening"
        client = [*COMMAND, "open", control, "--config", str(two.relays.client_directory), "--json"]
        with talking(two.row.client, client) as opening:
            opened, peer = hear(opening), hear(offer)
            assert peer["peer"] == opened["exit"]
            wait.until(lambda: started.exists() and started.read_text(), "the program to start")
            opening.send_signal(signal.SIGINT)
            closed = hear(opening)
            assert [each["hop"] for each in closed["counters"]] == ["fw1", "fw2"]
            assert opening.wait(5) == 0
        assert hear(offer)["event"] == "left"
        assert started.read_text().split() == [opened["exit"], "5004"]
    assert two.leftovers() == {}


@pytest.mark.parametrize("same_key", [True, False])
def test_client_and_server_authenticate_each_other(two: Chain, tmp_path: Path, same_key: bool) -> None:
    """M15 on the control connection: with the shared key it opens, with another nobody is told anything."""
    control = str(Endpoint(two.row.server_end.address(4), OFFER_PORT))
    at_client, at_server = tmp_path / "client", tmp_path / "server"
    shutil.copytree(two.relays.client_directory, at_client)
    (at_server / "keys").mkdir(parents=True)
    (at_server / "client.toml").write_text('id = "studio"\n')
    key = (at_client / "keys" / "fw1.key").read_text()
    write_key(at_client / "keys" / "studio.key", key)
    write_key(at_server / "keys" / "alice.key", key if same_key else base64.b64encode(os.urandom(32)).decode())
    with (at_client / "peers.toml").open("a") as file:
        file.write(PEER.format("studio", "relay"))
    (at_server / "peers.toml").write_text(PEER.format("alice", "client"))
    offer = [*COMMAND, "offer", "--listen", control, "--port", "5004", "--json", "--authenticate", "--config", str(at_server)]
    with talking(two.row.server, offer) as offering:
        assert hear(offering)["event"] == "listening"
        command = [*COMMAND, "open", control, "--server-id", "studio", "--once", "--json", "--config", str(at_client)]
        done = two.row.client.run(command, check=False, env=environment())
        if same_key:
            assert (done.returncode, hear(offering)["id"]) == (0, "alice"), done.stderr
        else:
            assert done.returncode == 4, done.stderr
            assert "key" in done.stderr
    assert two.leftovers() == {}


def write_key(path: Path, key: str) -> None:
    """Readable by its owner only, as the programs demand."""
    path.touch(0o600)
    path.write_text(key)


@contextmanager
def talking(host: Host, argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A program of ours that prints JSON lines; ended as by Ctrl-C."""
    process = host.popen(argv, stdout=subprocess.PIPE, env=environment())
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Its next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"it ended with {process.wait(5)}"
    said: dict[str, Any] = json.loads(line)
    return said


def read_until(descriptor: int, wanted: bytes, timeout: float = 10.0) -> bytes:
    """A terminal's output up to `wanted`."""
    deadline, read = time.monotonic() + timeout, b""
    while wanted not in read and (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            read += os.read(descriptor, 4096)
    return read
