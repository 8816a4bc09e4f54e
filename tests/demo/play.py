"""The story of the demo, step by step: row, clip, agents, offer, session, video, close, teardown, judgement."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Way
from demo import ladder, media
from demo.checks import RUN, Observations, common_run, failures, payload_hash
from demo.report import Report
from lab import wait
from lab.capture import Capture, Datagram
from lab.kernel import endpoints
from lab.link import connect
from lab.relays import Relays, environment
from lab.remains import remains
from lab.row import Row, links_for
from lab.rulesets import Rules
from lab.tap import Taps

SECONDS = 5
OFFER_PORT = 9799
MEDIA_PORT = 5004  # and 5005 for RTCP (RFC 3551 §8)
OPEN_TIMEOUT = 15.0


class DemoError(Exception):
    """A step could not be done."""


class Play:
    """One run. `run` returns the reasons for which it failed; none means that all is proved."""

    def __init__(
        self,
        hops: int,
        family: int,
        report: Report,
        way: Way = Way.RECURSIVE,
        rules: Rules = "nftables",
        xdp: str = "auto",
        *,
        seal: bool = False,
    ) -> None:
        self._hops, self._family, self._report, self._way, self._rules, self._xdp = hops, family, report, way, rules, xdp
        self._seal = seal
        self._taps = Taps()

    def run(self) -> list[str]:
        """Everything, closed at the end whatever happens."""
        if self._seal and self._xdp == "off":
            raise DemoError("sealed datagrams are opened by the fast path alone: choose XDP=auto, native or generic with SEAL=1")
        with ExitStack() as stack:
            stack.enter_context(self._taps)
            join = self._taps.join if self._seal else connect
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
            row = stack.enter_context(Row(self._hops, (self._family,), rules=self._rules, join=join, **links_for(self._xdp)))
            names = [firewall.name for firewall in row.firewalls]
            rules = f"each firewall with its administrator's rules ({self._rules}, forward: drop)"
            self._report.step(f"client - {' - '.join(names)} - server; {rules}")
            media.make_clip(folder / "clip.ts", SECONDS)
            pictures = media.frames(folder / "clip.ts")
            self._report.step(f"ffmpeg made {SECONDS} s of video, {len(pictures)} frames")
            relays = stack.enter_context(Relays(row, way=self._way.name.lower(), xdp=self._xdp, seal=self._seal))
            self._report.step(f"{self._hops} agent(s) listen, each with its own configuration and keys")
            self._report.step(f"XDP={self._xdp}; what carries UDP:")
            self._report.detail("\n".join(f"{agent.host.name}: {_chosen(agent.fast_path())}" for agent in relays.agents))
            if self._seal:
                self._demand_fast_path(relays)
            seen = self._stream(row, relays, folder, pictures)
        self._summarise(seen)
        return failures(seen)

    def _demand_fast_path(self, relays: Relays) -> None:
        """Raises DemoError unless the last relay can open and seal."""
        last = relays.agents[-1]
        state = last.fast_path()
        off = [f"{name}: {each['why']}" for name, each in state["interfaces"].items() if each["mode"] == "off"]
        if not state["layout"] or off:
            raise DemoError(f"SEAL=1 takes XDP at the last relay, {last.host.name}, and it is off ({'; '.join(off) or state['why']})")

    def _stream(self, row: Row, relays: Relays, folder: Path, pictures: list[str]) -> Observations:
        control = Endpoint(row.server_end.address(self._family), OFFER_PORT)
        with ExitStack() as stack:
            at_server = stack.enter_context(Capture(row.server_end, direction="out"))
            at_client = stack.enter_context(Capture(row.client_end, direction="in"))
            between_relays = {name: stack.enter_context(Capture(end, direction="out")) for name, end in self._taps.ends.items()}
            url = f"rtp://{{peer}}?localrtpport={MEDIA_PORT}&localrtcpport={MEDIA_PORT + 1}"
            offer = row.server.popen(
                [*_OFFER, "--listen", str(control), "--port", str(MEDIA_PORT), "--", *media.streaming(folder / "clip.ts", url)],
                stdout=subprocess.PIPE,
                env=environment(),
            )
            self._report.step(f"server: chainrelay offer --port {MEDIA_PORT} --components 2 -- ffmpeg ... {url}")
            self._report.detail(f"listens at {_line(offer)['at']}")
            player = row.client.popen(
                [sys.executable, "-m", "demo.player", str(relays.client_directory), str(control), str(folder / "received.ts")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(),
            )
            opened = self._hear(player, relays)
            points = self._points(row, opened)
            self._report.step("the session is open; the exchange, with the endpoints as the relays' kernels hold them:")
            names = ["client", *(each.name for each in row.firewalls), "server"]
            self._report.detail(ladder.draw(names, points, self._way, seal=self._seal))
            if opened["sealed"] != self._seal:
                raise DemoError(f"the session is {'' if opened['sealed'] else 'not '}sealed")
            if (str(points[-2]), str(points[-1])) != (opened["exit"], opened["server"]):
                raise DemoError(f"the client was told {opened['exit']} and {opened['server']}, the kernels say otherwise")
            self._report.step(f"ffmpeg streams RTP from the server to {points[-2]}; the server speaks first")
            user_space = {each.name: remains(each.host).sockets for each in row.firewalls}
            status = offer.wait(SECONDS * 4)
            if status != 0:
                raise DemoError(f"the server's `chainrelay offer -- ffmpeg` ended with {status}")
            sent = between(at_server.datagrams(), points[-1], points[-2])
            with suppress(wait.WaitError):  # what did not arrive is for checks.py to tell
                wait.until(lambda: len(between(at_client.datagrams(), points[1], points[0])) >= len(sent), "the last datagram", 2)
            assert player.stdin is not None
            player.stdin.close()
            closed = self._hear(player, relays)
            player.wait(10)
            received = [each.payload for each in between(at_client.stop(), points[1], points[0])]
            sealed = {}
            if self._seal:
                sealed = {"client - fw1": received, **{name: _payloads(each.stop()) for name, each in between_relays.items()}}
                received = _handed_out(folder / "received.ts.datagrams")
            sent = between(at_server.stop(), points[-1], points[-2])
        self._report.step("the session is closed; what the kernels counted:")
        self._report.detail(_table(closed["counters"]))
        if self._seal:
            self._report.detail(f"at the client: {', '.join(f'{name} {count}' for name, count in closed['seal'].items())}")
        self._report.step("what the fast path did with every frame that came, by verdict:")
        self._report.detail("\n".join(f"{agent.host.name}: {_verdicts(agent.fast_path())}" for agent in relays.agents))
        return Observations(
            hops=tuple(each.name for each in row.firewalls),
            sent=[each.payload for each in sent],
            received=received,
            frames_expected=SECONDS * media.FRAME_RATE,
            frames_sent=pictures,
            frames_received=media.frames(folder / "received.ts"),
            counted={each["hop"]: each["to_client_packets"] for each in closed["counters"]},
            in_user_space=user_space,
            remains=self._tear_down(row, relays),
            sealed=sealed,
        )

    def _points(self, row: Row, opened: dict[str, Any]) -> list[Endpoint]:
        """P1, P2, …: as the kernels hold them; of a sealed session the last relay's rules hold nothing, there the client's word counts."""
        firewalls = row.firewalls[:-1] if self._seal else row.firewalls
        points = endpoints(firewalls, Endpoint.parse(opened["local"]), Endpoint.parse(opened["entry"]))
        return [*points, Endpoint.parse(opened["exit"]), Endpoint.parse(opened["server"])] if self._seal else points

    def _tear_down(self, row: Row, relays: Relays) -> dict[str, tuple[str, ...]]:
        """After CLOSE nothing of a session may be left; after `--teardown` nothing at all."""
        after_close = {each.name: remains(each.host).of_sessions for each in row.firewalls}
        for agent in relays.agents:
            agent.stop()
            agent.teardown()
        left = {
            each.name: after_close[each.name] + remains(each.host).all + pins_left(relays.configuration.pins(each.name))
            for each in row.firewalls
        }
        self._report.step(f"all stopped and torn down; left in {self._rules}, XDP programs, pinned maps, conntrack and ports in use:")
        self._report.detail("\n".join(f"{name}: {len(lines)}" for name, lines in left.items()))
        return left

    def _hear(self, player: subprocess.Popen[str], relays: Relays) -> dict[str, Any]:
        """The player's next line."""
        try:
            return _line(player)
        except DemoError:
            self._report.detail(relays.logs())
            raise

    def _summarise(self, seen: Observations) -> None:
        self._report.step("compared:")
        self._report.detail(
            f"datagrams  {len(seen.sent)} sent, {len(seen.received)} received\n"
            f"payloads   sent     sha256 {payload_hash(seen.sent)}\n"
            f"           received sha256 {payload_hash(seen.received)}\n"
            f"frames     {len(seen.frames_sent)} sent, {len(seen.frames_received)} decoded at the client"
        )
        for place, payloads in seen.sealed.items():
            found = "none" if common_run(seen.sent, payloads) is None else "FOUND"
            self._report.detail(f"sealed     {place}: {len(payloads)} datagrams captured; {RUN} octets in a row of what was sent: {found}")


_OFFER = (sys.executable, "-m", "chainrelay.client.cli", "offer", "--components", "2", "--once", "--json")


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next JSON line of a program of ours."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise DemoError(f"{' '.join(map(str, process.args[3:8]))} ended with {process.wait(10)}")  # type: ignore[index]
    said: dict[str, Any] = json.loads(line)
    return said


def _payloads(datagrams: list[Datagram]) -> list[bytes]:
    return [each.payload for each in datagrams]


def _handed_out(path: Path) -> list[bytes]:
    """What the player's library gave it, as player.py writes it."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def between(datagrams: list[Datagram], source: Endpoint, destination: Endpoint) -> list[Datagram]:
    """Those of both components from one endpoint to another."""
    pairs = {(source.next(offset), destination.next(offset)) for offset in (0, 1)}
    return [each for each in datagrams if (each.source, each.destination) in pairs]


def pins_left(pins: Path) -> tuple[str, ...]:
    """What is pinned by the fast path."""
    return tuple(str(path) for path in pins.glob("**/*")) if pins.exists() else ()


def _chosen(state: dict[str, Any]) -> str:
    """The mode of every interface, or why there is none."""
    told = [f"XDP {each['mode']} on {name}" + (f" ({each['why']})" if each["why"] else "") for name, each in state["interfaces"].items()]
    return ", ".join(told) if state["layout"] else f"the rules alone ({state['why'] or 'switched off'})"


def _verdicts(state: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in state["verdicts"].items() if count) or "not loaded"


def _table(counters: list[dict[str, Any]]) -> str:
    head = f"{'hop':<8} {'to client':>10} {'bytes':>10} {'to server':>10} {'bytes':>10}"
    fields = ("to_client_packets", "to_client_bytes", "to_server_packets", "to_server_bytes")
    rows = [f"{each['hop']:<8} " + " ".join(f"{each[name]:>10}" for name in fields) for each in counters]
    return "\n".join([head, *rows])
