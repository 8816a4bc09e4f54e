"""What is read back from a relay's kernel is what it was told."""

from __future__ import annotations

import pytest

from chainrelay.datapath import nft, ruleset
from chainrelay.datapath.mapping import Install, Mapping
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from lab.kernel import endpoints
from lab.remains import remains
from lab.row import Row


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
def test_endpoints_are_read_from_kernel_to_kernel(family: int) -> None:
    with Row(2, (family,)) as row:
        first, last = row.firewalls
        ends = [row.client_end, first.left, first.right, last.left, last.right, row.server_end]
        points = [Endpoint(end.address(family), 20000 + 2 * index) for index, end in enumerate(ends)]
        for number, firewall in enumerate(row.firewalls):
            mapping = Mapping(bytes(16), Protocol.UDP, 2, *points[2 * number : 2 * number + 4])
            static = ruleset.render(ruleset.Ruleset(ruleset.Firewall.GUEST))
            session = nft.transaction([(Install(mapping, 60), nft.Elements.of(mapping))], certain=True)
            firewall.host.run(["nft", "-f", "-"], stdin=static + "\n".join(map(str, session)) + "\n")
        assert endpoints(row.firewalls, points[0], points[1]) == points
        with pytest.raises(LookupError):
            endpoints(row.firewalls, points[0], points[2])
        # two directions and two components in `live` and both maps
        assert [len(remains(each.host).elements) for each in row.firewalls] == [12, 12]
        assert remains(first.host).tables == ("nft table ip chainrelay", "nft table ip6 chainrelay")
        assert remains(row.client).all == ()
