"""conntrack in a namespace of its own, with entries that the conntrack tool made."""

from __future__ import annotations

import pytest

from chainrelay.datapath.nft import Tuple
from chainrelay.privileged.conntrack import Conntrack
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from lab.host import Namespace

pytestmark = pytest.mark.root
OURS, THEIRS = 0x4000_0001, 0x1


def entry(host: Namespace, near: str, far: str, port: int, protocol: str, mark: int) -> bytes:
    state = ["--state", "ESTABLISHED"] if protocol == "tcp" else []
    ends = ["-s", near, "-d", far, "--sport", str(port), "--dport", "20000"]
    host.run(["conntrack", "-I", "-p", protocol, *ends, "-t", "100", "-m", str(mark), *state])
    address = Endpoint.parse(f"[{near}]:{port}" if ":" in near else f"{near}:{port}")
    to = Endpoint.parse(f"[{far}]:20000" if ":" in far else f"{far}:20000")
    return Tuple(Protocol[protocol.upper()], address, to).packed()


@pytest.mark.parametrize(("near", "far"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_list_by_mark_and_forget_by_tuple_of_either_direction(near: str, far: str) -> None:
    with Namespace("conntrack") as host, host.enter():
        conntrack = Conntrack()
        udp, tcp = entry(host, near, far, 5000, "udp", OURS), entry(host, near, far, 5001, "tcp", OURS)
        other = entry(host, near, far, 5002, "udp", THEIRS)
        assert set(conntrack.tracked(0x4000_0000, 0x4000_0000)) == {udp, tcp}
        assert conntrack.tracked(THEIRS, THEIRS | 0x4000_0000) == [other]
        back = Tuple.unpack(tcp)
        conntrack.forget([udp, udp, Tuple(back.protocol, back.destination, back.source).packed()])
        assert conntrack.tracked(0x4000_0000, 0x4000_0000) == []
        conntrack.forget([udp, tcp])
        assert conntrack.tracked(THEIRS, THEIRS) == [other]
        conntrack.close()


def test_thousands_at_once() -> None:
    with Namespace("many") as host, host.enter():
        conntrack = Conntrack()
        kept = entry(host, "10.0.0.1", "10.0.0.2", 9, "udp", OURS)
        near, far = Endpoint.parse("10.0.0.1:9"), Endpoint.parse("10.0.0.2:20000")
        conntrack.forget([Tuple(Protocol.TCP, Endpoint(near.address, port), far).packed() for port in range(1, 5000)])
        assert conntrack.tracked(OURS, OURS) == [kept]
        conntrack.close()
