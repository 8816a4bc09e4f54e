"""`chainrelay forward` as a process: datagrams both ways, connections each with a session of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from pathlib import Path

import pytest

from chainrelay.client.cli.main import parser
from chainrelay.wire.messages import Way
from unit.client.cli.command import COMMAND, address, datagram_socket, event, run, started
from unit.client.fake_relay import SERVER, until
from unit.client.fake_relay import run as run_scenario
from unit.client.sealed_chain import SealedChain


def test_a_port_in_use_is_told(directory: Path) -> None:
    with datagram_socket() as taken:
        port = taken.getsockname()[1]
        done = run("forward", f"127.0.0.1:{port}", "--peer", "10.9.0.1:5004", "--config", str(directory))
    assert done.returncode == 2, "before the chain is asked, which would be 3 here"
    assert f"LISTEN 127.0.0.1:{port}: can't bind" in done.stderr
    assert "free port" in done.stderr
    assert "P1" not in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [("192.0.2.1:7000",), ("[::1]:0", "--to", "127.0.0.1:9"), ("0", "--tcp", "--to", "127.0.0.1:9")],
)
def test_local_ends_that_can_not_be(wrong: tuple[str, ...], directory: Path) -> None:
    done = run("forward", *wrong, "--peer", "127.0.0.1:5004", "--config", str(directory))
    assert done.returncode == 2, done.stderr
    assert "192.0.2.1:7000" in done.stderr or "--to" in done.stderr


def test_forward_carries_datagrams_of_a_program_whose_port_changes(directory: Path) -> None:
    with datagram_socket() as service, datagram_socket() as program, datagram_socket() as hopped, datagram_socket() as early:
        service_at = f"127.0.0.1:{service.getsockname()[1]}"
        to = f"127.0.0.1:{early.getsockname()[1]}"
        arguments = ("forward", "0", "--peer", service_at, "--to", to, "--json", "--config", str(directory))
        with started(*arguments) as forward:
            listen = address(event(forward.stdout, "forward")["listen"])
            opened = event(forward.stdout, "open")
            service.sendto(b"first", address(opened["exit"]))
            assert early.recvfrom(100) == (b"first", listen)
            for mine in (program, hopped):
                mine.sendto(b"ping", listen)
                data, sender = service.recvfrom(100)
                assert (data, sender) == (b"ping", address(opened["exit"]))
                service.sendto(b"pong", sender)
                assert mine.recvfrom(100) == (b"pong", listen)


def test_forward_carries_connections_each_with_a_session_of_its_own(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(10)
        service_at = f"127.0.0.1:{service.getsockname()[1]}"
        with started("forward", "0", "--tcp", "--peer", service_at, "--json", "--config", str(directory)) as forward:
            listen = address(event(forward.stdout, "forward")["listen"])
            sessions = set()
            for _ in range(2):
                with socket.create_connection(listen, 10) as program:
                    program.sendall(b"question")
                    program.shutdown(socket.SHUT_WR)
                    accepted, sender = service.accept()
                    with accepted:
                        assert accepted.makefile("rb").read() == b"question", "the end of the request arrives as such"
                        accepted.sendall(b"answer")
                    assert program.makefile("rb").read() == b"answer"
                opened = event(forward.stdout, "open")
                assert address(opened["exit"]) == sender
                sessions.add(opened["session"])
            assert len(sessions) == 2


def test_a_pair_that_the_server_offers_is_a_pair_here(directory: Path) -> None:
    offer = ("offer", "--listen", "127.0.0.1:0", "--port", "5004", "--components", "2", "--json")
    with datagram_socket() as program, started(*offer) as server:
        at = event(server.stdout, "listening")["at"]
        with started("forward", "0", at, "--json", "--config", str(directory)) as forward:
            host, port = address(event(forward.stdout, "forward")["listen"])
            assert event(forward.stdout, "open")["components"] == 2
            assert port % 2 == 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second, pytest.raises(OSError, match="in use"):
                second.bind((host, port + 1))
            program.sendto(b"x", (host, port + 1))


@pytest.mark.parametrize(
    "wrong",
    [("--peer", "10.9.0.1"), ("--peer", ""), ("--peer", "10.9.0.1:80", "--lease", "-1"), ("127.0.0.1:9", "--server-id", "nobody"),
     ("127.0.0.1:9", "--server-id", ""), ("bad server",)],
)  # fmt: skip
def test_wrong_arguments_are_told_before_anybody_connects(wrong: tuple[str, ...], directory: Path) -> None:
    done = run("forward", "--tcp", "0", *wrong, "--config", str(directory))
    assert (done.returncode, done.stdout, done.stderr.count("Traceback")) == (2, "", 0)
    assert done.stderr.startswith("chainrelay forward: ")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_it_does_not_go_on_unseen(more: tuple[str, ...], directory: Path) -> None:
    """Whoever read its standard output has gone, and the next line says so."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(10)
        service_at = f"127.0.0.1:{service.getsockname()[1]}"
        command = [*COMMAND, "forward", "0", "--tcp", "--peer", service_at, *more, "--config", str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as forward:
            assert forward.stdout is not None
            line = forward.stdout.readline()
            listen = address(json.loads(line)["listen"] if more else line.split()[1])
            forward.stdout.close()
            with socket.create_connection(listen, 10):
                assert forward.wait(10) == 1
            assert forward.stderr is not None
            assert forward.stderr.read() == ""


def test_connections_can_not_be_sealed(directory: Path) -> None:
    done = run("forward", "0", "--tcp", "--seal", "--peer", "127.0.0.1:5004", "--config", str(directory))
    assert done.returncode == 2
    assert "--seal: TCP sessions can't be sealed" in done.stderr


def test_forward_seals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, through a row of relays that opens and seals."""
    chain = SealedChain(2)
    monkeypatch.setattr("chainrelay.client.cli.common.make_client", lambda _options: chain.owner(Way.RECURSIVE))

    def said() -> list[dict[str, object]]:
        lines.extend(json.loads(line) for line in capsys.readouterr().out.splitlines())
        return lines

    lines: list[dict[str, object]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service, datagram_socket() as program:
            service.bind((str(SERVER), 0))
            for each in (service, program):
                each.setblocking(False)
            options = parser().parse_args(["forward", "0", "--seal", "--peer", f"{SERVER}:{service.getsockname()[1]}", "--json"])
            work = asyncio.ensure_future(options.run(options))
            await until(lambda: len(said()) == 2)
            forward, opened = lines
            assert (opened["sealed"], opened["last"], opened["mtu"]) == (True, "fw2", 1372)
            program.sendto(b"question of the program", address(str(forward["listen"])))
            data, sender = await asyncio.wait_for(loop.sock_recvfrom(service, 100), 5)
            assert data == b"question of the program"
            for answer in (b"answer of the server", b""):
                service.sendto(answer, sender)
                assert await asyncio.wait_for(loop.sock_recv(program, 100), 5) == answer
            program.sendto(bytes(1373), address(str(forward["listen"])))
            program.sendto(bytes(1372), address(str(forward["listen"])))
            assert len(await asyncio.wait_for(loop.sock_recv(service, 2000), 5)) == 1372
            entry = chain.sessions[bytes.fromhex(str(opened["session"]))]
            entry._sockets[0].sendto(b"a stranger's text, not sealed at all", address(str(opened["local"])))
            await asyncio.sleep(0.05)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        assert not any(b"program" in each or b"server" in each for each in chain.captured)

    run_scenario(scenario())
    closed = said()[-1]
    assert closed["seal"] == {"sealed": 2, "opened": 2, "forged": 0, "replayed": 0, "unknown": 1}
    assert chain.sessions == {}
