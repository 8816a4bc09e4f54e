"""The worlds in which every scenario runs. A kernel's world is made once per family and module; mappings are always fresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from conformance.fast_world import GenericWorld, NativeLegacyWorld, NativeWorld
from conformance.world import FakeWorld, KernelWorld, LegacyWorld, World

WORLDS: dict[str, Callable[[int], World]] = {
    "fake": FakeWorld,
    "nft": KernelWorld,
    "legacy": LegacyWorld,
    "xdp-native": NativeWorld,
    "xdp-generic": GenericWorld,
    "xdp-legacy": NativeLegacyWorld,
}
KERNELS = [
    pytest.param("nft", marks=pytest.mark.root),
    pytest.param("legacy", marks=pytest.mark.root),
    pytest.param("xdp-native", marks=pytest.mark.root),
    pytest.param("xdp-generic", marks=[pytest.mark.root, pytest.mark.long]),
    pytest.param("xdp-legacy", marks=[pytest.mark.root, pytest.mark.long]),
]


@pytest.fixture(scope="module", params=[4, 6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> int:
    """The address family."""
    return int(request.param)


@pytest.fixture(scope="module", params=["fake", *KERNELS])
def world(request: pytest.FixtureRequest, family: int) -> Iterator[World]:
    """Every datapath."""
    made = WORLDS[request.param](family)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest, family: int) -> Iterator[KernelWorld]:
    """Real ones only."""
    made = WORLDS[request.param](family)
    assert isinstance(made, KernelWorld)
    try:
        yield made
    finally:
        made.close()
