"""What becomes of a session, for whoever watches: as text or as a JSON object per line."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from functools import partial
from typing import TYPE_CHECKING

from chainrelay.errors import OutputError
from chainrelay.output import put, warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from chainrelay.client import Session, Trouble
    from chainrelay.wire.endpoint import Endpoint


class Report:
    """Prints it. Endpoints and counters go to stdout, text about trouble to stderr, where it does not get in their way."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises OutputError once something can't be told any more: the command ends then, it is not to go on unseen."""

    def opened(self, session: Session, event: str = "open") -> None:
        """Its endpoints."""
        rows: dict[str, object] = {
            "session": session.id.hex(),
            "protocol": session.protocol.name.lower(),
            "components": session.components,
            "local": str(session.local),
            "entry": str(session.entry),
            "exit": str(session.exit),
            "peer": str(session.peer),
            "mtu": session.mtu,
            "sealed": session.sealed,
            "last": session.relays[-1] if session.relays else None,
        }
        if self._as_json:
            put(json.dumps({"event": event, **rows}))
            return
        meaning = {
            "local": "P1: receive here, send from here",
            "entry": "P2: send there",
            "exit": "P5: what the server sees and answers to",
            "peer": "P6: the server",
            "mtu": "bytes in a datagram at most",
            "sealed": "datagrams encrypted up to the last relay",
            "last": "the last relay",
        }
        rows |= {"sealed": "yes" if session.sealed else "no", "last": rows["last"] or "none"}
        head = [] if event == "open" else [f"{event}:"]
        put("\n".join([*head, *(f"{name:<10} {value!s:<28} {meaning.get(name, '')}".rstrip() for name, value in rows.items())]))

    def forwarding(self, listen: Endpoint) -> None:
        """The local port is open."""
        put(json.dumps({"event": "forward", "listen": str(listen)}) if self._as_json else f"listen     {listen}")

    def watch(self, session: Session) -> None:
        """Tell what becomes of it until it is closed."""
        session.on_moved = lambda moved: self.breaks(partial(self.opened, moved, "moved"))
        session.on_trouble = lambda trouble: self.breaks(partial(self.trouble, session, trouble))

    def breaks(self, tell: Callable[[], None]) -> None:
        """Tell from where nobody waits for the outcome."""
        try:
            tell()
        except OutputError as fault:
            self.fail(fault)

    def fail(self, fault: OutputError) -> None:
        """The command is to end with it."""
        if not self.broken.done():
            self.broken.set_exception(fault)
            self.broken.exception()  # whoever waits gets it; when the command ends at the same moment, nobody does

    def trouble(self, session: Session, trouble: Trouble | None) -> None:
        """The chain is silent, or back."""
        if self._as_json:
            known: dict[str, object] = {"session": session.id.hex()}
            if trouble is not None:
                why = trouble.refusal
                known |= {"code": why.code.word, "hop": why.hop, "text": why.text, "left": round(trouble.left, 1)}
            put(json.dumps({"event": "back" if trouble is None else "trouble", **known}))
        elif trouble is None:
            self._warn(session, "is renewed again")
        else:
            how = f"Datagrams pass for another {trouble.left:.0f} s" if trouble.left else "No datagram passes any more"
            self._warn(session, f"can't be renewed: {trouble.refusal}\n  {how}; trying on.")

    async def end(self, session: Session) -> None:
        """Close it; tell what every relay counted, and what became of a sealed session's datagrams here."""
        counters = await session.close()
        seal = session.seal_counters if session.sealed else None
        if self._as_json:
            hops = [
                {
                    "hop": hop.hop,
                    "to_server": {"packets": hop.to_server_packets, "bytes": hop.to_server_bytes},
                    "to_client": {"packets": hop.to_client_packets, "bytes": hop.to_client_bytes},
                }
                for hop in counters
            ]
            sealed = {"seal": dataclasses.asdict(seal)} if seal is not None else {}
            known = {"session": session.id.hex(), "lingers": round(session.lingers, 1)}
            put(json.dumps({"event": "closed", "counters": hops, **sealed, **known}))
            return
        for hop in counters:
            put(
                f"{hop.hop}: to the server {hop.to_server_packets} packets, {hop.to_server_bytes} bytes; "
                f"to the client {hop.to_client_packets} packets, {hop.to_client_bytes} bytes"
            )
        if seal is not None:
            put(
                f"here: {seal.sealed} datagrams sealed, {seal.opened} opened; dropped: {seal.forged} forged, {seal.replayed} replayed, "
                f"{seal.unknown} under no key"
            )
        if session.lingers:
            ends = f"what may still stand ends by itself within {session.lingers:.0f} s"
            self._warn(session, f"is closed, but not every relay has heard it: {ends}")

    @staticmethod
    def _warn(session: Session, text: str) -> None:
        warn(f"chainrelay: session {session.id.hex()} {text}")
