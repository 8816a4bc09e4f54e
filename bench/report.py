"""What `make bench` has measured, as table, JSON, ratios, plots, and as the part of docs/benchmarks.md between its markers."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import page

RATIOS: Final = {
    "xdp_2hop_vs_redirect": (("xdp", 2, 1), ("redirect", 2, 1)),
    "xdp_2hop_vs_route": (("xdp", 2, 1), ("route", 2, 1)),
    "xdp_2hop_vs_nft": (("xdp", 2, 1), ("nft", 2, 1)),
    "xdp_2hop_vs_nginx": (("xdp", 2, 1), ("nginx", 2, 1)),
    "xdp_2hop_vs_coturn": (("xdp", 2, 1), ("coturn", 2, 1)),
    "xdp_3hop_vs_1hop": (("xdp", 3, 1), ("xdp", 1, 1)),
    "redirect_3hop_vs_1hop": (("redirect", 3, 1), ("redirect", 1, 1)),
    "redirect_2hop_vs_route": (("redirect", 2, 1), ("route", 2, 1)),
    "xdp_20k_vs_1": (("xdp", 2, 20_000), ("xdp", 2, 1)),
    "redirect_20k_vs_1": (("redirect", 2, 20_000), ("redirect", 2, 1)),
    "xdp_200k_vs_1": (("xdp", 2, 200_000), ("xdp", 2, 1)),
    "redirect_200k_vs_1": (("redirect", 2, 200_000), ("redirect", 2, 1)),
    "xdp_1m_vs_1": (("xdp", 2, 1_000_000), ("xdp", 2, 1)),
    "redirect_1m_vs_1": (("redirect", 2, 1_000_000), ("redirect", 2, 1)),
    "nft_vs_static": (("nft", 2, 1), ("static", 2, 1)),
}
"""Name: above, below; each row, hops, sessions; 64 octets."""
TARGETS: Final = {
    "xdp_2hop_vs_redirect": 0.85,
    "xdp_2hop_vs_route": 4.5,
    "xdp_2hop_vs_nft": 7.0,
    "xdp_2hop_vs_nginx": 25.0,
    "xdp_2hop_vs_coturn": 10.0,
    "xdp_3hop_vs_1hop": 0.6,
    "xdp_20k_vs_1": 0.9,
    "xdp_200k_vs_1": 0.75,
    "xdp_1m_vs_1": 0.5,
    "nft_vs_static": 0.88,
}
"""What each ratio is meant to reach; the table says which do not. Those of the bare redirect are what there is to reach."""


@dataclass
class Case:
    """One row, number of relays, frame size and number of sessions: a value per round, warm-up excluded."""

    row: str
    hops: int
    size: int
    sessions: int
    delivered: list[float] = field(default_factory=list)
    offered: int = 0
    arrived: int = 0
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Datagrams per second."""
        return statistics.median(self.delivered)


@dataclass(frozen=True)
class Ratio:
    """Two rows compared round by round: what slows the whole machine for a second slows both."""

    median: float
    lowest: float
    highest: float

    @staticmethod
    def of(above: list[float], below: list[float]) -> Ratio:
        """Of two rows' rounds, in their order; a round in which the one below delivered nothing says nothing."""
        rounds = [one / other for one, other in zip(above, below, strict=True) if other]
        return Ratio(statistics.median(rounds), min(rounds), max(rounds)) if rounds else Ratio(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Result:
    """One run."""

    machine: str
    method: str
    cases: list[Case]

    def ratios(self) -> dict[str, Ratio]:
        """The figures that the targets are about, as far as they were measured."""
        of = {(each.row, each.hops, each.sessions): each for each in self.cases if each.size == 64}
        return {
            name: Ratio.of(of[above].delivered, of[below].delivered)
            for name, (above, below) in RATIOS.items()
            if above in of and below in of
        }

    def table(self) -> str:
        """Markdown, readable as it is."""
        lines = [
            "| row | relays | octets | sessions | delivered/s (range) | ns each | lost |",
            "|---|---|---|---|---|---|---|",
        ]
        for each in self.cases:
            spread = f"{each.median:,.0f} ({min(each.delivered):,.0f} to {max(each.delivered):,.0f})"
            lost = 1 - each.arrived / each.offered
            lines.append(
                f"| {each.row} | {each.hops} | {each.size} | {each.sessions:,} | {spread} | {1e9 / each.median:,.0f} | {lost:.1%} |"
                if each.median
                else f"| {each.row} | {each.hops} | {each.size} | {each.sessions:,} | 0 | | {lost:.1%} |"
            )
        return "\n".join(lines)

    def latency_table(self) -> str:
        """One datagram at a time, from the client's interface to the server's; per relay: what one more of them adds."""
        lines = ["| row | µs p50 / p99 by number of relays | one more relay adds, p50 / p99 |", "|---|---|---|"]
        for row in dict.fromkeys(each.row for each in self.cases):
            cases = [each for each in self.cases if each.row == row and each.p50]
            if not cases:
                continue
            p50, p99 = ({each.hops: statistics.median(values) / 1000 for each, values in kind} for kind in _kinds(cases))
            first, last = min(p50), max(p50)
            each_way = ", ".join(f"{hops}: {p50[hops]:.2f} / {p99[hops]:.2f}" for hops in p50)
            adds = [(of[last] - of[first]) / max(1, last - first) for of in (p50, p99)]
            lines.append(f"| {row} | {each_way} | {adds[0]:.2f} / {adds[1]:.2f} |" if last > first else f"| {row} | {each_way} | |")
        return "\n".join(lines)

    def json(self) -> str:
        """Everything."""
        ratios = {name: asdict(ratio) for name, ratio in self.ratios().items()}
        whole = {
            "machine": self.machine,
            "method": self.method,
            "ratios": ratios,
            "cases": [asdict(each) for each in self.cases],
        }
        return json.dumps(whole, indent=1) + "\n"


def _kinds(cases: list[Case]) -> tuple[list[tuple[Case, list[float]]], list[tuple[Case, list[float]]]]:
    return [(each, each.p50) for each in cases], [(each, each.p99) for each in cases]


def machine() -> str:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown processor")
    return f"{os.cpu_count()} cores, {model}; Linux {platform.release()}; load {os.getloadavg()[0]:.1f} at the end"


def write(result: Result, folder: Path) -> None:
    """benchmarks.md between its markers, forwarding.json, and the plots."""
    (folder / "forwarding.json").write_text(result.json(), encoding="utf-8")
    figures = plots(result, folder)
    ratios = "\n".join(_against_target(name, each) for name, each in result.ratios().items())
    parts = [
        f"{result.machine}. {result.method}.",
        *(f"![{title}]({name})" for name, title in figures.items()),
        f"| ratio (64 octets) | median of rounds | range | target | |\n|---|---|---|---|---|\n{ratios}",
        result.table(),
        f"Latency of 64 octets, one datagram under way at a time:\n\n{result.latency_table()}",
        "All figures of this part: [forwarding.json](forwarding.json).",
    ]
    page.put(folder, "forwarding", "\n\n".join(parts))


def _against_target(name: str, ratio: Ratio) -> str:
    target = TARGETS.get(name)
    if target is None:
        return f"| {name} | {ratio.median:.3f} | {ratio.lowest:.3f} to {ratio.highest:.3f} | | the limit |"
    verdict = "met" if ratio.median >= target else "missed in the median" if ratio.highest >= target else "missed"
    return f"| {name} | {ratio.median:.3f} | {ratio.lowest:.3f} to {ratio.highest:.3f} | {target:g} | {verdict} |"


def plots(result: Result, folder: Path) -> dict[str, str]:
    """SVG files by name, with their titles."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "chainrelay"  # the same figures give the same file
    from matplotlib import pyplot as plt

    wanted: dict[str, tuple[str, str, str, Callable[[Case], bool]]] = {
        "forwarding-hops.svg": (
            "Delivered by number of relays (64 octets)",
            "relays",
            "hops",
            lambda each: each.size == 64 and each.sessions == 1,
        ),
        "forwarding-size.svg": (
            "Delivered by frame size (2 relays)",
            "octets",
            "size",
            lambda each: each.hops == 2 and each.sessions == 1,
        ),
        "forwarding-sessions.svg": (
            "Delivered by number of sessions (2 relays, 64 octets)",
            "sessions",
            "sessions",
            lambda each: each.hops == 2 and each.size == 64 and each.row in {"redirect", "xdp", "nft"},
        ),
    }
    for name, (title, label, key, chosen) in wanted.items():
        figure, axes = plt.subplots(figsize=(8, 5))
        for row in dict.fromkeys(each.row for each in result.cases):
            cases = sorted((each for each in result.cases if each.row == row and chosen(each)), key=lambda each: getattr(each, key))
            if not cases:
                continue
            medians = [each.median for each in cases]
            below = [each.median - min(each.delivered) for each in cases]
            above = [max(each.delivered) - each.median for each in cases]
            axes.errorbar([getattr(each, key) for each in cases], medians, [below, above], label=row, marker="o", capsize=3)
        axes.set(title=title, xlabel=label, ylabel="datagrams/s, one core", yscale="log")
        if key == "sessions":
            axes.set_xscale("log")
        elif key == "hops":
            axes.set_xticks([1, 2, 3])
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(folder / name, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return {name: title for name, (title, *_) in wanted.items()}
