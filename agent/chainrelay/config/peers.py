"""peers.toml (M20) -> PeerTable, with the keys that its rows name. Rows with a mistake are left out of the table.

`Partners` is what other files may refer to: a row that names a partner whose row has a mistake is not blamed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from chainrelay.config.files import read_file
from chainrelay.config.keys import CREDENTIAL, read_key
from chainrelay.config.kinds import Choice, Identifier, ListOf, NetworkKind, Text
from chainrelay.config.problems import Problems
from chainrelay.config.schema import Key, Rows, Schema, Values, WrongError, nearest
from chainrelay.session.prefixes import Prefix, Prefixes
from chainrelay.session.tables import EVERYBODY, Kind, PeerRow, PeerTable
from chainrelay.wire.keys import PairKey
from chainrelay.wire.primitives import KEY_LENGTH

_NO_TEXT: str | None = None
_NO_USERS: tuple[str, ...] = ()
_NO_PREFIXES: tuple[Prefix, ...] = ()

KID = Key("kid", Identifier(), "name of the key, the same at the partner's")
FILE = Key("file", Text("path"), "key file, relative to this directory, mode 0600", _NO_TEXT, "none")
CREDENTIAL_NAME = Key("credential", Text("name"), "instead of `file`: name of a systemd credential", _NO_TEXT, "none")
SECRET = Schema("keys", (KID, FILE, CREDENTIAL_NAME), "A shared key: exactly one of `file` and `credential`.")

PEER_ID = Key("id", Identifier(), "the partner's id, as its agent.toml or client.toml says")
KIND = Key("kind", Choice({kind.value: kind for kind in Kind}), "what the partner is")
KEYS = Key(
    "keys",
    Rows(SECRET),
    "its keys, the current one first: that one is used to call, each is accepted; a relay's may be [] (iterative way only)",
)
USERS = Key(
    "users",
    ListOf(Identifier(wildcard=True)),
    'users that it may speak for; `"*"`: all',
    _NO_USERS,
    "a client: its own id; a relay: nobody",
)
ADDRESSES = Key(
    "addresses",
    ListOf(NetworkKind(), empty=True),
    "where its endpoints may lie beyond the address of its connection",
    _NO_PREFIXES,
    "none",
)
PEER = Schema("peer", (PEER_ID, KIND, KEYS, USERS, ADDRESSES), "A partner: who may call, and who is called (M20).")
PEER_ROWS = Key("peer", Rows(PEER), PEER.doc, ())
PEERS = Schema("peers.toml", (PEER_ROWS,))


@dataclass(slots=True)
class Partners:
    """Ids that may be referred to. `certain` is False when an id itself could not be read: then nobody is blamed."""

    kinds: dict[str, Kind | None] = field(default_factory=dict)
    certain: bool = True
    users: set[str] = field(default_factory=set)

    def expect_relay(self, values: Values, key: Key[str] | Key[str | None], peer: str) -> None:
        """Report unless `peer` may be a relay of peers.toml."""
        if peer in self.kinds:
            if self.kinds[peer] is Kind.CLIENT:
                why = f"{peer!r} is a client in peers.toml"
                values.at(key).wrong(why, 'name a relay, or write kind = "relay" in its row')
        elif self.certain:
            relays = [name for name, kind in self.kinds.items() if kind is not Kind.CLIENT]
            mend = nearest(peer, relays, "add a [[peer]] row for it")
            values.at(key).wrong(f"there is no peer {peer!r} in peers.toml", mend)


def read_peers(
    directory: Path, problems: Problems, own_id: str | None, *, optional: bool = False
) -> tuple[PeerTable, Partners]:
    """The table and what may be referred to. `own_id` is None when it was wrong itself."""
    file = read_file(directory, PEERS, problems, optional=optional)
    partners = Partners(certain="peer" in file.held)
    rows: dict[str, PeerRow] = {}
    whose: dict[bytes, str] = {}
    for values in file.get(PEER_ROWS, ()):
        peer = values.get(PEER_ID)
        if peer is None:
            partners.certain = False  # whoever names an unknown peer may mean this one
            continue
        if peer == own_id:
            values.at(PEER_ID).wrong(f"{peer!r} is our own id", "write the partner's id; the two must differ")
        if peer in partners.kinds:
            values.at(PEER_ID).wrong(f"{peer!r} stands in two rows", "put all of its keys into one row")
        partners.kinds.setdefault(peer, values.get(KIND))
        row = _row(directory, values, peer)
        if row is not None:
            for key in row.keys:
                if whose.setdefault(key.secret, peer) != peer:
                    why = f"the key {key.kid!r} is {whose[key.secret]}'s as well: either could pass for the other"
                    values.at(KEYS).warn(why, "make a new key for one of them: chainrelay key new")
            rows.setdefault(peer, row)
            partners.users |= row.users
        else:
            partners.users.add(EVERYBODY)  # not known: nobody is told that his user has no partner
    return PeerTable(tuple(rows.values())), partners


def _row(directory: Path, values: Values, peer: str) -> PeerRow | None:
    keys = _keys(directory, values)
    if not values.complete or keys is None:
        return None
    users = values[USERS]
    if not users and values[KIND] is Kind.CLIENT:
        users = (peer,)
    if EVERYBODY in users and len(users) > 1:
        values.at(USERS).warn('"*" makes the other users superfluous', 'write ["*"], or only the names')
    return PeerRow(peer, values[KIND], keys, frozenset(users), Prefixes(values[ADDRESSES]))


def _keys(directory: Path, values: Values) -> tuple[PairKey, ...] | None:
    """The keys in their order; None when one is wrong."""
    rows = values.get(KEYS)
    if rows is None:
        return None
    if not rows and values.get(KIND) is not Kind.RELAY:
        values.at(KEYS).wrong("the list is empty", 'write keys = [{ kid = "2026a", file = "keys/….key" }]')
        return None
    keys: dict[str, bytes] = {}
    for row in rows:
        kid, secret = row.get(KID), _secret(directory, row)
        if kid is None or secret is None:
            continue
        if kid in keys:
            row.at(KID).wrong(f"{kid!r} names two keys of this peer", "give each key a kid of its own")
        elif secret in keys.values():
            row.place.wrong("the same key under another kid", "make a new key: chainrelay key new")
        keys[kid] = secret
    return tuple(PairKey(*key) for key in keys.items()) if len(keys) == len(rows) else None


def _secret(directory: Path, row: Values) -> bytes | None:
    if not row.complete:
        return None
    file, credential = row[FILE], row[CREDENTIAL_NAME]
    try:
        match file, credential:
            case str(), None:
                return read_key(directory / file)
            case None, str():
                if row.place.problems.only_checking and not _credentials_are_visible():
                    why = f"credential {credential!r} can't be seen from here: systemd shows it to the service alone"
                    row.at(CREDENTIAL_NAME).warn(why, "nothing is to be done; the agent reads it at its start and at a reload")
                    return os.urandom(KEY_LENGTH)
                return _credential(credential)
            case None, None:
                row.place.wrong("neither file nor credential", "write exactly one of them")
            case _:
                row.place.wrong("both file and credential", "write exactly one of them")
    except WrongError as error:
        row.at(FILE if credential is None else CREDENTIAL_NAME).wrong(error.why, error.mend)
    return None


def _credentials_are_visible() -> bool:
    """Not to a shell, nor to what systemd runs as ExecReload= (252: no right to look, 257: not even told where)."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and os.access(directory or "", os.R_OK | os.X_OK)


def _credential(name: str) -> bytes:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if "/" in name or name in {".", ".."}:
        raise WrongError(f"{name!r} is no credential's name", "write the name in LoadCredential=, without a path")
    if not directory:
        mend = f"start it by systemd with LoadCredential={name}:…, or write file = …"
        raise WrongError("there are no systemd credentials: $CREDENTIALS_DIRECTORY is not set", mend)
    return read_key(Path(directory) / name, forbidden=CREDENTIAL)
