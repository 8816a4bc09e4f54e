"""The helper's socket, served over the fake datapath: who may, what is cut, and that nothing of it ends the helper."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chainrelay.datapath import remote
from chainrelay.datapath.fake import FakeBackend
from chainrelay.datapath.mapping import Counters, Done, Install
from chainrelay.datapath.remote import Verb
from chainrelay.errors import DatapathError
from chainrelay.limits import HELPER_CONNECTIONS
from chainrelay.net.helper import HelperBackend
from chainrelay.privileged.service import Service, listen
from unit.datapath.test_remote import MAPPING

LOG = "chainrelay.datapath"


class Helper:
    """A Service on a thread."""

    def __init__(self, path: Path, backend: FakeBackend | None = None, uids: tuple[int, ...] = ()) -> None:
        self.path, self.backend = path, backend or FakeBackend()
        self.pulses = 0
        self.service = Service(self.backend, path, uids or (os.getuid(),), self.alive, 0.05)
        self.thread = threading.Thread(target=self.service.run)
        self.thread.start()

    def alive(self) -> None:
        self.pulses += 1

    def end(self) -> None:
        self.service.stop()
        self.thread.join()
        self.service.close()

    def connect(self, *packets: bytes) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        raw.settimeout(5)
        raw.connect(str(self.path))
        for packet in packets:
            raw.send(packet)
        return raw


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    started = Helper(tmp_path / "socket")
    yield started
    started.end()


def ends(raw: socket.socket) -> bool:
    """Whether the helper closes the connection without another answer."""
    with raw:
        try:
            return raw.recv(100) == b""
        except ConnectionError:
            return True


def test_every_verb_is_the_backends(helper: Helper) -> None:
    remote_backend = HelperBackend(helper.path)
    remote_backend.setup()
    assert remote_backend.apply([Install(MAPPING, 60.0)]) == [Done(Counters())]
    assert {flow.source for flow in remote_backend.flows()} == {flow.source for flow in helper.backend.flows()}
    assert remote_backend.counters([MAPPING]) == [Counters()]
    assert remote_backend.intact()
    assert not remote_backend.seals()
    remote_backend.flush_own()
    assert helper.backend.flows() == []
    remote_backend.close()


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (b"flush ruleset", "CBOR"),
        (remote.plain(Verb.FLUSH_OWN), "FLUSH_OWN before HELLO"),
        (remote.refused(DatapathError("no")), "no verb"),
        (b"\x80" * 10, "CBOR"),
        (b"\x00" * (remote.PACKET + 1), "more than"),
    ],
)
def test_what_is_no_verb_or_comes_too_early_is_cut(helper: Helper, caplog: pytest.LogCaptureFixture, packet: bytes, why: str) -> None:
    with caplog.at_level(logging.WARNING, LOG):
        assert ends(helper.connect(packet))
    assert "cut: pid" in caplog.text
    assert why in caplog.text
    remote_backend = HelperBackend(helper.path)
    assert remote_backend.intact(), "the helper serves on"
    remote_backend.close()


def test_a_second_hello_is_cut(helper: Helper, caplog: pytest.LogCaptureFixture) -> None:
    raw = helper.connect(remote.hello())
    assert raw.recv(100) == remote.hello()
    raw.send(remote.hello())
    assert ends(raw)
    assert "a second HELLO" in caplog.text


def test_a_strangers_uid_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    helper = Helper(tmp_path / "socket", uids=(os.getuid() + 1,))
    try:
        assert ends(helper.connect())
        assert f"uid {os.getuid()} is not the agent's user" in caplog.text
        with pytest.raises(DatapathError, match="systemctl status chainrelay-datapath"):
            HelperBackend(helper.path, timeout=0.2).setup()
    finally:
        helper.end()


@pytest.mark.root
def test_another_user_does_not_even_reach_it(helper: Helper) -> None:
    """The socket's mode keeps out whoever is not of its group, before its credentials are looked at."""
    os.chmod(helper.path.parent, 0o755)  # noqa: S103 - as a RuntimeDirectory is
    os.chmod(helper.path.parent.parent, 0o755)  # noqa: S103
    script = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect({str(helper.path)!r})"
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", script],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert "PermissionError" in done.stderr


def test_one_who_opens_many_connections_loses_the_oldest(helper: Helper) -> None:
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(helper.connect(remote.hello())) for _ in range(HELPER_CONNECTIONS)]
        for raw in raws:
            assert raw.recv(100) == remote.hello()
        last = stack.enter_context(helper.connect(remote.hello()))
        assert last.recv(100) == remote.hello()
        assert ends(raws[0])
        raws[1].send(remote.plain(Verb.INTACT))
        assert remote.read_whether(Verb.INTACT, raws[1].recv(100))


def test_signs_of_life_come_without_questions(helper: Helper) -> None:
    waited = threading.Event()
    while helper.pulses < 3:
        waited.wait(0.05)


def test_a_socket_left_by_a_dead_helper_is_replaced_a_living_ones_is_not(tmp_path: Path, helper: Helper) -> None:
    left = tmp_path / "left"
    listen(left).close()
    listen(left).close()
    with pytest.raises(DatapathError, match="another datapath helper"):
        listen(helper.path)
    with pytest.raises(DatapathError, match="folder"):
        listen(tmp_path / "nowhere" / "socket")
