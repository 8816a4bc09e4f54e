"""What policy.py decides by itself; how the engine uses it is in test_opening.py."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from chainrelay.errors import Code, Refusal
from chainrelay.session.events import Candidate
from chainrelay.session.policy import Leases
from chainrelay.session.tables import AccessTable, Allow
from chainrelay.wire.endpoint import Endpoint
from playbook import ALICE, FIRST, FW2, LAST, P1, P6, an_open


def test_leases_are_granted_within_their_limits() -> None:
    leases = Leases(default=120, shortest=2, longest=3600, absolute=7200)
    assert [leases.grant(wanted, 0) for wanted in (0, 1, 60, 9999)] == [120, 2, 60, 3600]
    assert leases.grant(3600, 7000) == 200
    assert leases.grant(3600, 7199.5) == 0
    assert leases.grant(3600, 9000) == 0


def test_admit_says_where_it_leads_and_by_which_row() -> None:
    row = Allow("alice")
    assert replace(FIRST, access=AccessTable((row,))).admit("fw1", ALICE, an_open()) == (FW2, row)


def test_all_addresses_that_are_ours() -> None:
    pinned = replace(LAST, client_side=(P1.address,), announce={ip_address("10.3.0.2"): ip_address("192.0.2.9")})
    assert {P1.address, ip_address("192.0.2.9")} <= pinned.own
    for address in pinned.own:
        with pytest.raises(Refusal) as why:
            pinned.check_target("the server's address", address)
        assert why.value.code is Code.LOCAL_TRAFFIC


def test_pinned_addresses_of_the_other_family_do_not_count() -> None:
    six, four = ip_address("fd00::1"), ip_address("10.0.0.9")
    pinned = replace(FIRST, client_side=(six,), server_side=(six, four))
    assert pinned.client_side_addresses(ALICE, 4) == (ALICE.local,)
    assert pinned.client_side_addresses(ALICE, 6) == (six,)
    assert pinned.server_side_addresses(Candidate(ip_address("10.0.2.2"), ip_address("10.0.2.1"), 1500)) == (four,)
    assert FIRST.server_side_addresses(Candidate(ip_address("10.0.2.2"), ip_address("10.0.2.1"), 1500)) == (ip_address("10.0.2.1"),)


def test_announced() -> None:
    policy = replace(FIRST, announce={ip_address("10.0.0.1"): ip_address("192.0.2.1")})
    assert str(policy.announced(Endpoint.parse("10.0.0.1:20000"))) == "192.0.2.1:20000"
    assert str(policy.announced(Endpoint.parse("10.0.0.2:20000"))) == "10.0.0.2:20000"
    assert P6.port == 6000
