"""Kernel parameters, over a directory in place of /proc/sys; the real ones are in tests/conformance."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrelay.errors import DatapathError
from chainrelay.privileged.sysctl import Sysctl, add, format_ranges, parse_ranges, subtract


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in (("ipv4/ip_forward", "1"), ("ipv4/ip_local_reserved_ports", ""), ("ipv6/conf/all/forwarding", "1")):
        path = tmp_path / "net" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return tmp_path


def reserved(root: Path) -> str:
    return (root / "net/ipv4/ip_local_reserved_ports").read_text().strip()


def test_what_is_there_stays_and_only_the_pool_goes(root: Path) -> None:
    sysctl = Sysctl(root)
    (root / "net/ipv4/ip_local_reserved_ports").write_text("8080,9000-9010\n")
    sysctl.reserve_ports(((20000, 29999), (31000, 31000)))
    assert reserved(root) == "8080,9000-9010,20000-29999,31000"
    sysctl.reserve_ports(((20000, 29999),))
    assert reserved(root) == "8080,9000-9010,20000-29999,31000"
    sysctl.release_ports(((20000, 29999), (31000, 31000)))
    assert reserved(root) == "8080,9000-9010"


def test_a_kernel_that_does_not_forward_is_an_error_with_the_command(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    Sysctl(root).check_forwarding((4, 6))
    assert caplog.text == ""
    (root / "net/ipv4/ip_forward").write_text("0\n")
    Sysctl(root).check_forwarding((4, 6))
    assert "sysctl -w net.ipv4.ip_forward=1" in caplog.text
    (root / "net/ipv6/conf/all/forwarding").unlink()
    with pytest.raises(DatapathError, match=r"net\.ipv4\.ip_forward=1 and sysctl -w net\.ipv6\.conf\.all\.forwarding=1"):
        Sysctl(root).check_forwarding((4, 6))


def test_what_cannot_be_read_or_written_is_named(root: Path) -> None:
    (root / "net/ipv4/ip_local_reserved_ports").unlink()
    with pytest.raises(DatapathError, match="ip_local_reserved_ports: No such file"):
        Sysctl(root).reserve_ports(((1, 2),))
    with pytest.raises(DatapathError, match=r"set it by hand: sysctl -w net\.ipv4\.x=1"):
        Sysctl(root / "nowhere")._write("net/ipv4/x", "1")


range_lists = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6)


def ports(ranges: list[tuple[int, int]]) -> set[int]:
    return {port for first, last in ranges for port in range(first, last + 1)}


@given(range_lists, range_lists)
def test_ranges_are_sets_of_ports(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    assert ports(add(one, other)) == ports(one) | ports(other)
    assert ports(subtract(add(one, []), other)) == ports(one) - ports(other)
    joined = add(one, other)
    assert parse_ranges(format_ranges(joined)) == joined
