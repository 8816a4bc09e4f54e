"""seal_icmp.c: errors about sealed flows in both directions, and packet-too-big of our own. Nothing of a text or ciphertext crosses."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from chainrelay.datapath.xdp_entries import hop_of
from chainrelay.datapath.xdp_layout import SEALED_LONGEST, Verdict
from unit.ebpf.sealed_world import SealedWorld, checksum, frame, network
from unit.ebpf.world import NARROW, OUT, OWN, PEER, STRANGER, UNRESOLVED, WAYS, World

if TYPE_CHECKING:
    from chainrelay.datapath.mapping import Flow
    from chainrelay.wire.endpoint import Endpoint

pytestmark = pytest.mark.root

DROP, REDIRECT = 1, 4
FAMILIES = pytest.mark.parametrize("family", [4, 6])
MODES = pytest.mark.parametrize("mode", ["native", "generic"])
ICMP = {4: 1, 6: 58}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
UNREACHABLE = {4: (3, 3), 6: (1, 4)}
ROUTER = {4: bytes((10, 9, 9, 9)), 6: bytes.fromhex("fd090000000000000000000000000009")}


def quote(source: Endpoint, destination: Endpoint, length: int, *, check: int = 0, ttl: int = 60) -> bytes:
    """IP and UDP header of a datagram with `length` octets of payload."""
    udp = struct.pack("!HHHH", source.port, destination.port, 8 + length, check)
    addresses = source.address.packed + destination.address.packed
    return network(addresses, 17, udp + bytes(length), ttl=ttl)[14:][: (28 if source.family == 4 else 48)]


def icmp(family: int, addresses: bytes, kind: tuple[int, int], rest: int, content: bytes, *, ttl: int, macs: bytes) -> bytes:
    """An ICMP message in a frame, its sum right."""
    body = struct.pack("!BBHI", *kind, 0, rest) + content
    pseudo = addresses + struct.pack("!II", len(body), ICMP[6]) if family == 6 else b""
    body = body[:2] + checksum(pseudo + body).to_bytes(2) + body[4:]
    return network(addresses, ICMP[family], body, ttl=ttl, macs=macs)


def arriving(family: int, flow: Flow, kind: tuple[int, int], rest: int, length: int, behind: bytes) -> bytes:
    """An error from a router about a datagram that had left by `flow`, `behind` quoted after its UDP header."""
    content = quote(flow.new_source, flow.new_destination, length, check=0x1234) + behind
    addresses = ROUTER[family] + flow.new_source.address.packed
    return icmp(family, addresses, kind, rest, content, ttl=50, macs=OWN + STRANGER)


def translated(family: int, flow: Flow, kind: tuple[int, int], rest: int, length: int) -> bytes:
    """What the flow's source gets: about the datagram that it had sent, which had `length` octets."""
    content = quote(flow.source, flow.destination, length)
    addresses = flow.destination.address.packed + flow.source.address.packed
    return icmp(family, addresses, kind, rest, content, ttl=49, macs=PEER + OUT)


@MODES
@FAMILIES
def test_the_server_learns_the_path_mtu_toward_the_client(world: World, family: int, mode: str) -> None:
    sealed = SealedWorld(world, family)
    given = arriving(family, sealed.back, TOO_BIG[family], 1400, 1028, b"ciphertext" * 8)
    wanted = translated(family, sealed.back, TOO_BIG[family], 1372, 1000)
    assert world.run(given, mode) == (Verdict.SEALED_ICMP, REDIRECT, wanted)
    assert b"ciphertext" not in wanted


@MODES
@FAMILIES
def test_the_client_learns_the_path_mtu_toward_the_server(world: World, family: int, mode: str) -> None:
    sealed = SealedWorld(world, family)
    given = arriving(family, sealed.there, TOO_BIG[family], 1400, 1000, b"secret text" * 8)
    wanted = translated(family, sealed.there, TOO_BIG[family], 1428, 1028)
    assert world.run(given, mode) == (Verdict.SEALED_ICMP, REDIRECT, wanted)
    assert b"secret" not in wanted


@FAMILIES
@pytest.mark.parametrize("direction", ["there", "back"])
def test_unreachable_goes_on_without_a_word_of_the_text(world: World, family: int, direction: str) -> None:
    sealed = SealedWorld(world, family)
    flow, more = (sealed.there, 28) if direction == "there" else (sealed.back, -28)
    given = arriving(family, flow, UNREACHABLE[family], 0xFFFF, 100, b"secret" * 10)
    assert world.run(given) == (Verdict.SEALED_ICMP, REDIRECT, translated(family, flow, UNREACHABLE[family], 0, 100 + more))


def test_ipv6_has_a_smallest_mtu(world: World) -> None:
    sealed = SealedWorld(world, 6)
    given = arriving(6, sealed.back, TOO_BIG[6], 1280, 1028, bytes(64))
    assert world.run(given)[2] == translated(6, sealed.back, TOO_BIG[6], 1280, 1000)


@FAMILIES
def test_an_error_about_a_datagram_that_was_never_sealed_is_dropped(world: World, family: int) -> None:
    sealed = SealedWorld(world, family)
    for length, expected in ((27, Verdict.SEALED_TOO_SHORT), (28, Verdict.SEALED_ICMP)):
        assert world.run(arriving(family, sealed.back, UNREACHABLE[family], 0, length, b""))[0] is expected


@FAMILIES
def test_an_error_that_can_not_go_on_is_dropped(world: World, family: int) -> None:
    sealed = SealedWorld(world, family, hop=UNRESOLVED)
    verdict, action, _ = world.run(arriving(family, sealed.back, UNREACHABLE[family], 0, 100, b""))
    assert (verdict, action) == (Verdict.SEALED_NO_NEXT_HOP, DROP)


@MODES
@FAMILIES
def test_what_would_be_too_large_sealed_is_answered(world: World, family: int, mode: str) -> None:
    sealed = SealedWorld(world, family, hop=NARROW)
    headers = 28 if family == 4 else 48
    fits = WAYS[NARROW].mtu - 28 - headers
    assert world.run(sealed.clear(bytes(fits)), mode)[0] is Verdict.SEALED
    given = sealed.clear(bytes(fits + 1))
    source, destination = sealed.back.source, sealed.back.destination
    addresses = destination.address.packed + source.address.packed
    mtu = WAYS[NARROW].mtu - 28 if family == 4 else 1280
    wanted = icmp(family, addresses, TOO_BIG[family], mtu, given[14 : 14 + headers], ttl=64, macs=STRANGER + OWN)
    assert world.run(given, mode) == (Verdict.SEALED_ANSWERED, REDIRECT, wanted)
    again = [world.run(given, mode)[:2] for _ in range(40)]
    assert set(again) <= {(Verdict.SEALED_TOO_LARGE, DROP), (Verdict.SEALED_ANSWERED, REDIRECT)}
    assert (Verdict.SEALED_TOO_LARGE, DROP) in again, "one answer in ten milliseconds"
    assert sealed.held().counts.sealed == 1, "the one that fitted"


@FAMILIES
def test_the_programs_own_limit_is_told_as_an_mtu(world: World, family: int) -> None:
    """Where the way out would take more than the program's memory."""
    headers = 28 if family == 4 else 48
    wide = (5).to_bytes(4, "little")
    world.hops.update(wide, hop_of(replace(WAYS[0], mtu=3000)))
    sealed = SealedWorld(world, family, hop=5)
    verdict, _, after = world.run(frame(sealed.back.source, sealed.back.destination, bytes(SEALED_LONGEST + 1)))
    assert verdict is Verdict.SEALED_ANSWERED
    at = (34 if family == 4 else 54) + 4
    assert int.from_bytes(after[at : at + 4]) == SEALED_LONGEST + headers
    sealed = SealedWorld(world, family, hop=5)
    longest = frame(sealed.back.source, sealed.back.destination, bytes(SEALED_LONGEST))
    verdict, _, after = world.run(longest)
    assert verdict is Verdict.SEALED
    assert sealed.peer.open(after[14 + headers :]) == bytes(SEALED_LONGEST)
