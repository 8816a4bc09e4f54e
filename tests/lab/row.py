"""The topology of every end-to-end test: a client, N firewalls, a server, in a row.

    client ── fw1 ── fw2 ── … ── fwN ── server          link k: 10.k.0.0/24 and fd00:k::/64, left .1, right .2
              (a relay may have a filter in front that lends it its address: … ── filter2 ── fw2 ── …)

Client and server send by default to the nearest firewall; a firewall knows only the networks that it touches. So no
routing alone leads from end to end: with 0 hops they share a link, with more only sessions (or an administrator's own
NAT, rulesets.py) carry anything.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from lab import rulesets
from lab.host import Namespace
from lab.link import End, Link, connect, route

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from chainrelay.wire.endpoint import Address


@dataclass(frozen=True)
class Firewall:
    """Relay number `number` (from 1) of the row: its host, its two interfaces and the filter before it."""

    number: int
    host: Namespace
    left: End
    right: End
    filter: End | None = None
    """That filter's outer end; None where there is no filter."""

    @property
    def name(self) -> str:
        """The relay's id."""
        return self.host.name

    def bound(self, family: int) -> Address:
        """The client-side address that the relay has."""
        return self.left.address(family)

    def announced(self, family: int) -> Address:
        """The client-side address at which the neighbour before it reaches it."""
        return (self.filter or self.left).address(family)


def links_for(xdp: str) -> dict[str, Any]:
    """What `Row` needs so that the fast path works in this mode: generic XDP can't complete a partial checksum (link.py)."""
    return {} if xdp == "off" else {"gro": True, "tx_checksum": xdp != "generic"}


class Row:
    """A row of `hops` firewalls, each with an administrator's ruleset. Close it, or use it in `with`."""

    def __init__(
        self,
        hops: int,
        families: Collection[int] = (4, 6),
        *,
        policy: rulesets.Policy = "drop",
        rules: rulesets.Rules = "nftables",
        filtered: Collection[int] = (),
        mtu: int = 1500,
        tx_checksum: bool = True,
        gro: bool | None = None,
        make: Callable[[str], Any] = Namespace,
        join: Callable[..., Link] = connect,
        lead: Callable[[Any, str, Address], None] = route,
    ) -> None:
        """`make`, `join` and `lead` are for other kinds of hosts than namespaces, which have their links and routes already."""
        self._make, self._join, self._lead = make, join, lead
        self.hops, self.families, self.policy, self.rules = hops, tuple(families), policy, rules
        self._stack = ExitStack()
        self._links: list[Link] = []
        with self._stack as stack:  # a failure half-way closes what is there
            chain = [self._host("client")]
            for number in range(1, hops + 1):
                chain += [self._host(f"filter{number}")] if number in filtered else []
                chain.append(self._host(f"fw{number}"))
            chain.append(self._host("server"))
            for number, (left, right) in enumerate(itertools.pairwise(chain), 1):
                networks = tuple(f"10.{number}.0.0/24" if family == 4 else f"fd00:{number}::/64" for family in families)
                self._links.append(self._join(left, right, networks, mtu=mtu, tx_checksum=tx_checksum, gro=gro))
            self.client, self.server = chain[0], chain[-1]
            self.filters = {int(host.name[6:]): host for host in chain if host.name.startswith("filter")}
            self.firewalls = [self._firewall(number, host) for number, host in enumerate(self._named("fw", chain), 1)]
            self._route()
            for host in chain[1:-1]:
                # no reverse path filter: the gate alone has to tell right sources from wrong ones
                host.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
            for firewall in self.firewalls:
                rulesets.load(firewall.host, self.administrator(firewall).ruleset())
            self._stack = stack.pop_all()

    @property
    def client_end(self) -> End:
        """The client's interface."""
        return self._links[0].left

    @property
    def server_end(self) -> End:
        """The server's interface."""
        return self._links[-1].right

    def administrator(self, firewall: Firewall) -> rulesets.Administrator:
        """Who looks after `firewall`: inside is the server's side of the last one, of every other the client's."""
        last = firewall.number == self.hops > 1
        inside, outside = (firewall.right, firewall.left) if last else (firewall.left, firewall.right)
        return rulesets.Administrator(inside, outside, self._opposite(inside), self.policy, rules=self.rules)

    def close(self) -> None:
        """Close every host."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _host(self, name: str) -> Namespace:
        host: Namespace = self._make(name)
        self._stack.callback(host.close)
        return host

    def _named(self, prefix: str, chain: list[Namespace]) -> list[Namespace]:
        return [host for host in chain if host.name.startswith(prefix)]

    def _firewall(self, number: int, host: Namespace) -> Firewall:
        index = next(each for each, link in enumerate(self._links) if link.right.host is host)
        before = self._links[index - 1].right if number in self.filters else None
        return Firewall(number, host, self._links[index].right, self._links[index + 1].left, before)

    def _route(self) -> None:
        """Defaults for the ends; beyond a filter the relay is told where its neighbour's network lies."""
        for family in self.families if self.hops else ():
            self._lead(self.client, "default", self._links[0].right.address(family))
            self._lead(self.server, "default", self._links[-1].left.address(family))
            for firewall in self.firewalls:
                if firewall.filter is not None:
                    network = next(each.network for each in firewall.filter.interfaces if each.version == family)
                    self._lead(firewall.host, str(network), self._opposite_end(firewall.left).address(family))
        for firewall in self.firewalls:
            if firewall.filter is not None:
                inner = self._opposite_end(firewall.left)
                addresses = tuple(firewall.bound(family) for family in self.families)
                rulesets.load(inner.host, rulesets.Filter(firewall.filter, inner, addresses).ruleset())

    def _opposite_end(self, end: End) -> End:
        link = next(each for each in self._links if end in (each.left, each.right))
        return link.left if end is link.right else link.right

    def _opposite(self, end: End) -> tuple[Address, ...]:
        return tuple(self._opposite_end(end).address(family) for family in self.families)
