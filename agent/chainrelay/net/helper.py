"""The agent's end of the datapath helper's socket: a `Backend` whose other half is another process (docs/design.md §14).

Blocking, like every backend; net/datapath.py calls it from its worker thread. A connection that breaks is made again and the
question asked again: every verb is idempotent. Octets: datapath/remote.py.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from chainrelay.datapath import remote
from chainrelay.datapath.mapping import Counters, Failed, LiveFlow, Mapping, Operation, Outcome
from chainrelay.datapath.remote import Verb
from chainrelay.errors import DatapathError, ProtocolError
from chainrelay.limits import BATCH, HELPER_RECONNECT, HELPER_TIMEOUT

T = TypeVar("T")
log = logging.getLogger(__name__)


def is_served(path: Path) -> bool:
    """Whether a helper takes connections there now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class HelperBackend:
    """`Backend` behind `path`. Connects at the first question. `timeout`: seconds for one answer, reconnecting included."""

    def __init__(self, path: Path, timeout: float = HELPER_TIMEOUT) -> None:
        self._path, self._timeout = path, timeout
        self._socket: socket.socket | None = None

    def setup(self) -> None:
        """See Backend."""
        self._ask(remote.plain(Verb.SETUP), lambda: remote.read_answer(Verb.SETUP, self._receive()))

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """See Backend. What can't be asked within the time has Failed; it may have happened all the same."""
        outcomes: list[Outcome] = []
        for at in range(0, len(operations), BATCH):
            part = operations[at : at + BATCH]
            try:
                outcomes += self._ask(remote.apply(part), partial(self._outcomes, len(part)))
            except DatapathError as fault:
                outcomes += [Failed(str(fault), fault.full)] * len(part)
        return outcomes

    def counters(self, mappings: Sequence[Mapping]) -> list[Counters]:
        """See Backend."""
        counted: list[Counters] = []
        for at in range(0, len(mappings), BATCH):
            part = mappings[at : at + BATCH]
            counted += self._ask(remote.counters(part), partial(self._counted, len(part)))
        return counted

    def flows(self) -> list[LiveFlow]:
        """See Backend."""
        return self._ask(remote.plain(Verb.FLOWS), self._pages)

    def intact(self) -> bool:
        """See Backend."""
        return self._ask(remote.plain(Verb.INTACT), lambda: remote.read_whether(Verb.INTACT, self._receive()))

    def seals(self) -> bool:
        """See Backend."""
        return self._ask(remote.plain(Verb.SEALS), lambda: remote.read_whether(Verb.SEALS, self._receive()))

    def flush_own(self) -> None:
        """See Backend."""
        self._ask(remote.plain(Verb.FLUSH_OWN), lambda: remote.read_answer(Verb.FLUSH_OWN, self._receive()))

    def close(self) -> None:
        """Close the connection; the helper and the kernel's state stay."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _outcomes(self, count: int) -> list[Outcome]:
        return remote.read_outcomes(self._receive(), count)

    def _counted(self, count: int) -> list[Counters]:
        return remote.read_counted(self._receive(), count)

    def _pages(self) -> list[LiveFlow]:
        found: list[LiveFlow] = []
        more = True
        while more:
            page, more = remote.read_flows(self._receive())
            found += page
        return found

    def _ask(self, question: bytes, read: Callable[[], T]) -> T:
        """Ask until there is an answer or the time is up. Raises DatapathError: the helper's own, or what to do about its absence."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                connection = self._socket or self._connect(deadline)
                connection.settimeout(max(deadline - time.monotonic(), HELPER_RECONNECT))
                connection.send(question)
                return read()
            except (OSError, ProtocolError) as fault:
                self.close()
                if time.monotonic() >= deadline:
                    raise self._absent(fault) from fault
                log.info("the datapath helper's connection broke (%s); asking again", fault)
                time.sleep(HELPER_RECONNECT)

    def _connect(self, deadline: float) -> socket.socket:
        waiting = False
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            connection.settimeout(max(deadline - time.monotonic(), HELPER_RECONNECT))
            try:
                connection.connect(str(self._path))
                connection.send(remote.hello())
                self._socket = connection
                version = remote.read_answer(Verb.HELLO, self._receive())
            except OSError as fault:
                self._socket = None
                connection.close()
                if time.monotonic() >= deadline:
                    raise
                if not waiting:
                    left = deadline - time.monotonic()
                    log.warning("waiting up to %.0f s for the datapath helper at %s: %s", left, self._path, fault.strerror or fault)
                waiting = True
                time.sleep(HELPER_RECONNECT)
                continue
            if version != [remote.VERSION]:
                self.close()
                why = f"the datapath helper speaks version {version} of its socket, this agent {remote.VERSION}"
                raise DatapathError(f"{why}; restart both after an upgrade: systemctl restart chainrelay-datapath chainrelay-agent")
            return connection

    def _receive(self) -> bytes:
        assert self._socket is not None
        packet = self._socket.recv(remote.PACKET + 1)
        if not packet:
            raise ConnectionResetError("closed by the helper")
        return packet

    def _absent(self, fault: Exception) -> DatapathError:
        text = "it does not answer" if isinstance(fault, TimeoutError) else str(fault)
        if isinstance(fault, OSError) and fault.strerror:
            text = fault.strerror
        advice = "see `systemctl status chainrelay-datapath`; its log says whom it refused"
        return DatapathError(f"datapath helper at {self._path}: {text} (tried for {self._timeout:g} s); {advice}")
