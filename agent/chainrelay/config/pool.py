"""Whether a pool of ports can be used on this host. That it is a range at all is kinds.py's business."""

from __future__ import annotations

from chainrelay.config.host import HostFacts
from chainrelay.config.problems import Place
from chainrelay.session.policy import LOWEST_ENTRY_PORT
from chainrelay.session.prefixes import PortRange
from chainrelay.wire.endpoint import Endpoint


def check_pool(place: Place, pool: PortRange, listen: tuple[Endpoint, ...], facts: HostFacts) -> None:
    """Report what is wrong with `pool` against the own control ports and the host's ports."""
    if pool.first < LOWEST_ENTRY_PORT:
        mend = f"begin at {LOWEST_ENTRY_PORT} or above"
        place.wrong(f"{pool} holds ports below {LOWEST_ENTRY_PORT}: services of this host", mend)
    if pool.first + pool.first % 2 + 1 > pool.last:
        place.wrong(f"{pool} is too small for a pair (an even port and the next one)", 'widen it, like "20000-29999"')
    own = {end.port for end in listen}
    for port in sorted(own):
        if port in pool:
            place.wrong(f"{pool} holds our own control port {port} (listen)", "move the pool or the control port")
    if used := sorted(port for port in facts.listening - own if port in pool):
        some = ", ".join(map(str, used[:5])) + (f" and {len(used) - 5} more" if len(used) > 5 else "")
        mend = "move the pool, or that service (ss -lntup shows it)"
        place.wrong(f"something on this host listens at {some}, within {pool}", mend)
    if facts.ephemeral is not None:
        _check_ephemeral(place, pool, facts.ephemeral, facts.reserved)


def _check_ephemeral(place: Place, pool: PortRange, ephemeral: PortRange, reserved: tuple[PortRange, ...]) -> None:
    shared = range(max(pool.first, ephemeral.first), min(pool.last, ephemeral.last) + 1)
    kept = {port for ports in reserved for port in range(ports.first, ports.last + 1)}
    if all(port in kept for port in shared):
        return
    spot = PortRange(shared[0], shared[-1])
    whole = ",".join(map(str, (*reserved, spot)))  # the sysctl is replaced, not appended to
    mend = f"move the pool, or reserve it: sysctl -w net.ipv4.ip_local_reserved_ports={whole}"
    place.wrong(f"{spot} is in the kernel's ephemeral range {ephemeral} and not reserved", mend)
