"""What /proc says about ports."""

from __future__ import annotations

import socket
from pathlib import Path

from chainrelay.config.host import HostFacts, parse_port_list, read_host_facts
from chainrelay.session.prefixes import PortRange

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue\n"


def test_facts_of_a_proc_tree(tmp_path: Path) -> None:
    ipv4, net = tmp_path / "sys/net/ipv4", tmp_path / "net"
    ipv4.mkdir(parents=True)
    net.mkdir()
    (ipv4 / "ip_local_port_range").write_text("32768\t60999\n")
    (ipv4 / "ip_local_reserved_ports").write_text("8080,20000-29999\n")
    (net / "tcp").write_text(
        HEAD + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   1: 0100007F:1F91 0100007F:0016 01 00000000:00000000\n"
    )
    (net / "udp6").write_text(
        HEAD + f"   0: {'0' * 32}:0035 {'0' * 32}:0000 07 0:0\n   1: {'0' * 32}:0036 {'0' * 32}:0037 01 0:0\n"
    )
    (net / "dev").write_text("Inter-|   Receive\n face |bytes\n    lo:   1 2\n  eth0: 3 4\n")
    facts = read_host_facts(tmp_path)
    assert facts == HostFacts(
        PortRange(32768, 60999), (PortRange(8080, 8080), PortRange(20000, 29999)), frozenset({0x1F90, 0x35}), frozenset({"lo", "eth0"})
    )


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert read_host_facts(tmp_path) == HostFacts()
    assert parse_port_list("\n") == ()


def test_this_host_lists_our_own_sockets() -> None:
    with socket.socket() as listening, socket.socket(type=socket.SOCK_DGRAM) as datagrams, socket.socket() as bound:
        for one in (listening, datagrams, bound):
            one.bind(("127.0.0.1", 0))
        listening.listen()
        facts = read_host_facts()
        assert {listening.getsockname()[1], datagrams.getsockname()[1]} <= facts.listening
        assert bound.getsockname()[1] not in facts.listening
        assert facts.ephemeral is not None
