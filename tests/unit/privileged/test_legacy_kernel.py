"""The whole of it in a namespace: every verb once; the printed rules are those that stand; a restart adopts."""

from __future__ import annotations

import pytest

from chainrelay.datapath.legacy_ruleset import render_all
from chainrelay.datapath.mapping import Counters, Done, Install, Mapping, Remove, Renew
from chainrelay.datapath.ruleset import Firewall, Ruleset
from chainrelay.privileged.legacy_kernel import open_legacy_backend
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Protocol
from lab import legacy
from lab.host import Namespace

pytestmark = pytest.mark.root
ENDS = ("10.1.0.1:5000", "10.1.0.2:20000", "10.2.0.1:25000", "10.2.0.2:6000")
MAPPING = Mapping(bytes(16), Protocol.UDP, 1, *map(Endpoint.parse, ENDS))
OWN = Ruleset(Firewall.OWN)


def test_a_session_from_install_to_flush_over_a_restart() -> None:
    with Namespace("legacy") as host, host.enter():
        host.sysctl(net__ipv4__ip_forward=1)
        host.run(["iptables-legacy", "-w", "-A", "FORWARD", "-j", "ACCEPT"])
        before = legacy.saved(host, ours=False)
        backend = open_legacy_backend(OWN)
        backend.setup()
        assert backend.apply([Install(MAPPING, 30), Renew(MAPPING, 60)]) == [Done(Counters())] * 2
        rules = sorted(legacy.saved(host, ours=True))
        backend.close()
        heir = open_legacy_backend(OWN)
        heir.setup()
        assert sorted(legacy.saved(host, ours=True)) == rules
        assert {flow.source: round(flow.expires / 60) for flow in heir.flows()} == {MAPPING.client_partner: 1, MAPPING.server_partner: 1}
        assert heir.counters([MAPPING]) == [Counters()]
        assert heir.apply([Remove(MAPPING)]) == [Done(Counters())]
        assert legacy.members(host) == []
        heir.flush_own()
        assert legacy.saved(host, ours=True) == legacy.sets(host) == []
        assert legacy.saved(host, ours=False) == before
        assert heir.flows() == []
        heir.close()


def test_what_is_printed_is_what_stands() -> None:
    with Namespace("printed") as host, host.enter():
        host.sysctl(net__ipv4__ip_forward=1)
        backend = open_legacy_backend(OWN)
        backend.setup()
        stands = legacy.saved(host, ours=True)
        backend.flush_own()
        backend.close()
        for part in render_all(OWN).split("# ipset ")[1:]:
            create, command, rules = part.split("\n", 2)
            host.run(["ipset", *create.split()])
            host.run(command.removeprefix("# ").split(), stdin=rules)
        assert legacy.saved(host, ours=True) == stands
