"""What a backend of rules makes of sealed mappings: nothing, and it says so; the others don't notice."""

from __future__ import annotations

from dataclasses import replace

from chainrelay.datapath.mapping import Counters, Done, Failed, Install, Mapping, Operation, Outcome, Rekey, Remove, Renew
from chainrelay.datapath.nft_backend import NftBackend
from chainrelay.datapath.unsealed import NO_SEAL, apart
from unit.datapath.test_legacy_backend import started
from unit.datapath.test_nft_backend import RULES, ScriptedKernel
from unit.datapath.test_remote import KEYS, MAPPING, SEALED

ONE = Done(Counters(1, 1, 1, 1))


def test_rules_hear_nothing_of_what_is_sealed_and_outcomes_keep_their_order() -> None:
    heard: list[Mapping] = []
    other = replace(MAPPING, session=bytes(16))
    asked: list[Operation] = [
        Install(SEALED, 9.0, KEYS), Install(MAPPING, 9.0), Rekey(SEALED, KEYS), Renew(SEALED, 9.0), Remove(SEALED), Remove(other),
    ]  # fmt: skip

    def apply(operations: list[Operation]) -> list[Outcome]:
        heard.extend(each.mapping for each in operations)
        return [ONE] * len(operations)

    outcomes = apart(asked, apply)  # type: ignore[arg-type]  # a list is a sequence that is only read here
    refused = Failed(NO_SEAL)
    assert outcomes == [refused, ONE, refused, refused, Done(Counters()), ONE]
    assert heard == [MAPPING, other]


def test_neither_kernel_hears_of_a_sealed_mapping() -> None:
    """Its rules would forward what has to be opened first."""
    scripted = ScriptedKernel()
    legacy, memory = started()
    for backend in (NftBackend(RULES, scripted), legacy):
        asked: list[Operation] = [Install(SEALED, 9.0, KEYS), Rekey(SEALED, KEYS), Renew(SEALED, 9.0), Remove(SEALED)]
        assert backend.apply(asked) == [Failed(NO_SEAL)] * 3 + [Done(Counters())]
        assert not backend.seals()
    assert (scripted.texts, scripted.calls) == ([], [])
    assert (memory.rules, memory.live) == (set(), {})
