"""A directory with a good relay or client configuration, of which a test changes one thing."""

from __future__ import annotations

from pathlib import Path

from chainrelay.config.host import HostFacts
from chainrelay.config.keys import new_key

NO_FACTS = HostFacts()

RELAY = {
    "agent.toml": 'id = "fw1"\nlisten = ["10.0.1.1:9798"]\n',
    "routes.toml": '[[route]]\nto = "10.9.0.0/16"\nvia = "fw2"\nat = "10.0.2.2:9798"\n\n[[route]]\nto = "*"\ndirect = true\n',
    "peers.toml": (
        '[[peer]]\nid = "alice"\nkind = "client"\nkeys = [{ kid = "a", file = "alice.key" }]\n\n'
        '[[peer]]\nid = "fw2"\nkind = "relay"\nkeys = [{ kid = "a", file = "fw2.key" }]\n'
    ),
    "access.toml": '[[allow]]\nuser = "alice"\n',
}
CLIENT = {
    "client.toml": 'id = "alice"\n',
    "routes.toml": '[[route]]\nto = "10.9.0.0/16"\nvia = "fw2"\nat = "10.0.2.2:9798"\n',
    "peers.toml": '[[peer]]\nid = "fw2"\nkind = "relay"\nkeys = [{ kid = "a", file = "fw2.key" }]\n',
}


def write(directory: Path, good: dict[str, str], **changed: str) -> Path:
    """`good` with some files replaced (`routes=` for routes.toml), and its two keys."""
    for name, text in {**good, **{f"{stem}.toml": text for stem, text in changed.items()}}.items():
        (directory / name).write_text(text, encoding="utf-8")
    for name in ("alice.key", "fw2.key"):
        write_key(directory / name)
    return directory


def write_key(path: Path, text: str | None = None, mode: int = 0o600) -> Path:
    """A key file."""
    path.write_text(new_key() if text is None else text, encoding="ascii")
    path.chmod(mode)
    return path
