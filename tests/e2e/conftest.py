"""A dual-stack chain of two relays that tests of one module share; who breaks something builds a chain of his own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.chain import Chain


@pytest.fixture(scope="module", params=["nftables", pytest.param("iptables-legacy", marks=pytest.mark.long)])
def two(request: pytest.FixtureRequest) -> Iterator[Chain]:
    """Client, two relays, server, IPv4 and IPv6; everybody's rules in nftables or in the legacy tables."""
    with Chain(2, rules=request.param) as chain:
        yield chain
