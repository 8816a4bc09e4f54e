"""What backends of rules have in common about sealed sessions (M17): they hold nothing of them, and say so. Pure.

Rules would forward what the last relay has to open first. So the gate is all that such datagrams find here, and it drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeGuard

from chainrelay.datapath.mapping import Counters, Done, Failed, Operation, Outcome, Plain, Rekey, Remove

NO_SEAL: Final = "sealed sessions take the XDP fast path; switch it on (datapath.xdp in agent.toml), or open one without a seal"


def apart(operations: Sequence[Operation], apply: Callable[[Sequence[Plain]], list[Outcome]]) -> list[Outcome]:
    """Outcomes of all `operations`, of which those on sealed mappings are not for `apply`. To remove what is not there is no error."""
    outcomes = iter(apply([operation for operation in operations if is_plain(operation)]))
    return [next(outcomes) if is_plain(operation) else _sealed(operation) for operation in operations]


def is_plain(operation: Operation) -> TypeGuard[Plain]:
    """Whether rules can carry it."""
    return not isinstance(operation, Rekey) and not operation.mapping.sealed


def _sealed(operation: Operation) -> Outcome:
    return Done(Counters()) if isinstance(operation, Remove) else Failed(NO_SEAL)
