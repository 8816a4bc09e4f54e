"""A process of one address family that writes iptables-legacy: the only importer of python-iptables.

One line of JSON in, one out (`answer`):
    {"commit": [[rule, …], [rule, …]]}   rules of sessions to add and to delete, in one commit
    {"look": null}                       do our chains stand, and are they called first?
    {"save": table}, {"restore": text}   whole tables, by the commands: only where chains are made or removed
A rule is [chain root, protocol, source, port, destination, port, own port, new address, new port]. Ends with its standard input.

A process per family, because python-iptables can't load the NAT targets of both in one. It makes a rule in 0.3 ms; so it makes one
of each kind, as a mould, and the addresses and ports of the others are written into copies.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import iptc
from iptc import xtables
from iptc.ip4tc import IPTCError
from iptc.xtables import XTablesError

from chainrelay.datapath.legacy_ruleset import DESTINATIONS, MATCH_SET, PREFIX, SETS, SOURCES, branch

LOCK: Final = Path("/run/xtables.lock")  # what every iptables command holds while it reads and writes
ATTEMPTS: Final = 20  # a table that changed under our hands is read again
PAUSE: Final = 0.02
HOOKS: Final = {
    "mangle": {"PREROUTING": "PRE", "INPUT": "INPUT", "POSTROUTING": "POST"},
    "nat": {"PREROUTING": "PRE", "POSTROUTING": "POST"},
    "filter": {"FORWARD": "FORWARD"},
}
COMMANDS: Final = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_NO_RULE: Final = ("does a matching rule exist", "by that name")  # libiptc's words for ENOENT where the chain is there
_AGAIN: Final = os.strerror(errno.EAGAIN)

Entry = ctypes.Array[ctypes.c_ubyte]
"""A rule as libiptc takes it."""
Rule = Sequence[Any]
"""As in the module's docstring."""


class Gone(Exception):
    """Our chains don't stand."""


class Mould:
    """A kind of rule (chain root and protocol) whose copies differ in addresses and ports."""

    def __init__(self, family: int, root: str, protocol: str) -> None:
        self._family = socket.AF_INET if family == 4 else socket.AF_INET6
        self._values = ("203.0.113.1", 1027, "203.0.113.2", 1543, "203.0.113.3", 2059)
        if family == 6:
            self._values = ("2001:db8::fed1", 1027, "2001:db8::fed2", 1543, "2001:db8::fed3", 2059)
        rule = self._make(family, root, protocol, self._values)
        rule.final_check()
        self._octets, self.mask = bytes(rule.rule), rule.mask
        self._places = [self._find(*each) for each in self._fields(self._values)]

    def cast(self, source: str, port: int, destination: str, to: int, new: str, new_port: int) -> Entry:
        """A copy."""
        made = bytearray(self._octets)
        for places, (octets, _) in zip(self._places, self._fields((source, port, destination, to, new, new_port)), strict=True):
            for place in places:
                made[place : place + len(octets)] = octets
        return (ctypes.c_ubyte * len(made)).from_buffer(made)

    def _fields(self, values: Rule) -> Iterator[tuple[bytes, int]]:
        """The octets of each field, and how often they stand in a rule: ranges have two ends."""
        source, port, destination, to, new, new_port = values
        yield socket.inet_pton(self._family, source), 1
        yield port.to_bytes(2, sys.byteorder) * 2, 1
        yield socket.inet_pton(self._family, destination), 1
        yield to.to_bytes(2, sys.byteorder) * 2, 1
        yield socket.inet_pton(self._family, new), 2
        yield new_port.to_bytes(2, "big") * 2, 1

    def _find(self, octets: bytes, count: int) -> list[int]:
        places = [place for place in range(len(self._octets)) if self._octets.startswith(octets, place)]
        if len(places) != count:
            raise RuntimeError(f"a rule of this iptables is laid out in an unknown way ({octets.hex()}: {len(places)} times)")
        return places

    @staticmethod
    def _make(family: int, root: str, protocol: str, values: Rule) -> iptc.Rule:
        source, port, destination, to, new, new_port = values
        rule = iptc.Rule() if family == 4 else iptc.Rule6()
        rule.protocol, rule.src, rule.dst = protocol, source, destination
        ports = rule.create_match(protocol)
        ports.sport, ports.dport = str(port), str(to)
        if root == DESTINATIONS:  # counts the first packet; the gate has not, since it did not know the partner's port
            rule.create_match("set").match_set = [SETS[family], MATCH_SET]
        target = rule.create_target("DNAT" if root == DESTINATIONS else "SNAT")
        host = new if family == 4 else f"[{new}]"
        setattr(target, "to_destination" if root == DESTINATIONS else "to_source", f"{host}:{new_port}")
        return rule


def read_long_options(family: int) -> None:
    """Teach python-iptables 1.0.1 the options of iptables 1.8.11 (Debian 13).

    It walks a match's table of options in rows of 48 octets, of which that version made 56, so it finds each table's first option
    only. The conntrack match tells which it is: its first row ends in zeros, and its second option is known.
    """
    row_type = xtables.xt_option_entry
    table = _address((iptc.Rule() if family == 4 else iptc.Rule6()).create_match("conntrack")._module.x6_options)  # noqa: SLF001
    length = ctypes.sizeof(row_type)
    if row_type.from_address(table + length).name is not None:
        return  # an iptables as python-iptables knows it
    length += 8
    if row_type.from_address(table + length).name != b"ctproto":
        raise RuntimeError("this iptables has its options laid out in an unknown way")

    def look_up(_self: object, options: Any, name: bytes) -> Any:  # noqa: ANN401 - ctypes' own
        for place in count(_address(options), length):
            row = row_type.from_address(place)
            if row.name is None or row.name == name:
                return row if row.name else None
        return None

    xtables.xtables._option_lookup = look_up  # noqa: SLF001 - there is no other way to mend it from here


def _address(pointer: Any) -> int:  # noqa: ANN401 - ctypes' own
    address = ctypes.cast(pointer, ctypes.c_void_p).value
    assert address is not None
    return address


class Writer:
    """The tables of one family."""

    def __init__(self, family: int) -> None:
        read_long_options(family)
        self._family = family
        self._kind = iptc.Table if family == 4 else iptc.Table6
        self._moulds: dict[tuple[str, str], Mould] = {}

    def commit(self, add: Sequence[Rule], delete: Sequence[Rule]) -> None:
        """All of it or nothing. Raises Gone, IPTCError."""
        moulds = {(rule[0], rule[1]) for rule in (*add, *delete)} - self._moulds.keys()
        self._moulds |= {kind: Mould(self._family, *kind) for kind in moulds}
        for attempt in range(ATTEMPTS):
            try:
                with _locked():
                    self._commit(add, delete)
                return
            except IPTCError as refused:
                if _AGAIN not in str(refused) or attempt == ATTEMPTS - 1:
                    raise
                time.sleep(PAUSE)

    def save(self, table: str) -> str:
        """A table as iptables-save prints it. Raises OSError, RuntimeError."""
        return self._run(["save", "-t", table], "")

    def restore(self, text: str) -> None:
        """Transactions of whole chains; the set may be another one from now on. Raises OSError, RuntimeError."""
        self._moulds.clear()
        self._run(["restore", "--noflush", "--wait"], text)

    def look(self) -> None:
        """Raises Gone unless every hook leads to our chains, before everything else."""
        with _locked():
            for name in HOOKS:
                self._expect_hooks(self._open(name), name)

    def _run(self, words: list[str], text: str) -> str:
        command = [f"{COMMANDS[self._family]}-{words[0]}", *words[1:]]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr or f"{command[0]} ended with {done.returncode}")
        return done.stdout

    def _commit(self, add: Sequence[Rule], delete: Sequence[Rule]) -> None:
        table = self._open("nat")
        self._expect_hooks(table, "nat")
        for rule in delete:
            mould = self._moulds[rule[0], rule[1]]
            chain = branch(rule[0], rule[6])[-1][0]
            if table.is_chain(chain):
                self._delete(table, chain, mould.cast(*rule[2:6], *rule[7:]), mould.mask)
        for rule in add:
            chain = self._grown(table, rule[0], rule[6])
            table.append_entry(chain, self._moulds[rule[0], rule[1]].cast(*rule[2:6], *rule[7:]))
        table.commit()

    @staticmethod
    def _delete(table: iptc.Table, chain: str, entry: Entry, mask: Entry) -> None:
        try:
            table.delete_entry(chain, entry, mask)
        except IPTCError as missing:
            if not any(words in str(missing) for words in _NO_RULE):
                raise

    def _open(self, name: str) -> iptc.Table:
        table = self._kind(name, autocommit=False)
        table.refresh()
        return table

    def _expect_hooks(self, table: iptc.Table, name: str) -> None:
        for hook, chain in HOOKS[name].items():
            first = table.first_rule(hook)
            if not first or not table.is_chain(f"{PREFIX}{chain}") or _target(table, first) != f"{PREFIX}{chain}":
                raise Gone
        if name == "nat" and not (table.is_chain(DESTINATIONS) and table.is_chain(SOURCES)):
            raise Gone

    def _grown(self, table: iptc.Table, root: str, port: int) -> str:
        """The leaf for an own port, made with all that leads to it where it is new."""
        parent = root
        for chain, first, last in branch(root, port):
            if not table.is_chain(chain):
                table.create_chain(chain)
                rule = iptc.Rule() if self._family == 4 else iptc.Rule6()
                rule.create_match("conntrack").ctorigdstport = f"{first}:{last}"
                rule.create_target(chain)
                rule.final_check()
                table.append_entry(parent, rule.rule)
            parent = chain
        return parent


def _target(table: iptc.Table, entry: Entry) -> str:
    name = table.get_target(entry)
    return name.decode() if isinstance(name, bytes) else str(name)


@contextmanager
def _locked() -> Iterator[None]:
    lock = os.open(LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)  # as iptables opens it: to read is enough
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def answer(writer: Writer, order: dict[str, Any]) -> dict[str, Any]:
    """What an order came to: `text`, `gone` or `error`, or nothing to say."""
    try:
        match order:
            case {"commit": [add, delete]}:
                writer.commit(add, delete)
            case {"look": _}:
                writer.look()
            case {"restore": text}:
                writer.restore(text)
            case {"save": table}:
                return {"text": writer.save(table)}
            case _:
                return {"error": f"no such order: {order}"}
    except Gone:
        return {"gone": True}
    except (IPTCError, XTablesError, OSError, RuntimeError) as refused:
        return {"error": str(refused)}
    return {}


def main(family: int) -> None:
    """Answer until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for who started us
    writer = Writer(family)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(writer, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
