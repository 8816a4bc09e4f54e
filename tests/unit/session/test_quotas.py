"""Numbers and rates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chainrelay.errors import Code, Refusal
from chainrelay.session.quotas import Bucket, Quotas
from chainrelay.session.tables import Allow
from playbook import FIRST


def test_a_bucket_holds_one_second_and_refills_steadily() -> None:
    bucket = Bucket(10.0, 0.0)
    assert [bucket.take(0.0) for _ in range(11)] == [True] * 10 + [False]
    assert [bucket.take(0.1), bucket.take(0.1)] == [True, False]
    assert [bucket.take(100.0) for _ in range(11)] == [True] * 10 + [False]


def test_a_slow_bucket_still_gives_one() -> None:
    bucket = Bucket(0.1, 0.0)
    assert [bucket.take(0.0), bucket.take(9.0), bucket.take(10.1)] == [True, False, True]


def test_sessions_per_principal_and_per_row_and_user() -> None:
    quotas, row = Quotas(replace(FIRST, sessions_per_principal=2)), Allow("*", sessions=1)
    for _ in range(2):
        quotas.admit("alice", 0.0)
        quotas.count("alice")
    with pytest.raises(Refusal) as why:
        quotas.admit("alice", 0.0)
    assert why.value.code is Code.SESSION_LIMIT
    quotas.admit("bob", 0.0)
    quotas.count_row(row, "alice")
    quotas.admit_row(row, "bob", 0.0)
    with pytest.raises(Refusal):
        quotas.admit_row(row, "alice", 0.0)
    quotas.forget("alice", row, "alice")
    quotas.admit("alice", 0.0)
    quotas.admit_row(row, "alice", 0.0)
    assert quotas.sessions("alice") == 1


def test_rates() -> None:
    quotas, row = Quotas(replace(FIRST, opens_per_second=1.0)), Allow("*", opens_per_second=1.0)
    quotas.admit("alice", 0.0)
    quotas.admit_row(row, "alice", 0.0)
    with pytest.raises(Refusal) as why:
        quotas.admit("alice", 0.5)
    assert why.value.code is Code.RATE_LIMIT
    with pytest.raises(Refusal) as why:
        quotas.admit_row(row, "alice", 0.5)
    assert why.value.code is Code.RATE_LIMIT
    quotas.admit("bob", 0.5)
    quotas.admit("alice", 1.1)
