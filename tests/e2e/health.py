"""What must hold after every attack and every failure: the agents live, serve newcomers, and nothing is left."""

from __future__ import annotations

import os

from chainrelay.errors import Refusal
from chainrelay.wire.messages import Close, Closed, Opened
from e2e.chain import Chain
from e2e.stranger import alice, an_open
from lab import wait

FORGOTTEN = 6.0  # seconds; what was asked of a relay that was down is told it as soon as it is back


def assert_healthy(chain: Chain, family: int = 4) -> None:
    """The same processes as before, nothing in any kernel, a newcomer's session through the whole chain, nothing again."""
    for agent in chain.relays.agents:
        os.kill(agent.pid, 0)
    try:
        wait.until(lambda: not chain.leftovers(), "nothing to be left", FORGOTTEN)
    except wait.WaitError as late:
        raise AssertionError(f"{chain.leftovers()}\n{chain.relays.logs()}") from late
    with alice(chain, family) as newcomer:
        request = an_open(chain, family, port=39999)
        answer = newcomer.ask(request)
        assert isinstance(answer, Opened), f"{answer}\n{chain.relays.logs()}"
        assert isinstance(newcomer.ask(Close(request.session)), Closed)
    assert chain.leftovers() == {}


def refusal(chain: Chain, peer: str) -> Refusal | None:
    """What the client library hears when it asks for a session with `peer`; None when it opens (and is closed again)."""
    try:
        session = chain.client_loop.call(lambda: chain.client.open_to(peer))
    except Refusal as why:
        return why
    chain.close_session(session)
    return None


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
