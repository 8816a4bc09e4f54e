"""Types of values in the configuration files, each with the error that a wrong one gets.

A kind turns what TOML gives (text, number, list, table) into a value of the project or raises WrongError(why, mend).
It sees one value only: whatever takes two keys or two files to judge is in agent.py, client.py and tables.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_network
from typing import Generic, TypeVar

from chainrelay.config.problems import Place
from chainrelay.config.schema import Kind, ReportedError, WrongError, describe, nearest, number, shorten
from chainrelay.limits import CONTROL_PORT, ID_LENGTH, NAME_LENGTH
from chainrelay.session.prefixes import PortRange, Prefix, parse_prefix
from chainrelay.wire.endpoint import Address, Endpoint, parse_address

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def text_of(raw: object, mend: str) -> str:
    """A text that is not empty."""
    if not isinstance(raw, str):
        raise WrongError(f"expected text, found {describe(raw)}", mend)
    if not raw:
        raise WrongError("the text is empty", mend)
    return raw


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in a range, both ends included."""

    lowest: int
    highest: int
    unit: str = ""

    @property
    def name(self) -> str:
        """For the documentation."""
        return f"integer {self.lowest} to {self.highest}{' ' + self.unit if self.unit else ''}"

    def read(self, raw: object, place: Place) -> int:  # noqa: ARG002  # a kind's interface
        """The number."""
        mend = f"write a whole number from {self.lowest} to {self.highest}{' (' + self.unit + ')' if self.unit else ''}"
        if not isinstance(raw, int) or isinstance(raw, bool):
            quoted = isinstance(raw, str) and raw.strip().isdecimal()
            mend += ", without quotes" if quoted else ""
            raise WrongError(f"expected a whole number, found {describe(raw)}", mend)
        if not self.lowest <= raw <= self.highest:
            raise WrongError(f"{number(raw)} is out of range", mend)
        return raw


@dataclass(frozen=True, slots=True)
class Boolean:
    """true or false."""

    name: str = "true or false"

    def read(self, raw: object, place: Place) -> bool:  # noqa: ARG002  # a kind's interface
        """The truth value."""
        if not isinstance(raw, bool):
            raise WrongError(f"expected true or false, found {describe(raw)}", "write true or false, without quotes")
        return raw


@dataclass(frozen=True, slots=True)
class Text:
    """Any text but an empty one."""

    name: str = "text"

    def read(self, raw: object, place: Place) -> str:  # noqa: ARG002  # a kind's interface
        """The text."""
        text = text_of(raw, f"write a {self.name} in quotes")
        if not text.isprintable():
            raise WrongError(f"{shorten(text)!r} has control characters", f"write a {self.name} without them")
        return text


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface's name as the kernel takes it (net/core/dev.c: dev_valid_name)."""

    name: str = "interface name"

    def read(self, raw: object, place: Place) -> str:  # noqa: ARG002  # a kind's interface
        """The name."""
        mend = "write the name of an interface as `ip link` shows it"
        text = text_of(raw, mend)
        if text in (".", "..") or not re.fullmatch(r"[^\s/:]{1,15}", text) or not text.isprintable():
            raise WrongError(f"{shorten(text)!r} can't be an interface's name", mend)
        return text


@dataclass(frozen=True, slots=True)
class Identifier:
    """An id, a user or a key id; `wildcard` admits "*"."""

    wildcard: bool = False

    @property
    def name(self) -> str:
        """For the documentation."""
        return 'id or "*"' if self.wildcard else "id"

    def read(self, raw: object, place: Place) -> str:  # noqa: ARG002  # a kind's interface
        """The id."""
        mend = f"write 1 to {ID_LENGTH} letters, digits or . _ @ -, beginning with a letter or digit"
        text = text_of(raw, mend + (' (or "*" for everybody)' if self.wildcard else ""))
        if self.wildcard and text == "*":
            return text
        if len(text) > ID_LENGTH or not _ID.fullmatch(text):
            raise WrongError(f"{shorten(text)!r} is not an id", mend)
        return text


@dataclass(frozen=True, slots=True)
class Choice(Generic[E]):
    """One word of a few: the values or the lower-case names of an enum."""

    words: dict[str, E]

    @property
    def name(self) -> str:
        """For the documentation."""
        return " or ".join(f'"{word}"' for word in self.words)

    def read(self, raw: object, place: Place) -> E:  # noqa: ARG002  # a kind's interface
        """The member."""
        text = text_of(raw, f"write {self.name}")
        if text not in self.words:
            raise WrongError(f"{shorten(text)!r} is not known here", nearest(text, list(self.words), "choose one"))
        return self.words[text]


@dataclass(frozen=True, slots=True)
class AddressKind:
    """One IP address, canonical."""

    name: str = "address"

    def read(self, raw: object, place: Place) -> Address:  # noqa: ARG002  # a kind's interface
        """The address."""
        mend = 'write one address, like "192.0.2.1" or "2001:db8::1"'
        text = text_of(raw, mend)
        try:
            return parse_address(text)
        except ValueError:
            raise WrongError(f"{shorten(text)!r} is not an address", mend) from None


@dataclass(frozen=True, slots=True)
class EndpointKind:
    """An address with a port; without one `default_port` is meant."""

    default_port: int = CONTROL_PORT

    @property
    def name(self) -> str:
        """For the documentation."""
        return "address:port"

    def read(self, raw: object, place: Place) -> Endpoint:  # noqa: ARG002  # a kind's interface
        """The endpoint."""
        mend = f'write address:port, like "192.0.2.1:{self.default_port}" or "[2001:db8::1]:{self.default_port}"'
        text = text_of(raw, mend)
        try:
            bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
            return Endpoint(parse_address(bare), self.default_port)
        except ValueError:
            pass
        try:
            return Endpoint.parse(text)
        except ValueError:
            raise WrongError(f"{shorten(text)!r} is not address:port", mend) from None


@dataclass(frozen=True, slots=True)
class NetworkKind:
    """A prefix; a single address is a prefix of its full length."""

    name: str = "prefix"

    def read(self, raw: object, place: Place) -> Prefix:  # noqa: ARG002  # a kind's interface
        """The prefix."""
        mend = 'write a prefix, like "10.9.0.0/16", "2001:db8::/32" or a single address'
        return parse_network(text_of(raw, mend), mend)


def parse_network(text: str, mend: str) -> Prefix:
    """A prefix from text. Raises WrongError; host bits that are set get the prefix that was probably meant."""
    try:
        return parse_prefix(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise WrongError(f"{shorten(text)!r} is not a prefix", mend) from None
        mend = f'write "{meant}", or "{text.partition("/")[0]}" for one host'
        raise WrongError(f"{text!r} has bits set behind its length", mend) from None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a route leads: a prefix, a name, ".suffix" for everything below a name, "*" for everything."""

    name: str = 'prefix, name, ".suffix" or "*"'

    def read(self, raw: object, place: Place) -> Prefix | str:  # noqa: ARG002  # a kind's interface
        """A network, or the name in lower case without its final dot."""
        mend = 'write a prefix ("10.9.0.0/16"), a name ("host.example.org"), a suffix (".example.org") or "*"'
        text = text_of(raw, mend)
        if text == "*":
            return text
        if "/" in text or ":" in text or re.fullmatch(r"[0-9.]+", text):
            return parse_network(text, mend)
        name = text.lower().rstrip(".")
        labels = name.removeprefix(".").split(".")
        if len(name) > NAME_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
            raise WrongError(f"{shorten(text)!r} is neither a prefix nor a domain name", mend)
        return name


@dataclass(frozen=True, slots=True)
class Ports:
    """A range of ports as text, "20000-29999" or "5004"; a plain number is one port."""

    name: str = 'ports ("first-last")'

    def read(self, raw: object, place: Place) -> PortRange:  # noqa: ARG002  # a kind's interface
        """The range."""
        mend = 'write "first-last" with ports from 1 to 65535, like "20000-29999"'
        text = number(raw) if isinstance(raw, int) and not isinstance(raw, bool) else text_of(raw, mend)
        match = re.fullmatch(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", text)
        if match is None:
            raise WrongError(f"{shorten(text)!r} is not a range of ports", mend)
        first, last = int(match[1]), int(match[2] or match[1])
        if not (1 <= first <= 65535 and 1 <= last <= 65535):
            raise WrongError(f"{text!r} goes beyond 1-65535", mend)
        if first > last:
            raise WrongError(f"{text!r} is reversed", f'write "{last}-{first}"')
        return PortRange(first, last)


@dataclass(frozen=True, slots=True)
class ListOf(Generic[T]):
    """A list of one kind; one item alone may do without brackets. Repeated items are errors.

    `empty`: an empty list is the same as none; otherwise it is an error, for it would never match.
    """

    item: Kind[T]
    empty: bool = False

    @property
    def name(self) -> str:
        """For the documentation."""
        return f"list of {self.item.name}"

    def read(self, raw: object, place: Place) -> tuple[T, ...]:
        """The items."""
        if not isinstance(raw, list):
            return (self.item.read(raw, place),)
        if not raw and not self.empty:
            raise WrongError("the list is empty", f"write at least one ({self.item.name}), or remove the key")
        found: dict[T, None] = {}
        broken = False
        for index, entry in enumerate(raw):
            try:
                value = self.item.read(entry, place.of(index))
            except WrongError as error:
                place.of(index).wrong(error.why, error.mend)
                broken = True
                continue
            if value in found:
                place.of(index).wrong(f"{describe(entry)} stands here twice", "remove one")
                broken = True
            found[value] = None
        if broken:
            raise ReportedError
        return tuple(found)


@dataclass(frozen=True, slots=True)
class AddressMap:
    """A table of addresses: bound → announced."""

    name: str = "table of address = address"

    def read(self, raw: object, place: Place) -> dict[Address, Address]:
        """The pairs."""
        if not isinstance(raw, dict):
            raise WrongError(f"expected a table, found {describe(raw)}", 'write { "10.0.2.1" = "192.0.2.7" }')
        kind = AddressKind()
        pairs: dict[Address, Address] = {}
        broken = False
        for left, right in raw.items():
            try:
                pairs[kind.read(left, place)] = kind.read(right, place)
            except WrongError as error:
                place.of(left).wrong(error.why, error.mend)
                broken = True
        if broken:
            raise ReportedError
        return pairs
