"""Random frames against the model, a short run; the long one is `make fuzz-xdp`."""

from __future__ import annotations

import random

import pytest

from chainrelay.datapath.xdp_layout import Verdict
from unit.ebpf import fuzz
from unit.ebpf.world import World

pytestmark = pytest.mark.root


def test_random_frames_do_what_the_model_says(world: World) -> None:
    seen = fuzz.run(world, 30_000, seed=random.randrange(2**32))
    plain = {verdict for verdict in Verdict if verdict < Verdict.OPENED}
    often = {Verdict.OPENED, Verdict.SEALED, Verdict.SEALED_ICMP, Verdict.FORGED, Verdict.SEALED_TTL_ENDS, Verdict.SEALED_OTHER_STATION}
    assert set(seen) >= plain | often, "the frames must reach every way out"
