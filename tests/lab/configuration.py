"""Configuration directories for a row: one per relay and one for the client, as their administrators would write them.

Keys are made per pair of neighbours, and for the client with every relay. Every relay routes everything on to the next
one, the last one goes direct, and user `alice` may go from the client's network to the server's. Tests that want something else name it.
"""

from __future__ import annotations

import base64
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chainrelay.wire.endpoint import Endpoint
from lab.rulesets import CONTROL_PORT

if TYPE_CHECKING:
    from pathlib import Path

    from lab.row import Firewall, Row

USER = "alice"
KID = "2026a"
EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass
class Configuration:
    """Writes the directories below `folder`: `fw1`, `fw2`, …, `client`."""

    row: Row
    folder: Path
    lease: int = 120
    firewall: str = "guest"
    rest: int = 1
    """Seconds that ports rest; short, so that tests of a small pool need not wait."""
    pool: str = "20000-29999"
    user: str = USER
    level: str = "debug"
    xdp: str = "off"
    """datapath.xdp of every relay; the pins lie beside its directory."""
    pinned: Path | None = None
    """Other pins than those."""
    room: int = 0
    """limits.fast_path_sessions; 0: the default."""
    way: str = "recursive"
    neighbour_keys: bool = True
    """Whether relays share keys with each other; without them only the iterative way is possible."""
    seal: bool = False
    """Whether the client's routes seal, up to the last relay."""
    last: str = ""
    """The relay that the client's routes name as the last one; empty: that of the row if they seal, otherwise none."""
    allow: dict[str, str] = field(default_factory=dict)
    """Per relay: its access.toml instead of the usual one."""
    extra: dict[str, str] = field(default_factory=dict)
    """Per relay: more text for agent.toml; a key under `[limits]` and the like starts with its section."""

    def write(self) -> None:
        """Write (or write again) everything; keys that exist stay."""
        for firewall in self.row.firewalls:
            self._relay(firewall)
        self._client()

    def directory(self, name: str) -> Path:
        """The directory of a relay (`fw1`) or of the client (`client`)."""
        return self.folder / name

    def _relay(self, firewall: Firewall) -> None:
        before = self.row.firewalls[firewall.number - 2].name if firewall.number > 1 else self.user
        after = self._after(firewall)
        peers = [self._peer(firewall.name, before, "relay" if firewall.number > 1 else "client")]
        if firewall.number > 1:
            peers.append(self._peer(firewall.name, self.user, "client"))
        if after is not None:
            peers.append(self._peer(firewall.name, after.name, "relay"))
        self._put(firewall.name, "agent.toml", self._agent(firewall))
        self._put(firewall.name, "routes.toml", self._routes(after))
        self._put(firewall.name, "peers.toml", "\n".join(peers))
        self._put(firewall.name, "access.toml", self.allow.get(firewall.name, self._access()))

    def _client(self) -> None:
        first = self.row.firewalls[0] if self.row.firewalls else None
        self._put("client", "client.toml", f'id = "{self.user}"\n')
        self._put("client", "routes.toml", self._routes(first, self._wishes()))
        self._put("client", "peers.toml", "\n".join(self._peer(self.user, each.name, "relay") for each in self.row.firewalls))
        self._put("client", "access.toml", "")

    def _wishes(self) -> str:
        """What a client's route says beyond the next relay."""
        last = self.last or (self.row.firewalls[-1].name if self.seal else "")
        return f'way = "{self.way}"\n' + (f'last = "{last}"\n' if last else "") + ("seal = true\n" if self.seal else "")

    def _after(self, firewall: Firewall) -> Firewall | None:
        return self.row.firewalls[firewall.number] if firewall.number < self.row.hops else None

    def _agent(self, firewall: Firewall) -> str:
        listen = [str(Endpoint(firewall.bound(family), CONTROL_PORT)) for family in self.row.families]
        announce = {str(firewall.bound(family)): str(firewall.announced(family)) for family in self.row.families}
        differing = ", ".join(f'"{bound}" = "{told}"' for bound, told in announce.items() if bound != told)
        return f"""
id = "{firewall.name}"
listen = {listen}
firewall = "{self.firewall}"
[ports]
pool = "{self.pool}"
rest = {self.rest}
[addresses]
announce = {{ {differing} }}
[lease]
default = {self.lease}
[log]
level = "{self.level}"
[datapath]
rules = "{self.row.rules}"
{self._fast_path(firewall)}
{self.extra.get(firewall.name, "")}
"""

    def pins(self, name: str) -> Path:
        """Where the fast path of a relay (`fw1`) pins its maps."""
        return self.pinned or self.folder / f"{name}-run" / "bpf"

    def _fast_path(self, firewall: Firewall) -> str:
        pins = f'pins = "{self.pins(firewall.name)}"\n'  # also where there is none: the default is the machine's own relay's
        if self.xdp == "off":
            return pins
        room = f"[limits]\nfast_path_sessions = {self.room}\n" if self.room else ""
        return f'xdp = "{self.xdp}"\n{pins}{room}'

    def _routes(self, after: Firewall | None, way: str = "") -> str:
        if after is None:
            return '[[route]]\nto = "*"\ndirect = true\n'
        rows = []
        for family in self.row.families:
            at = Endpoint(after.announced(family), CONTROL_PORT)
            destinations = [EVERYTHING[family], *(["*"] if family == self.row.families[0] else [])]
            rows += [f'[[route]]\nto = "{each}"\nvia = "{after.name}"\nat = "{at}"\n{way}' for each in destinations]
        return "\n".join(rows)

    def _peer(self, own: str, other: str, kind: str) -> str:
        if not self.neighbour_keys and self.user not in (own, other):
            return f'[[peer]]\nid = "{other}"\nkind = "{kind}"\nkeys = []\n'
        pair = "-".join(sorted((own, other)))
        keys = self.folder / (own if own != self.user else "client") / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        shared = self.folder / f"{pair}.key"
        if not shared.exists():
            _private(shared, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        _private(keys / f"{other}.key", shared.read_text())
        users = 'users = ["*"]' if kind == "relay" else f'users = ["{other}"]'
        return f"""
[[peer]]
id = "{other}"
kind = "{kind}"
keys = [{{ kid = "{KID}", file = "keys/{other}.key" }}]
{users}
"""

    def _access(self) -> str:
        source = [str(each.network) for each in self.row.client_end.interfaces]
        destination = [*(str(each.network) for each in self.row.server_end.interfaces), ".example"]
        return f'[[allow]]\nuser = "{self.user}"\nsource = {source}\ndestination = {destination}\n'

    def _put(self, name: str, file: str, text: str) -> None:
        self.directory(name).mkdir(parents=True, exist_ok=True)
        (self.directory(name) / file).write_text(text, encoding="utf-8")


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
