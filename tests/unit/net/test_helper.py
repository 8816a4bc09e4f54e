"""The agent's end: questions survive a helper that restarts, and an absent one is told with what to do."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from chainrelay.datapath import remote
from chainrelay.datapath.fake import FakeBackend
from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Rekey, Renew
from chainrelay.errors import DatapathError
from chainrelay.limits import BATCH
from chainrelay.net.helper import HelperBackend
from unit.datapath.test_remote import KEYS, MAPPING, SEALED
from unit.privileged.test_service import Helper


def test_a_restart_between_two_questions_is_not_noticed(tmp_path: Path) -> None:
    kernel = FakeBackend()
    first = Helper(tmp_path / "socket", kernel)
    agent = HelperBackend(first.path)
    assert agent.apply([Install(MAPPING, 60.0)]) == [Done(Counters())]
    first.end()
    second = Helper(tmp_path / "socket", kernel)
    try:
        assert agent.apply([Install(MAPPING, 60.0)]) == [Done(Counters())]
        assert len(agent.flows()) == 4
    finally:
        agent.close()
        second.end()


def test_keys_go_to_a_helper_that_seals_and_come_back_as_outcomes(tmp_path: Path) -> None:
    helper = Helper(tmp_path / "socket", FakeBackend(seals=True))
    agent = HelperBackend(helper.path)
    try:
        assert agent.seals()
        lost = Failed("the sealed session is not here", keyless=True)
        assert agent.apply([Renew(SEALED, 60.0), Install(SEALED, 60.0, KEYS), Rekey(SEALED, KEYS)]) == [lost, *[Done(Counters())] * 2]
        assert [flow.sealed for flow in agent.flows()] == [True] * 4
    finally:
        agent.close()
        helper.end()


def test_a_question_waits_for_a_helper_that_comes_later_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent = HelperBackend(tmp_path / "socket", timeout=10)
    helpers: list[Helper] = []

    def start() -> None:
        time.sleep(0.3)
        helpers.append(Helper(tmp_path / "socket"))

    starter = threading.Thread(target=start)
    starter.start()
    agent.setup()
    starter.join()
    agent.close()
    helpers[0].end()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"waiting up to 10 s for the datapath helper at {tmp_path / 'socket'}: No such file or directory"
    ]


def test_more_than_a_packet_holds_goes_in_several(tmp_path: Path) -> None:
    helper = Helper(tmp_path / "socket")
    agent = HelperBackend(helper.path)
    assert agent.apply([Install(MAPPING, 60.0)] * (BATCH + 1)) == [Done(Counters())] * (BATCH + 1)
    assert agent.counters([MAPPING] * (BATCH + 1)) == [Counters()] * (BATCH + 1)
    agent.close()
    helper.end()


def test_without_a_helper_operations_fail_and_the_rest_raises(tmp_path: Path) -> None:
    agent = HelperBackend(tmp_path / "socket", timeout=0.2)
    outcome = agent.apply([Install(MAPPING, 60.0)])[0]
    assert isinstance(outcome, Failed)
    assert "No such file" in outcome.why
    assert "systemctl status chainrelay-datapath" in outcome.why
    with pytest.raises(DatapathError, match="No such file"):
        agent.flows()


def test_a_helper_that_hangs_fails_in_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hanging:
        hanging.bind(str(tmp_path / "socket"))
        hanging.listen(8)
        before = time.monotonic()
        with pytest.raises(DatapathError, match="does not answer"):
            HelperBackend(tmp_path / "socket", timeout=0.3).intact()
        assert time.monotonic() - before < 3


def test_another_version_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "hello", lambda: b"\x82\x00\x07")
    helper = Helper(tmp_path / "socket")
    with pytest.raises(DatapathError, match="restart both"):
        HelperBackend(helper.path, timeout=1).setup()
    helper.end()
