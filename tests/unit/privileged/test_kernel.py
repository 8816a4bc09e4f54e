"""The whole of it in a namespace: every verb once, with nothing of tests/lab between."""

from __future__ import annotations

import pytest

from chainrelay.datapath.mapping import Counters, Done, Install, Mapping, Remove, Renew
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.errors import DatapathError
from chainrelay.privileged.kernel import open_nft_backend
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from lab.host import Namespace

pytestmark = pytest.mark.root
ENDS = ("10.1.0.1:5000", "10.1.0.2:20000", "10.2.0.1:25000", "10.2.0.2:6000")
MAPPING = Mapping(bytes(16), Protocol.UDP, 1, *map(Endpoint.parse, ENDS))


def test_a_session_from_install_to_flush() -> None:
    with Namespace("kernel") as host, host.enter():
        host.sysctl(net__ipv4__ip_forward=1)
        backend = open_nft_backend(Ruleset(Firewall.OWN))
        backend.setup()
        assert backend.apply([Install(MAPPING, 30), Renew(MAPPING, 60)]) == [Done(Counters())] * 2
        assert {flow.source: round(flow.expires / 60) for flow in backend.flows()} == {MAPPING.client_partner: 1, MAPPING.server_partner: 1}
        assert backend.counters([MAPPING]) == [Counters()]
        backend.setup()
        assert len(backend.flows()) == 2
        assert backend.apply([Remove(MAPPING)]) == [Done(Counters())]
        backend.flush_own()
        assert host.run(["nft", "list", "ruleset"]).stdout == ""
        assert backend.flows() == []
        backend.close()


def test_setup_refuses_a_host_that_does_not_forward() -> None:
    with Namespace("still") as host, host.enter():
        host.sysctl(net__ipv4__ip_forward=0, net__ipv6__conf__all__forwarding=0)
        backend = open_nft_backend(Ruleset(Firewall.OWN))
        with pytest.raises(DatapathError, match="sysctl -w"):
            backend.setup()
        assert host.run(["nft", "list", "ruleset"]).stdout == ""
        backend.close()
