"""The addresses that are never a target or a partner."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from chainrelay.errors import Code, Refusal
from chainrelay.session.prefixes import NOWHERE, Prefixes
from chainrelay.session.targets import kind_of, refuse_forbidden

FORBIDDEN = [
    "127.0.0.1", "127.255.0.1", "::1", "0.0.0.0", "0.1.2.3", "::", "169.254.0.1", "fe80::1", "224.0.0.1", "239.1.1.1", "ff02::1",
    "255.255.255.255", "::ffff:127.0.0.1", "::ffff:224.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("text", FORBIDDEN)
def test_forbidden_unless_listed(text: str) -> None:
    with pytest.raises(Refusal, match=r"targets\.allow") as why:
        refuse_forbidden("the server's address", ip_address(text), False, NOWHERE)
    assert why.value.code is Code.FORBIDDEN_TARGET
    canonical = text.removeprefix("::ffff:")
    refuse_forbidden("the server's address", ip_address(text), False, Prefixes.of(canonical))


@pytest.mark.parametrize("text", ["10.0.0.1", "192.0.2.1", "8.8.8.8", "2001:db8::1", "fd00::1", "::ffff:10.0.0.1"])
def test_hosts_are_fine(text: str) -> None:
    assert refuse_forbidden("x", ip_address(text), False, NOWHERE) is None  # type: ignore[func-returns-value]


def test_own_addresses_have_a_code_of_their_own() -> None:
    assert kind_of(ip_address("10.0.0.1")) == ""
    with pytest.raises(Refusal) as why:
        refuse_forbidden("the server's address", ip_address("10.0.0.1"), True, NOWHERE)
    assert why.value.code is Code.LOCAL_TRAFFIC
    refuse_forbidden("the server's address", ip_address("10.0.0.1"), True, Prefixes.of("10.0.0.1"))
