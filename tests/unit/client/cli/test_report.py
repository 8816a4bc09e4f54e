"""What a watcher of a session reads, as text and as JSON lines. The events in their order, with real relays: tests/e2e/test_silence.py."""

from __future__ import annotations

import json
from ipaddress import IPv4Address

import pytest

from chainrelay.client import UDP, SealCounters, Session, Trouble
from chainrelay.client.cli.report import Report
from chainrelay.client.data_keys import DataKeys
from chainrelay.client.leg import DirectLeg
from chainrelay.errors import Code, Refusal
from chainrelay.wire.endpoint import Endpoint, Target
from chainrelay.wire.messages import HopCounters
from unit.client.fake_relay import run

HERE = Endpoint(IPv4Address("127.0.0.1"), 5004)
ID = bytes(range(16))
COUNTERS = (HopCounters("fw1", 1, 100, 2, 200), HopCounters("fw2", 1, 100, 0, 0))


class Leg(DirectLeg):
    """Ends as the test wants it to."""

    heard: tuple[HopCounters, ...] = ()

    async def close(self) -> tuple[HopCounters, ...]:
        return self.heard


class Unheard(Leg):
    lingers = 61.4


class Used(DataKeys):
    """Has seen everything."""

    @property
    def counters(self) -> SealCounters:
        return SealCounters(sealed=5, opened=4, forged=3, replayed=2, unknown=1)


def end(leg: Leg, *, as_json: bool, keys: DataKeys | None = None) -> None:
    async def scenario() -> None:
        await Report(as_json=as_json).end(Session(leg, UDP, 1, Target(HERE.address, HERE.port), [], keys))

    run(scenario())


def leg(kind: type[Leg] = Leg, counters: tuple[HopCounters, ...] = ()) -> Leg:
    made = kind(ID, HERE, HERE, 1472)
    made.heard = counters
    return made


def test_counters_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    end(leg(counters=COUNTERS), as_json=False)
    text = capsys.readouterr().out.splitlines()
    assert text[0] == "fw1: to the server 1 packets, 100 bytes; to the client 2 packets, 200 bytes"
    assert len(text) == 2
    end(leg(counters=COUNTERS), as_json=True)
    closed = json.loads(capsys.readouterr().out)
    assert (closed["event"], closed["session"], closed["lingers"]) == ("closed", ID.hex(), 0)
    assert closed["counters"][0] == {"hop": "fw1", "to_server": {"packets": 1, "bytes": 100}, "to_client": {"packets": 2, "bytes": 200}}


def test_what_became_of_sealed_datagrams(capsys: pytest.CaptureFixture[str]) -> None:
    keys = Used()
    end(leg(), as_json=False, keys=keys)
    assert capsys.readouterr().out == "here: 5 datagrams sealed, 4 opened; dropped: 3 forged, 2 replayed, 1 under no key\n"
    end(leg(), as_json=True, keys=keys)
    assert json.loads(capsys.readouterr().out)["seal"] == {"sealed": 5, "opened": 4, "forged": 3, "replayed": 2, "unknown": 1}


def test_a_close_that_nobody_heard(capsys: pytest.CaptureFixture[str]) -> None:
    end(leg(Unheard), as_json=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert "not every relay has heard it: what may still stand ends by itself within 61 s" in said.err
    end(leg(Unheard), as_json=True)
    assert json.loads(capsys.readouterr().out)["lingers"] == 61.4


@pytest.mark.parametrize(("left", "means"), [(40.2, "Datagrams pass for another 40 s"), (0.0, "No datagram passes any more")])
def test_trouble(left: float, means: str, capsys: pytest.CaptureFixture[str]) -> None:
    trouble = Trouble(Refusal(Code.NEXT_HOP_TIMEOUT, "no answer from fw2", "fw1"), left)

    async def scenario(*, as_json: bool) -> None:
        session = Session(leg(), UDP, 1, Target(HERE.address, HERE.port), [])
        Report(as_json=as_json).watch(session)
        session.on_trouble(trouble)
        session.on_trouble(None)
        await session.close()

    run(scenario(as_json=False))
    said = capsys.readouterr()
    assert said.out == ""
    assert "can't be renewed: hop fw1: no answer from fw2 [next-hop-timeout]" in said.err
    assert means in said.err
    assert said.err.splitlines()[-1].endswith("is renewed again")
    run(scenario(as_json=True))
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    known = {"session": ID.hex(), "code": "next-hop-timeout", "hop": "fw1", "text": "no answer from fw2", "left": round(left, 1)}
    assert first == {"event": "trouble", **known}
    assert last == {"event": "back", "session": ID.hex()}
