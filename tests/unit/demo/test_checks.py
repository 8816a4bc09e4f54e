"""The demo must be able to fail: every claim is fed what would refute it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.checks import RUN, Observations, common_run, failures, payload_hash, verdict

PAYLOADS = [bytes([number]) * 20 for number in range(10)]
CIPHER = [bytes(range(number, number + 48)) for number in range(100, 110)]
GOOD = Observations(
    hops=("fw1", "fw2"),
    sent=PAYLOADS,
    received=PAYLOADS[5:] + PAYLOADS[:5],
    frames_expected=2,
    frames_sent=["a", "b"],
    frames_received=["a", "b"],
    counted={"fw1": 10, "fw2": 10},
    in_user_space={"fw1": (), "fw2": ()},
    remains={"fw1": (), "fw2": ()},
)


def test_all_claims_hold() -> None:
    assert verdict(failures(GOOD)) == ("demo: ok", 0)
    assert verdict(failures(replace(GOOD, sealed={"client - fw1": CIPHER, "fw1 - fw2": CIPHER}))) == ("demo: ok", 0)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (replace(GOOD, received=PAYLOADS[1:]), "1 of 10 datagrams lost"),
        (replace(GOOD, received=[*PAYLOADS, PAYLOADS[0]]), "1 datagrams at the client that the server did not send"),
        (replace(GOOD, received=[b"x", *PAYLOADS[1:]]), "1 of 10 datagrams lost; 1 datagrams at the client"),
        (replace(GOOD, sent=[], received=[]), "the server sent nothing"),
        (replace(GOOD, frames_received=["a"]), "1 frames decoded at the client, 2 sent"),
        (replace(GOOD, frames_received=["a", "c"]), "1 decoded frames differ"),
        (replace(GOOD, frames_sent=["a"], frames_received=["a"]), "the clip has 1 frames instead of 2"),
        (replace(GOOD, counted={"fw1": 10}), "no counters of fw2"),
        (replace(GOOD, counted={"fw1": 10, "fw2": 9}), "fw2 counted 9 packets to the client, 10 were sent"),
        (replace(GOOD, in_user_space={"fw1": ("UNCONN :20000",)}), "in user space at fw1: UNCONN :20000"),
        (replace(GOOD, remains={"fw2": ("nft element",)}), "left over at fw2: nft element"),
        (replace(GOOD, sealed={"fw1 - fw2": CIPHER[:9]}), "9 sealed datagrams fw1 - fw2, 10 were sent"),
        (replace(GOOD, sealed={"fw1 - fw2": [*CIPHER[:9], b"x" + bytes([3]) * 16 + b"y"]}), f"clear text fw1 - fw2: {'03' * 16}"),
    ],
)
def test_a_claim_that_does_not_hold_is_told(seen: Observations, why: str) -> None:
    line, status = verdict(failures(seen))
    assert status == 1
    assert line.startswith("demo: FAILED ")
    assert why in line


def test_the_hash_knows_contents_and_not_order() -> None:
    assert payload_hash(PAYLOADS) == payload_hash(reversed(PAYLOADS))
    assert payload_hash(PAYLOADS) != payload_hash(PAYLOADS[1:])
    assert payload_hash([b"ab", b"c"]) != payload_hash([b"a", b"bc"])


@given(st.binary(max_size=80), st.binary(max_size=80), st.integers(0, 64), st.integers(0, 80))
def test_a_common_run_is_found_wherever_it_is(clear: bytes, around: bytes, start: int, place: int) -> None:
    run = clear[start : start + RUN]
    captured = around[:place] + run + around[place:]

    def naive() -> bool:
        return any(clear[at : at + RUN] in captured for at in range(len(clear) - RUN + 1))

    found = common_run([b"other", clear], [b"nothing", captured])
    assert (found is not None) == naive()
    assert found is None or (len(found) == RUN and found in clear and found in captured)
