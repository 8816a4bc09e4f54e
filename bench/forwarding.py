"""`make bench`: how many datagrams a second one core forwards, by datapath, number of relays, size and sessions.

All cases in one run, pinned to one core, in alternating rounds of which the first is dropped; medians and ranges of *delivered*
datagrams, counted by an XDP sink at the far end. Rows: rows.py and proxies.py. Traffic: traffic.py. Table and plots: report.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import page
import report
import sealed
from proxies import USER_SPACE
from report import Case
from rows import KERNEL, Builder, Setup

BUILDERS: Final[dict[str, Builder]] = {**KERNEL, **USER_SPACE}
SIZES: Final = (64, 512, 1400)


@dataclass(frozen=True)
class Want:
    """One row to set up and the sizes to offer it."""

    row: str
    hops: int
    sessions: int = 1
    sizes: tuple[int, ...] = (64,)


@dataclass(frozen=True)
class Plan:
    """What is measured. `probes`: datagrams per latency sample, 0 = none."""

    rounds: int
    seconds: float
    probes: int
    wants: tuple[Want, ...]


FULL: Final = Plan(
    7,
    0.2,
    2_000,
    (
        *(
            Want(row, hops, sizes=SIZES if hops == 2 else (64,))
            for row in BUILDERS
            for hops in (1, 2, 3)
            if (row, hops) != ("dante", 3)  # three SOCKS5 headers leave no room in 64 octets
        ),
        *(Want(row, 2, sessions) for row in ("redirect", "xdp") for sessions in (1_000, 20_000, 200_000, 1_000_000)),
        *(Want("nft", 2, sessions) for sessions in (1_000, 20_000)),
    ),
)
QUICK: Final = Plan(
    7,
    0.12,
    0,
    (
        *(Want(row, 2) for row in ("redirect", "xdp", "route", "static", "nft", "nginx")),
        Want("xdp", 1),
        Want("xdp", 3),
        Want("redirect", 2, 20_000),
        Want("xdp", 2, 20_000),
    ),
)


@dataclass
class Live:
    """A row that is up, and its cases."""

    setup: Setup
    cases: list[Case] = field(default_factory=list)


def build(stack: ExitStack, plan: Plan, family: int) -> list[Live]:
    """Set up everything; it stays until `stack` ends."""
    live = []
    for want in plan.wants:
        setup = BUILDERS[want.row](stack, want.hops, family, want.sessions)
        live.append(Live(setup, [Case(want.row, want.hops, size, want.sessions) for size in want.sizes]))
        say(f"{want.row}, {want.hops} relays, {want.sessions:,} sessions: up")
    return live


def run(plan: Plan, live: list[Live]) -> None:
    """Alternating rounds; the first of each is warm-up. Then the latencies, likewise."""
    for number in range(plan.rounds + 1):
        for each in live if number % 2 == 0 else reversed(live):
            for case in each.cases:
                measured = each.setup.traffic.measure(plan.seconds, case.size)
                if number > 0:
                    case.delivered.append(measured.delivered)
                    case.offered += measured.offered
                    case.arrived += measured.arrived
        say(f"round {number} of {plan.rounds}")
    for number in range(4 if plan.probes else 0):
        for each in live:
            if each.setup.sessions == 1:
                took = each.setup.traffic.latencies(plan.probes)
                if number > 0 and took:
                    each.cases[0].p50.append(took[len(took) // 2])
                    each.cases[0].p99.append(took[len(took) * 99 // 100])
    for each in live:
        each.setup.check()
        for case in each.cases:
            if not statistics.median(case.delivered):
                raise SystemExit(f"{case.row} over {case.hops} relays delivered nothing")


def say(text: str) -> None:
    """Progress, to standard error."""
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", file=sys.stderr, flush=True)


STARTED: Final = time.monotonic()


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="ends within a minute, prints the ratios")
    parser.add_argument("--rows", nargs="*", choices=list(BUILDERS), help="only these")
    parser.add_argument("--hops", nargs="*", type=int, help="only these")
    parser.add_argument("--family", type=int, default=4, choices=(4, 6), help="6: without the rows in user space")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--write", type=Path, help="write benchmarks.md, its plots and forwarding.json into this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chainrelay-code-") as cache:
        os.environ["CACHE_DIRECTORY"] = cache  # every row loads the same programs: only the first one compiles them
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Set up, run, print, write."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    plan = QUICK if options.quick else FULL
    wants = [
        want
        for want in plan.wants
        if want.row in (options.rows or BUILDERS)
        and want.hops in (options.hops or {want.hops})
        and (options.family == 4 or want.row in KERNEL)
    ]
    plan = Plan(plan.rounds, plan.seconds, plan.probes, tuple(wants))
    method = (
        f"IPv{options.family}, all on core {core}; {plan.rounds} alternating rounds of {plan.seconds:g} s after one of warm-up; "
        "delivered datagrams, counted at the far end; median (lowest to highest)"
    )
    with ExitStack() as stack:
        live = build(stack, plan, options.family)
        run(plan, live)
    cases = [case for each in live for case in each.cases]
    result = report.Result(report.machine(), method, cases)
    print(f"{result.machine}\n{result.method}\n\n{result.table()}\n")
    for name, value in result.ratios().items():
        print(f"{name} {value.median:.3f}")
    if options.json:
        options.json.write_text(result.json(), encoding="utf-8")
    if options.write:
        report.write(result, options.write)
    if options.rows is None and options.hops is None and options.family == 4:
        say("sealed rows")
        sealing = sealed.run(plan.rounds, plan.seconds, (172, 1400) if options.quick else sealed.SIZES)
        print(f"\n{sealing.table()}\n\n{sealing.ratio_lines()}")
        if options.write:
            page.put(options.write, "sealed", f"{report.machine()}. {result.method}.\n\n{sealing.ratio_table()}\n\n{sealing.table()}")


if __name__ == "__main__":
    main()
