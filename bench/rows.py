"""The rows of `make bench` whose datagrams never leave the kernel: each a set of namespaces that stays up for the whole run.

    redirect   XDP programs that only redirect: the limit       route     kernel routing, no netfilter at all
    xdp        chainrelay, fast path (native)                   static    hand-written nft dnat + snat for one tuple
    generic    chainrelay, fast path in generic mode            nft       chainrelay, rules alone

Relays in user space: proxies.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Final

from chainrelay.datapath.mapping import Counters, Done, Install, Mapping
from chainrelay.datapath.nft_backend import NftBackend
from chainrelay.datapath.ruleset import Firewall as Policy
from chainrelay.datapath.ruleset import Ruleset
from chainrelay.datapath.xdp_entries import key_of
from chainrelay.datapath.xdp_layout import ENTRY4, ENTRY6, Verdict
from chainrelay.privileged.kernel import LinuxKernel
from chainrelay.privileged.xdp_flows import Flows
from chainrelay.wire.endpoint import Endpoint
from lab import link, wait
from lab.fastpath import Fast, FastRow, mappings_along
from lab.row import Row
from traffic import PER_PORT, Traffic, attach, index, mac, module

PORT: Final = 500  # so that 50,000 sessions fit above 15,000 + PORT
LEASE: Final = 3600.0
AT_ONCE: Final = 1_000  # sessions that go to the nftables backend in one batch


@dataclass
class Setup:
    """A row that is up, its traffic, and what proves at the end that the datagrams went the way that is meant."""

    name: str
    hops: int
    traffic: Traffic
    check: Callable[[], None] = lambda: None
    sessions: int = 1


def bare(stack: ExitStack, hops: int, family: int) -> Row:
    """A row without any rules."""
    row = Row(hops, (family,), gro=True)
    stack.callback(row.close)
    for firewall in row.firewalls:
        firewall.host.run(["nft", "flush", "ruleset"])
    return row


def traffic(row: Row, to: Endpoint, sessions: int = 1) -> Traffic:
    """From the client to `to`, by the first firewall."""
    source = Endpoint(row.client_end.address(to.family), PORT)
    return Traffic(row.client_end, row.server_end, source, to, mac(row.firewalls[0].left), sessions=sessions)


def redirect(stack: ExitStack, hops: int, family: int, sessions: int) -> Setup:
    """Every firewall bounces frames from one interface to the other. With more sessions than one each has a cache line, in which the
    program counts, one of four as in the fast path's table: what remembers anything of a session can't do with less."""
    row = bare(stack, hops, family)
    for firewall in row.firewalls:
        made = module(f"LINES={4 * sessions if sessions > 1 else 0}")
        leaf = made["out"].Leaf(index(firewall.right))
        with firewall.host.enter():
            made["out"][0] = leaf
        attach(firewall.left, made.load_func("bounce", made.XDP).fd)
        stack.callback(made.cleanup)
    return Setup("redirect", hops, traffic(row, Endpoint(row.server_end.address(family), PORT), sessions), sessions=sessions)


def route(stack: ExitStack, hops: int, family: int, _: int) -> Setup:
    """The kernel forwards by its routes."""
    row = bare(stack, hops, family)
    network = next(str(each.network) for each in row.server_end.interfaces if each.version == family)
    following = [*(each.left for each in row.firewalls[1:]), row.server_end]
    for firewall, gate in zip(row.firewalls[:-1], following, strict=False):
        link.route(firewall.host, network, gate.address(family))
    return Setup("route", hops, traffic(row, Endpoint(row.server_end.address(family), PORT)))


def static(stack: ExitStack, hops: int, family: int, _: int) -> Setup:
    """What an administrator would write for one tuple."""
    row = bare(stack, hops, family)
    mappings = mappings_along(row, family, PORT)
    table = "ip" if family == 4 else "ip6"
    for firewall, mapping in zip(row.firewalls, mappings, strict=True):
        near, far, leave = mapping.client_side, mapping.server_partner, mapping.server_side
        firewall.host.run(
            ["nft", "-f", "-"],
            stdin=f"""table {table} hand {{
                chain before {{ type nat hook prerouting priority dstnat; policy accept;
                    {table} daddr {near.address} udp dport {near.port} dnat to {far}
                }}
                chain after {{ type nat hook postrouting priority srcnat; policy accept;
                    {table} daddr {far.address} udp dport {far.port} snat to {leave}
                }}
            }}\n""",
        )
    return Setup("static", hops, traffic(row, mappings[0].client_side))


def rules(stack: ExitStack, hops: int, family: int, sessions: int) -> Setup:
    """chainrelay without its fast path."""
    row = bare(stack, hops, family)
    mappings = mappings_along(row, family, PORT)
    backends = []
    for firewall, mapping in zip(row.firewalls, mappings, strict=True):
        with firewall.host.enter():
            backend = NftBackend(Ruleset(Policy.GUEST), LinuxKernel())
            backend.setup()
        stack.callback(backend.close)
        for start in range(0, sessions, AT_ONCE):
            batch = [Install(numbered(mapping, n), LEASE) for n in range(start, min(start + AT_ONCE, sessions))]
            assert backend.apply(batch) == [Done(Counters())] * len(batch)
        backends.append(backend)

    def check() -> None:
        for backend, mapping in zip(backends, mappings, strict=True):
            assert backend.counters([mapping])[0].to_server_packets > 0, "nft carried nothing"

    return Setup("nft", hops, traffic(row, mappings[0].client_side, sessions), check, sessions)


def fast(mode: str) -> Builder:
    """chainrelay with its fast path."""

    def build(stack: ExitStack, hops: int, family: int, sessions: int) -> Setup:
        row = FastRow(hops, mode, (family,), flows=max(4096, 2 * sessions))
        stack.callback(row.close)
        mappings = row.session(family, PORT)
        row.install(mappings, LEASE)
        wait.until(lambda: all(f.ready(m) for f, m in zip(row.firewalls, mappings, strict=True)), "the neighbours")
        for each, mapping in zip(row.firewalls, mappings, strict=True):
            multiply(each, mapping, sessions)
        name = "xdp" if mode == "native" else "generic"

        def check() -> None:
            for each, mapping in zip(row.firewalls, mappings, strict=True):
                assert each.rules.counters([mapping]) == [Counters()], "the rules carried some"
                assert each.verdict(Verdict.FORWARDED) > 0

        return Setup(name, hops, traffic(row.row, mappings[0].client_side, sessions), check, sessions)

    return build


def numbered(mapping: Mapping, number: int) -> Mapping:
    """Session `number` beside `mapping`: the client's port and the exit port move on, as those of the next relay's partner do."""

    def moved(at: Endpoint) -> Endpoint:
        return Endpoint(at.address, at.port + number)

    return replace(
        mapping,
        session=number.to_bytes(16, "big"),
        client_partner=moved(mapping.client_partner),
        server_side=moved(mapping.server_side),
    )


def multiply(fast: Fast, mapping: Mapping, sessions: int) -> None:
    """Copies of the session's entry toward the server, as traffic.c numbers them: straight into the map, for the time that takes."""
    forward = mapping.flows()[0][0]
    key = key_of(forward.source, forward.destination)
    value = fast.kernel.lookup(key)
    assert value is not None
    entry = ENTRY4 if mapping.family == 4 else ENTRY6
    arrives = slice(entry.offsets["key.source_port_be16"], entry.offsets["key.source_port_be16"] + 4)
    leaves = slice(entry.offsets["leaves.source_port_be16"], entry.offsets["leaves.source_port_be16"] + 4)
    # both ports as one number: the source port in its upper half
    arriving, leaving = int.from_bytes(value[arrives]), int.from_bytes(value[leaves])

    def copies() -> Iterator[tuple[bytes, bytes]]:
        made = bytearray(value)
        for number in range(1, sessions):
            step = (number % PER_PORT << 16) + number // PER_PORT
            made[arrives], made[leaves] = (arriving + step).to_bytes(4), (leaving + step).to_bytes(4)
            yield bytes(made[: len(key)]), bytes(made)

    with closing(Flows(fast.folder, mapping.family)) as flows:
        assert flows.insert_all(copies()) == sessions - 1


Builder = Callable[[ExitStack, int, int, int], Setup]
"""Hops, address family, sessions."""

KERNEL: Final[dict[str, Builder]] = {
    "redirect": redirect,
    "xdp": fast("native"),
    "generic": fast("generic"),
    "route": route,
    "static": static,
    "nft": rules,
}
