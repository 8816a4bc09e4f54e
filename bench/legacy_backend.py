"""`python -m legacy_backend [--quick]`: what iptables-legacy costs with many sessions standing, beside nftables.

For 1, 100, 1,000 and 5,000 sessions at one relay: installing all of them in batches, then installing, renewing and removing one
more, the adoption of all by a restart, and the datagrams per second of one core, spread over all sessions, counted at the far
end. A row is a set of namespaces of its own, with no rules but chainrelay's.

Callable alone; prints a table and `name value` lines.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import page
from chainrelay.datapath.legacy_backend import LegacyBackend
from chainrelay.datapath.mapping import Done, Install, Mapping, Operation, Remove, Renew
from chainrelay.datapath.nft_backend import NftBackend
from chainrelay.datapath.ruleset import Firewall as Policy
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.limits import BATCH
from chainrelay.privileged.kernel import open_nft_backend
from chainrelay.privileged.legacy_kernel import open_legacy_backend
from chainrelay.wire.endpoint import Endpoint
from lab.fastpath import mappings_along
from lab.row import Row
from traffic import Traffic, mac

PORT: Final = 5000
LEASE: Final = 3600.0
SIZES: Final = (1, 100, 1000, 5000)
OPENERS: Final[dict[str, Callable[[Ruleset], LegacyBackend | NftBackend]]] = {
    "legacy": open_legacy_backend,
    "nft": open_nft_backend,
}


@dataclass(frozen=True)
class Result:
    """One backend with so many sessions. Times in milliseconds, medians; `batch` per session; rate per second."""

    backend: str
    sessions: int
    batch: float
    install: float
    renew: float
    remove: float
    restart: float
    rate: float


def measure(name: str, sessions: int, repeats: int, seconds: float) -> Result:
    """One row, from its making to its end."""
    with Row(1, (4,), gro=True) as row:
        host = row.firewalls[0].host
        host.run(["nft", "flush", "ruleset"])
        with host.enter():
            backend = OPENERS[name](Ruleset(Policy.GUEST, families=(4,)))
            backend.setup()
        standing = [session(row, number) for number in range(sessions)]
        begin = time.perf_counter()
        for first in range(0, sessions, BATCH):
            apply(backend, [Install(each, LEASE) for each in standing[first : first + BATCH]])
        batch = (time.perf_counter() - begin) / sessions
        if sessions == SIZES[-1]:
            apply(backend, [Remove(standing[-1])])  # the backend's limit: one more has to fit in
        more = session(row, sessions)
        times = [one_more(backend, more) for _ in range(repeats)]
        if sessions == SIZES[-1]:
            apply(backend, [Install(standing[-1], LEASE)])
        with host.enter():
            begin = time.perf_counter()
            backend.setup()
            restart = time.perf_counter() - begin
        source = Endpoint(row.client_end.address(4), PORT)
        gate = mac(row.firewalls[0].left)
        traffic = Traffic(row.client_end, row.server_end, source, standing[0].client_side, gate, sessions=sessions, per_port=1)
        rate = statistics.median([traffic.measure(seconds).delivered for _ in range(repeats + 1)][1:])
        counted = sum(each.to_server_packets > 0 for each in backend.counters(standing))
        assert counted == sessions, f"{counted} of {sessions} sessions carried something"
        backend.close()
        install, renew, remove = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        return Result(name, sessions, batch * 1e3, install, renew, remove, restart * 1e3, rate)


def session(row: Row, number: int) -> Mapping:
    """One with an own port of its own at the relay; the client sends them all from one port."""
    made = mappings_along(row, 4, PORT + number)[0]
    return replace(made, client_partner=Endpoint(made.client_partner.address, PORT))


def one_more(backend: LegacyBackend | NftBackend, mapping: Mapping) -> tuple[float, float, float]:
    """Seconds to install, renew and remove it, each alone in its transaction."""
    took = [apply(backend, [operation]) for operation in (Install(mapping, LEASE), Renew(mapping, LEASE), Remove(mapping))]
    return took[0], took[1], took[2]


def apply(backend: LegacyBackend | NftBackend, operations: Sequence[Operation]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    outcomes = backend.apply(operations)
    took = time.perf_counter() - begin
    assert all(isinstance(each, Done) for each in outcomes), next(each for each in outcomes if not isinstance(each, Done))
    return took


def table(results: Sequence[Result], repeats: int) -> str:
    """For the page: the same rows as printed."""
    lines = [
        f"Linux {platform.release()}, one core, one relay, IPv4, 64 octets; medians of {repeats}; milliseconds for one operation.\n",
        "| rules | sessions | batch | install | renew | remove | restart | delivered/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        times = " | ".join(f"{value:.2f}" for value in (each.batch, each.install, each.renew, each.remove))
        lines.append(f"| {each.backend} | {each.sessions:,} | {times} | {each.restart:.0f} | {each.rate:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="ends within half a minute")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="put the table into benchmarks.md there")
    options = parser.parse_args()
    repeats, seconds = (3, 0.15) if options.quick else (7, 0.5)
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    print(f"iptables-legacy: {platform.release()}, {platform.machine()}, core {core}, 1 relay, IPv4, 64 octets, medians of {repeats}")
    heads = "".join(f" {each:>8}" for each in ("sessions", "batch ms", "install", "renew", "remove", "restart"))
    print(f"{'rules':8}{heads} {'delivered/s':>12}", flush=True)
    results = []
    for sessions in SIZES:
        for name in OPENERS:
            each = measure(name, sessions, repeats, seconds)
            results.append(each)
            times = f"{each.batch:8.2f} {each.install:8.2f} {each.renew:8.2f} {each.remove:8.2f} {each.restart:8.0f}"
            print(f"{name:8} {sessions:8} {times} {each.rate:12,.0f}", flush=True)
    of = {(each.backend, each.sessions): each for each in results}
    least, most = (of["legacy", SIZES[at]] for at in (0, -1))
    if options.write:
        page.put(options.write, "iptables-legacy", table(results, repeats))
    for sessions in SIZES:
        print(f"legacy_install_ms_{sessions} {of['legacy', sessions].install:.2f}")
        print(f"legacy_forwarded_{sessions} {of['legacy', sessions].rate:.0f}")
    print(f"legacy_forwarding_flat_{SIZES[-1]} {most.rate / least.rate:.3f}")
    print(f"legacy_vs_nft_{SIZES[-1]} {most.rate / of['nft', SIZES[-1]].rate:.3f}")


if __name__ == "__main__":
    main()
