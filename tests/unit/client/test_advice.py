"""Every code has advice and an exit code, so that no error leaves its user alone."""

from __future__ import annotations

import pytest

from chainrelay.client.advice import ADVICE, Exit, exit_code, explain
from chainrelay.errors import Code, ConfigError, ProtocolError, Refusal


@pytest.mark.parametrize("code", Code)
def test_every_code_says_what_to_do(code: Code) -> None:
    text = explain(Refusal(code, "the reason", "fw2"))
    assert "hop fw2: the reason" in text
    exit_, advice = ADVICE[code]
    assert advice in text
    assert len(advice) > 10
    assert advice.rstrip(")").endswith(".")
    assert exit_ in (Exit.FAILED, Exit.UNREACHABLE, Exit.REFUSED)


def test_a_refusal_that_knows_better_says_it_itself() -> None:
    text = explain(Refusal(Code.ACCESS_DENIED, "the reason", mend="Ask the server."))
    assert text == "the reason [access-denied]\n  Ask the server."


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Code.ACCESS_DENIED, 4),
        (Code.FORBIDDEN_TARGET, 4),
        (Code.NEXT_HOP_AUTHENTICATION, 4),
        (Code.NEXT_HOP_TIMEOUT, 3),
        (Code.NO_ROUTE, 3),
        (Code.NAME_NOT_RESOLVED, 3),
        (Code.PORTS_EXHAUSTED, 1),
        (Code.INTERNAL, 1),
    ],
)
def test_exit_codes_as_documented(code: Code, expected: int) -> None:
    assert exit_code(Refusal(code, "x")) == expected


def test_other_errors() -> None:
    assert exit_code(ConfigError("client.toml:id", "missing", "write it")) == 2
    assert explain(ConfigError("client.toml:id", "missing", "write it")) == "client.toml:id: missing; write it"
    assert exit_code(ProtocolError("odd")) == 1
