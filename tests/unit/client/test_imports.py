"""`pip install chainrelay` on a client brings cryptography and cbor2 only: nothing of a relay's parts may be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions

ALLOWED = {"cryptography", "cbor2", "cffi", "pycparser", "chainrelay", "setuptools"}  # setuptools: its .pth file in a venv


def test_the_client_needs_nothing_but_cryptography_and_cbor2() -> None:
    program = """
import json, sys
import chainrelay.client, chainrelay.client.blocking, chainrelay.client.cli
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert {"chainrelay", "cryptography", "cbor2"} <= loaded
    installed = {name: set(names) for name, names in packages_distributions().items() if name in loaded}
    foreign = {name for name, distributions in installed.items() if not distributions & ALLOWED}
    assert not foreign
    assert loaded.isdisjoint({"pyroute2", "nftables", "bcc", "iptc", "systemd"})
