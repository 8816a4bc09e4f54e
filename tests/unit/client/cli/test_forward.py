"""`chainrelay forward` as a process: datagrams both ways, connections each with a session of its own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from unit.client.cli.command import address, datagram_socket, event, run, started


def test_a_port_in_use_is_told(directory: Path) -> None:
    with datagram_socket() as taken:
        port = taken.getsockname()[1]
        done = run("forward", f"127.0.0.1:{port}", "--peer", "127.0.0.1:5004", "--config", str(directory))
    assert done.returncode == 2
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
