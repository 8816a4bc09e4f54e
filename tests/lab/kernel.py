"""What the kernel of a relay was told, read back: the endpoints of a session, followed from relay to relay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from chainrelay.wire.endpoint import Endpoint, parse_address
from lab import legacy
from lab.row import Firewall

UDP = ("udp", 17)
"""As nft prints it with and without /etc/protocols, which a minimal host lacks."""

Table = dict[tuple[Endpoint, Endpoint], Endpoint]


def endpoints(firewalls: Sequence[Firewall], client: Endpoint, entry: Endpoint) -> list[Endpoint]:
    """P1, P2, P3, … of the UDP session that enters at `entry`. LookupError when a relay's rules don't lead on.

    Between two relays P3 and P4 must be the same from both sides, so no filter may stand there.
    """
    found, partner, arriving = [client], client, entry
    for firewall in firewalls:
        onward, leaving = _translation(firewall, partner, arriving)
        found += [arriving, leaving]
        partner, arriving = leaving, onward
    return [*found, arriving]


def _translation(firewall: Firewall, source: Endpoint, destination: Endpoint) -> tuple[Endpoint, Endpoint]:
    """New destination and new source of what arrives."""
    if legacy.sets(firewall.host):
        held = {each[:2]: each[2:] for each in legacy.translations(firewall.host)}
        leaving, onward = held[source, destination]
        return onward, leaving
    onward = _map(firewall, source.family, "to_destination")[source, destination]
    return onward, _map(firewall, source.family, "to_source")[source, onward]


def _map(firewall: Firewall, family: int, name: str) -> Table:
    ip = "ip" if family == 4 else "ip6"
    listed: list[Any] = json.loads(firewall.host.run(["nft", "-j", "list", "map", ip, "chainrelay", name]).stdout)["nftables"]
    found: Table = {}
    for key, value in next(item["map"].get("elem", []) for item in listed if "map" in item):
        source, protocol, source_port, destination, port = key["concat"]
        if protocol in UDP:
            found[_endpoint(source, source_port), _endpoint(destination, port)] = _endpoint(*value["concat"])
    return found


def _endpoint(address: str, port: int) -> Endpoint:
    return Endpoint(parse_address(address), port)
