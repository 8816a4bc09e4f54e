"""`make bench-setup`: how fast sessions are set up through two hops, and whether that depends on how many stand already.

Two real agents and a real client (setup_load.py), each a process in a network namespace of its own, on the real kernel. A set-up
counts when OPENED has reached the client: rules exist at both relays then. Closing is outside the measured time.
Rounds at each number of standing sessions; medians with ranges. Then the same with nothing standing as packages run it: agent and
helper as two processes, with the journal. `--quick` ends within a minute or so and prints `name value` lines.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import page
from lab.configuration import KID, USER
from lab.relays import Relays, environment
from lab.row import Row
from lab.rulesets import CONTROL_PORT

POOL = "10000-59999"
EPHEMERAL = "60000 65535"  # out of the pool's way, inside the benchmark's own namespaces
LIMITS = "[limits]\nsessions_per_principal = 100000\nopens_per_second = 1000000\nhandshakes_per_second = 100000\n"


@dataclass(frozen=True)
class Plan:
    """What is measured: standing sessions, and per number of concurrent requests how many set-ups a round has."""

    standing: tuple[int, ...]
    per_round: dict[int, int]
    rounds: int
    handshakes: int


FULL = Plan((0, 1_000, 20_000), {1: 400, 32: 3_000, 256: 3_000}, 7, 600)
QUICK = Plan((0, 20_000), {1: 200, 32: 1_500}, 3, 300)


@dataclass
class Line:
    """One line of the result."""

    standing: int
    concurrent: int
    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


class LoadClient:
    """The client process, told what to do."""

    def __init__(self, row: Row, relays: Relays) -> None:
        command = [sys.executable, str(Path(__file__).with_name("setup_load.py"))]
        self._process = row.client.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
        files = (relays.client_directory / "keys").iterdir()
        keys = {file.stem: base64.b64decode(file.read_text(encoding="ascii")).hex() for file in files}
        family = row.families[0]
        self.ask(
            me=USER, relay="fw1", at=f"{row.firewalls[0].bound(family)}:{CONTROL_PORT}", kid=KID,
            keys=keys, server=str(row.server_end.address(family)),
        )  # fmt: skip

    def ask(self, **command: object) -> dict[str, Any]:
        """One command, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the load client ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("failed"):
            raise SystemExit(f"set-ups failed: {answer['failed']}")
        return answer


def measure(plan: Plan, client: LoadClient, relays: Relays) -> tuple[list[Line], dict[str, float]]:
    """All rounds. Returns the table's rows and the single figures."""
    rows: list[Line] = []
    figures: dict[str, float] = {}
    client.ask(do="open", count=500, concurrent=32, keep=False)  # warm-up, not counted
    figures["handshake_rate"] = handshakes(plan, client)
    figures["iterative_setup_rate"] = iterative(plan, client)
    empty, stand = memory(relays), 0
    for standing in plan.standing:
        say(f"{standing} standing")
        client.ask(do="open", count=standing - stand, concurrent=64, keep=True)
        stand = standing
        rows += [one_row(plan, client, standing, concurrent) for concurrent in plan.per_round]
    figures["agent_bytes_per_session"] = (memory(relays) - empty) / stand
    client.ask(do="close_kept")
    say("0 standing again, to see whether the machine drifted")
    again = one_row(plan, client, 0, 32)
    figures["rate_at_0_after"] = statistics.median(again.rates)
    return rows, figures


def two_processes(plan: Plan, client: LoadClient) -> list[Line]:
    """As packages run it; what stands already changes nothing there that it does not change in one process."""
    client.ask(do="open", count=500, concurrent=32, keep=False)
    say("agent and helper as two processes, with the journal")
    return [one_row(plan, client, 0, concurrent) for concurrent in plan.per_round]


def one_row(plan: Plan, client: LoadClient, standing: int, concurrent: int) -> Line:
    """All rounds at one concurrency, the first one thrown away as warm-up."""
    row = Line(standing, concurrent)
    for round_number in range(plan.rounds + 1):
        answer = client.ask(do="open", count=plan.per_round[concurrent], concurrent=concurrent, keep=False)
        if round_number == 0:
            continue
        latencies = sorted(answer["latencies_ms"])
        row.rates.append(len(latencies) / answer["seconds"])
        row.p50.append(latencies[len(latencies) // 2])
        row.p99.append(latencies[len(latencies) * 99 // 100])
    say(f"  {concurrent:4} at once: {statistics.median(row.rates):7.0f}/s")
    return row


def handshakes(plan: Plan, client: LoadClient) -> float:
    """Complete mutual handshakes per second at relay 1, connections of TCP included."""
    rates = []
    for _ in range(plan.rounds):
        answer = client.ask(do="handshakes", count=plan.handshakes, concurrent=16)
        rates.append(plan.handshakes / answer["seconds"])
    say(f"  handshakes: {statistics.median(rates):.0f}/s")
    return float(statistics.median(rates))


def iterative(plan: Plan, client: LoadClient) -> float:
    """Set-ups per second in the iterative way, the end-to-end handshake with relay 2 included, 32 at once."""
    rates = []
    for _ in range(plan.rounds):
        answer = client.ask(do="open", count=plan.handshakes, concurrent=32, keep=False, way="iterative")
        rates.append(plan.handshakes / answer["seconds"])
    say(f"  iterative: {statistics.median(rates):.0f}/s")
    return float(statistics.median(rates))


def memory(relays: Relays) -> float:
    """Resident bytes of an agent, the mean of all."""
    sizes = []
    for agent in relays.agents:
        status = Path("/proc", str(agent.pid), "status").read_text(encoding="ascii")
        sizes.append(next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")))
    return float(statistics.mean(sizes))


def table(rows: list[Line]) -> str:
    """For people, and for docs/benchmarks.md."""
    lines = ["| standing | at once | set-ups/s (range) | p50 ms (range) | p99 ms (range) |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.standing:,} | {row.concurrent} | {spread(row.rates, 0)} | {spread(row.p50, 2)} | {spread(row.p99, 2)} |"
        for row in rows
    ]
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def machine() -> str:
    """What the figures were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines() if "model name" in line),
        "unknown processor",
    )
    return f"{os.cpu_count()} cores, {model}; Linux {platform.release()}; Python {platform.python_version()}"


def names(rows: list[Line], figures: dict[str, float]) -> dict[str, float]:
    """The figures that have names."""
    rate = {(row.standing, row.concurrent): statistics.median(row.rates) for row in rows}
    p50 = {(row.standing, row.concurrent): statistics.median(row.p50) for row in rows}
    empty = statistics.mean((rate[0, 32], figures["rate_at_0_after"]))
    return {
        "setup_rate_2hop": rate[0, 32],
        "setup_p50_ms": p50[0, 1],
        "setup_flat_20k": rate[20_000, 32] / empty,
        "handshake_rate": figures["handshake_rate"],
        "iterative_setup_rate": figures["iterative_setup_rate"],
        "agent_bytes_per_session": figures["agent_bytes_per_session"],
    }


def packaged_names(rows: list[Line]) -> dict[str, float]:
    """Those of the two processes."""
    found = {row.concurrent: row for row in rows}
    return {"packaged_setup_rate_2hop": statistics.median(found[32].rates), "packaged_setup_p50_ms": statistics.median(found[1].p50)}


def say(text: str) -> None:
    """Progress, to standard error, so that standard output stays for the result."""
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", file=sys.stderr, flush=True)


STARTED = time.monotonic()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Set-up rate through two hops.")
    parser.add_argument("--quick", action="store_true", help="within a minute, `name value` lines only")
    parser.add_argument("--iterative", action="store_true", help="iterative_setup_rate alone, in seconds")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="put the table into benchmarks.md there")
    parser.add_argument("--json", type=Path, help="write everything there as well")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    with Row(2, (4,)) as row:
        for host in (row.client, row.server, *(firewall.host for firewall in row.firewalls)):
            host.sysctl(net__ipv4__ip_local_port_range=EPHEMERAL)
        extra = {firewall.name: LIMITS for firewall in row.firewalls}
        with Relays(row, pool=POOL, extra=extra, level="warning", user=USER) as relays:
            if options.iterative:
                client = LoadClient(row, relays)
                client.ask(do="open", count=500, concurrent=32, keep=False, way="iterative")  # warm-up
                print(f"iterative_setup_rate {iterative(QUICK, client):.0f}")
                return
            rows, figures = measure(plan, LoadClient(row, relays), relays)
            for agent in relays.agents:
                agent.stop()
                agent.teardown()
        with Relays(row, pool=POOL, extra=extra, level="warning", user=USER, confined=True) as relays:
            packaged = two_processes(plan, LoadClient(row, relays))
    result = names(rows, figures) | packaged_names(packaged)
    text = f"{machine()}. {plan.rounds} rounds each, after one for warm-up; medians and ranges.\n\n{table(rows)}\n"
    text += f"\nAgent and helper as two processes, with the session journal:\n\n{table(packaged)}\n"
    if not options.quick:
        print(text)
    if options.write:
        figures_table = "\n".join(f"| {name} | {value:,.3f} |" for name, value in result.items())
        page.put(options.write, "set-up", f"{text}\n| figure | |\n|---|---|\n{figures_table}")
    for name, value in result.items():
        print(name, f"{value:.3f}" if value < 100 else f"{value:.0f}")
    if options.json:
        detail = {"machine": machine(), "figures": result, "rows": [vars(row) for row in rows], "packaged": [vars(row) for row in packaged]}
        options.json.write_text(json.dumps(detail, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
