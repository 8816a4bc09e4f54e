"""What a relay remembers of a session beyond its own life: the journal's record, as a value and as octets (docs/design.md §14).

The engine makes records, the journal keeps their octets, adopting.py makes sessions of them. No file, no clock: times are the
engine's (monotonic, seconds), and it is the journal that knows whether they still mean anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from typing import Any, Final

from chainrelay.datapath.mapping import Counters
from chainrelay.errors import ProtocolError
from chainrelay.session.events import Link, NextHop, Through
from chainrelay.wire import cbor, codec
from chainrelay.wire.endpoint import Address, Endpoint, Target, canonical
from chainrelay.wire.messages import Open

RECORD_VERSION: Final = 2
"""Another one for every change of `pack`: a journal of another version is set aside."""


class Phase(IntEnum):
    """How far the session had come when this was written, at least."""

    ASKED = 1
    """The next relay may hold it; here there are ports."""
    RESERVED = 2
    OPEN = 3
    """The kernel may hold it."""
    CLOSING = 4
    """The kernel may hold it no more."""


@dataclass(frozen=True, slots=True)
class Record:
    """One session."""

    phase: Phase
    request: Open
    link: Link
    """Whose it is. The connection's own number means nothing later: it is not kept, and 0 in what `unpack` gives."""
    next_hop: NextHop | None
    """None at the last relay."""
    created: float
    expires: float
    lease: int
    client_side: Endpoint
    server_side: Endpoint
    server_partner: Endpoint | None
    server_address: Address | None
    exit: Endpoint | None
    path: tuple[str, ...]
    bound: Target | None
    mtu: int
    counters: Counters
    sealer: str = ""
    """Whose data key the kernel has. Never the key."""


def pack(record: Record) -> bytes:
    """As octets."""
    one, through, hop, counted = record, record.link.through, record.next_hop, record.counters
    return cbor.encode(
        [
            int(one.phase),
            codec.encode(0, one.request),
            one.link.principal,
            one.link.remote.packed,
            one.link.local.packed,
            [through.previous, through.keyed, through.hop, _octets(through.partner)] if through is not None else None,
            [hop.peer, _octets(hop.at)] if hop is not None else None,
            int(one.created * 1000),
            int(one.expires * 1000),
            one.lease,
            _octets(one.client_side),
            _octets(one.server_side),
            _octets(one.server_partner),
            one.server_address.packed if one.server_address is not None else None,
            _octets(one.exit),
            list(one.path),
            str(one.bound) if one.bound is not None else None,
            one.mtu,
            [counted.to_server_packets, counted.to_server_bytes, counted.to_client_packets, counted.to_client_bytes],
            one.sealer,
        ]
    )


def unpack(octets: bytes) -> Record:
    """The inverse. Raises ProtocolError: the journal is damaged."""
    try:
        (
            phase, request, principal, remote, local, through, hop, created, expires, lease,
            client_side, server_side, server_partner, server_address, exit_, path, bound, mtu, counted, sealer,
        ) = cbor.decode(octets)  # fmt: skip
        _, opened = codec.decode(request)
        if not isinstance(opened, Open):
            raise ProtocolError("a record without its OPEN")
        return Record(
            Phase(phase),
            opened,
            Link(0, _a(str, principal), _address(remote), _address(local), _through(through)),
            NextHop(_a(str, hop[0]), _endpoint(hop[1])) if hop is not None else None,
            _a(int, created) / 1000,
            _a(int, expires) / 1000,
            _a(int, lease),
            _endpoint(client_side),
            _endpoint(server_side),
            _endpoint(server_partner) if server_partner is not None else None,
            _address(server_address) if server_address is not None else None,
            _endpoint(exit_) if exit_ is not None else None,
            tuple(_a(str, relay) for relay in _a(list, path)),
            Target.parse(bound) if bound is not None else None,
            _a(int, mtu),
            Counters(*(_a(int, count) for count in counted)),
            _a(str, sealer),
        )
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ProtocolError(f"no record: {error}") from error


def _through(packed: Any) -> Through | None:  # noqa: ANN401 - checked here
    if packed is None:
        return None
    previous, keyed, hop, partner = packed
    return Through(_a(str, previous), _a(bool, keyed), _a(int, hop), _endpoint(partner))


def _octets(endpoint: Endpoint | None) -> bytes | None:
    """Address and port: a third of the time that text takes."""
    return endpoint.address.packed + endpoint.port.to_bytes(2, "big") if endpoint is not None else None


def _endpoint(octets: bytes) -> Endpoint:
    return Endpoint(_address(octets[:-2]), int.from_bytes(octets[-2:], "big"))


def _address(octets: bytes) -> Address:
    return canonical(ip_address(_a(bytes, octets)))


def _a(kind: type, value: Any) -> Any:  # noqa: ANN401 - checked here
    if type(value) is not kind:
        raise ValueError(f"{value!r:.40} is not {kind.__name__}")
    return value
