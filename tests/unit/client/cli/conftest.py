"""Fixtures of the command's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.client.cli.command import make_directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A client's configuration that needs no relay but for 10.9.0.0/16, whose relay is not there."""
    return make_directory(tmp_path)
