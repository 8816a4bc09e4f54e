"""The datapath helper's socket: accepts the agent, takes its verbs to a Backend, sends the outcomes back (docs/design.md §14).

One thread, one question at a time. Nothing that arrives is run, opened or named: a packet is a verb of datapath/remote.py with
values, or the connection is cut and the log says why. Who may connect is decided by the kernel's word (SO_PEERCRED).
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from chainrelay.datapath import remote
from chainrelay.datapath.backend import Backend
from chainrelay.datapath.remote import Question, Verb
from chainrelay.errors import DatapathError, ProtocolError
from chainrelay.limits import HELPER_CONNECTIONS

log = logging.getLogger("chainrelay.datapath")

_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_PATIENCE: Final = 2.0  # seconds that a partner may leave answers unread
_BUFFER: Final = 1 << 20  # a page of flows after the other, without waiting for the reader


@dataclass(slots=True, eq=False)
class Partner:
    """A connection of somebody who may."""

    socket: socket.socket
    who: str
    greeted: bool = False


class Service:
    """Serves `backend` at `path` to the users `uids`. `alive` is called at least every `pulse` seconds, and after each question.

    `lost`: the kernel had no rules when the helper started, so an agent that runs already has to put its sessions back.
    """

    def __init__(
        self, backend: Backend, path: Path, uids: Collection[int], alive: Callable[[], None], pulse: float, *, lost: bool = False
    ) -> None:
        self._lost = lost
        self._backend, self._path, self._uids = backend, path, frozenset(uids)
        self._alive, self._pulse = alive, pulse
        self._partners: dict[int, Partner] = {}
        self._poll = select.poll()
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._listener = listen(path)
        for each in (self._listener.fileno(), self._wake):
            self._poll.register(each, select.POLLIN)

    def run(self) -> None:
        """Serve until `stop`. Raises OSError when the listening socket fails."""
        while True:
            ready = [number for number, _ in self._poll.poll(self._pulse * 1000)]
            for number in ready:
                if number == self._wake:
                    return
                if number == self._listener.fileno():
                    self._accept()
                elif (partner := self._partners.get(number)) is not None:
                    self._serve(partner)
            self._alive()

    def stop(self) -> None:
        """Let `run` return. For signal handlers and other threads."""
        with suppress(BlockingIOError):
            os.write(self._woken, b"x")

    def close(self) -> None:
        """Close everything; the kernel's state stays."""
        for partner in list(self._partners.values()):
            self._cut(partner)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        os.close(self._wake)
        os.close(self._woken)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        who = f"pid {pid}, uid {uid}"
        if uid not in self._uids:
            log.warning("refused: %s is not the agent's user (uids that may: %s)", who, ", ".join(map(str, sorted(self._uids))))
            connection.close()
            return
        if len(self._partners) >= HELPER_CONNECTIONS:
            oldest = next(iter(self._partners.values()))
            log.warning("more than %d connections: that of %s, the oldest, is cut", HELPER_CONNECTIONS, oldest.who)
            self._cut(oldest)
        connection.settimeout(_PATIENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._partners[connection.fileno()] = Partner(connection, who)
        self._poll.register(connection, select.POLLIN)

    def _serve(self, partner: Partner) -> None:
        try:
            packet = partner.socket.recv(remote.PACKET + 1)
            if not packet:
                self._cut(partner)
                return
            for answer in self._answer(partner, remote.read_question(packet)):
                partner.socket.send(answer)
        except ProtocolError as fault:
            log.warning("cut: %s: %s", partner.who, fault)
            self._cut(partner)
        except OSError as fault:
            log.warning("cut: %s does not take its answer: %s", partner.who, fault)
            self._cut(partner)

    def _answer(self, partner: Partner, question: Question) -> Sequence[bytes]:
        """What goes back. Raises ProtocolError for a verb that is out of its order."""
        if partner.greeted == (question.verb is Verb.HELLO):
            raise ProtocolError("a second HELLO" if partner.greeted else f"{question.verb.name} before HELLO")
        try:
            return self._carry_out(partner, question)
        except DatapathError as fault:
            log.error("%s failed: %s", question.verb.name.lower(), fault)
            return [remote.refused(fault)]

    def _carry_out(self, partner: Partner, question: Question) -> Sequence[bytes]:
        match question.verb:
            case Verb.HELLO:
                partner.greeted = True
                return [remote.hello()]
            case Verb.SETUP:
                self._backend.setup()
                self._lost = False
            case Verb.APPLY:
                return [remote.outcomes(self._backend.apply(question.operations))]
            case Verb.COUNTERS:
                return [remote.counted(self._backend.counters(question.mappings))]
            case Verb.FLOWS:
                return remote.flows(self._backend.flows())
            case Verb.FLUSH_OWN:
                self._backend.flush_own()
            case Verb.INTACT:
                return [remote.whether(Verb.INTACT, not self._lost and self._backend.intact())]
            case Verb.SEALS:
                return [remote.whether(Verb.SEALS, self._backend.seals())]
            case Verb.REFUSED:
                raise ProtocolError("an answer instead of a question")
            case _:
                assert_never(question.verb)
        return [remote.plain(question.verb)]

    def _cut(self, partner: Partner) -> None:
        self._poll.unregister(partner.socket)
        del self._partners[partner.socket.fileno()]
        partner.socket.close()


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, for its owner and its group. Raises DatapathError; what a dead helper left there is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        if _answers(path):
            raise DatapathError(f"{path}: another datapath helper serves there; end it first: systemctl stop chainrelay-datapath")
        path.unlink(missing_ok=True)
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(HELPER_CONNECTIONS)
    except OSError as fault:
        listener.close()
        advice = "its folder must exist and be the helper's (RuntimeDirectory= in its unit)"
        raise DatapathError(f"{path}: {fault.strerror}; {advice}") from fault
    except DatapathError:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
