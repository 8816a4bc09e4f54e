"""`chainrelay key new` as a process."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

from unit.client.cli.command import run


def test_half_a_key_is_not_left(tmp_path: Path) -> None:
    """A full disk, for which /dev/full stands: it takes no octet."""
    path = tmp_path / "key"
    script = "import os\nopened = os.open\nos.open = lambda path, *more: (opened(path, *more), opened('/dev/full', os.O_WRONLY))[1]\n"
    script += f"import sys\nfrom chainrelay.client.cli.main import run\nsys.exit(run(['key', 'new', {str(path)!r}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "can't write it: No space left on device" in done.stderr
    assert not path.exists()


def test_key_new(tmp_path: Path) -> None:
    path = tmp_path / "new.key"
    assert run("key", "new", str(path)).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(base64.b64decode(path.read_text())) == 32
    before = path.read_text()
    done = run("key", "new", str(path))
    assert done.returncode == 2
    assert "File exists" in done.stderr
    assert "choose another name" in done.stderr
    assert path.read_text() == before
    nowhere = run("key", "new", str(tmp_path / "no" / "folder.key"))
    assert nowhere.returncode == 2
    assert "look at its folder" in nowhere.stderr
    printed = run("key", "new").stdout
    assert len(base64.b64decode(printed)) == 32
    assert printed != before
