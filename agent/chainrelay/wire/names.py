"""What an id and a domain name may look like, on the wire and in configuration files alike. Syntax only, no look-up."""

from __future__ import annotations

import re

from chainrelay.limits import ID_LENGTH, NAME_LENGTH

# Harmless in a log line, a file name, an nft comment and a shell: that is what the set and the first character are for.
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@-]{{0,{ID_LENGTH - 1}}}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LAST_LABEL = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LAST_LABEL}")


def is_id(text: str) -> bool:
    """Whether `text` may be the id of a relay, client, user or key: 1–64 of A–Z a–z 0–9 . _ @ -, no sign first."""
    return _ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` is a host name (RFC 1035 §2.3.1, RFC 1123 §2.1): lower case, no final dot, IDNA as A-labels.

    The last label starts with a letter: a resolver would take `127.1` or `0x7f.1` for an address.
    """
    return len(text) <= NAME_LENGTH and _NAME.fullmatch(text) is not None
