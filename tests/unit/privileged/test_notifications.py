"""Final counters from what the kernel announces; the announcements are made here, the real ones in tests/conformance."""

from __future__ import annotations

import logging

import pytest

from chainrelay.errors import DatapathError
from chainrelay.privileged import netlink
from chainrelay.privileged.nftables import Nftables
from chainrelay.privileged.notifications import ElementReader, final_counters
from lab.host import Namespace
from unit.privileged.test_netlink import KEY4, KEY6, element, news

TYPE = "ipv4_addr . inet_proto . inet_service . ipv4_addr . inet_service"
SET = f"table ip chainrelay {{\nset live {{ type {TYPE}; flags timeout; counter\n}}\n}}\n"


def test_only_deletions_from_our_live_sets_count() -> None:
    heard = netlink.messages(
        news(14, b"chainrelay", b"live", element(KEY4, 3, 99))
        + news(14, b"chainrelay", b"live", element(KEY6, 1, 40), family=10)
        + news(14, b"chainrelay", b"to_destination", element(KEY4, 5, 5))
        + news(14, b"somebody", b"live", element(KEY4, 5, 5))
        + news(12, b"chainrelay", b"live", element(KEY4, 5, 5))
    )
    assert final_counters(heard) == {KEY4: (3, 99), KEY6: (1, 40)}


def test_a_key_deleted_twice_is_summed_up() -> None:
    twice = news(14, b"chainrelay", b"live", element(KEY4, 3, 99), element(KEY4, 1, 1))
    assert final_counters(netlink.messages(twice)) == {KEY4: (4, 100)}


@pytest.mark.root
def test_an_overrun_is_told_and_counts_as_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chainrelay.privileged.netlink_socket._BUFFER", 2304)
    with Namespace("overrun") as host, host.enter():
        nft, reader = Nftables(), ElementReader()
        keys = ", ".join(f"10.0.0.1 . 17 . {port} . 10.0.0.2 . 20000" for port in range(1, 2000))
        nft.run(SET + f"add element ip chainrelay live {{ {keys} }}")
        with caplog.at_level(logging.WARNING):
            assert reader.watch(lambda: nft.run(f"delete element ip chainrelay live {{ {keys} }}")) == {}
        assert "unknown and taken as 0" in caplog.text
        nft.run(f"add element ip chainrelay live {{ {keys.split(',')[0]} }}")
        assert len(reader.watch(lambda: nft.run(f"delete element ip chainrelay live {{ {keys.split(',')[0]} }}"))) == 1
        reader.close()


@pytest.mark.root
def test_a_refused_transaction_leaves_the_group() -> None:
    with Namespace("refused") as host, host.enter():
        nft, reader = Nftables(), ElementReader()
        with pytest.raises(DatapathError, match="No such file"):
            reader.watch(lambda: nft.run("delete element ip chainrelay live { 1 }"))
        nft.run(SET + "add element ip chainrelay live { 10.0.0.1 . 17 . 1 . 10.0.0.2 . 20000 }")
        assert reader._announcements.drain() == []
        assert len(reader.live(4)) == 1
        assert reader.live(6) == []
        reader.close()
