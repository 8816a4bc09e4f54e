"""`chainrelay open` as a process, over loopback without a relay."""

from __future__ import annotations

from pathlib import Path

from unit.client.cli.command import event, run, started


def test_open_prints_endpoints_and_keeps_the_session(directory: Path) -> None:
    with started("offer", "--listen", "127.0.0.1:0", "--port", "5004", "--json") as server:
        at = event(server.stdout, "listening")["at"]
        with started("open", at, "--config", str(directory), "--json") as held:
            opened = event(held.stdout, "open")
            assert opened["peer"] == opened["entry"] == "127.0.0.1:5004"
            assert opened["local"] == opened["exit"]
            assert (opened["sealed"], opened["last"]) == (False, None)
            peer = event(server.stdout, "peer")
            assert (peer["peer"], peer["session"]) == (opened["exit"], opened["session"])
        assert event(server.stdout, "left")["peer"] == opened["exit"]


def test_open_as_text(directory: Path) -> None:
    done = run("open", "--peer", "127.0.0.1:5004", "--components", "2", "--once", "--config", str(directory))
    assert done.returncode == 0
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(rows) == ["session", "protocol", "components", "local", "entry", "exit", "peer", "mtu", "sealed", "last"]
    assert rows["entry"].startswith("127.0.0.1:5004 ")
    assert rows["sealed"].startswith("no ")
    assert rows["last"].startswith("none ")


def test_another_programs_datagrams_can_not_be_sealed(directory: Path) -> None:
    done = run("open", "--seal", "--peer", "10.9.0.1:5004", "--config", str(directory))
    assert done.returncode == 2
    assert "chainrelay forward --seal" in done.stderr


def test_a_seal_that_can_not_be_had_is_explained(directory: Path) -> None:
    direct = run("open", "--seal", "--once", "--peer", "127.0.0.1:5004", "--config", str(directory))
    assert direct.returncode == 1
    assert "is direct" in direct.stderr
    assert "--no-seal" in direct.stderr
    nobody = run("open", "--seal", "--once", "--peer", "10.9.0.1:5004", "--config", str(directory))
    assert nobody.returncode == 1
    assert 'add last = "ITS ID" to the route to 10.9.0.0/16 in routes.toml' in nobody.stderr
