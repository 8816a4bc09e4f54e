"""What is kept of the compiler's work, and what is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrelay.privileged.xdp_cache import KEPT, CodeCache, folder_from_environment

CODE = {"native": bytes(range(16)), "generic": b""}


def test_what_is_kept_is_found_under_its_fingerprint_alone(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path, "a")
    assert cache.find("relay.c") is None
    cache.keep("relay.c", CODE)
    assert cache.find("relay.c") == CODE
    assert CodeCache(tmp_path, "b").find("relay.c") is None
    assert cache.find("seal.c") is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"native": 7}', '{"native": "xx"}', "\N{EURO SIGN}"])
def test_what_is_damaged_is_compiled_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "relay.c-a.json").write_text(damage, encoding="utf-8")
    assert CodeCache(tmp_path, "a").find("relay.c") is None


def test_old_versions_go(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        CodeCache(tmp_path, str(number)).keep("relay.c", CODE)
    assert len(list(tmp_path.iterdir())) == KEPT
    assert CodeCache(tmp_path, str(KEPT + 2)).find("relay.c") == CODE


def test_nowhere_to_keep_it_is_no_failure(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "missing"):
        cache = CodeCache(folder, "a")
        cache.keep("relay.c", CODE)
        assert cache.find("relay.c") is None


def test_only_a_folder_of_our_own_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    assert folder_from_environment() is None
    tmp_path.chmod(0o700)
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}:/elsewhere")
    assert folder_from_environment() == tmp_path
    tmp_path.chmod(0o770)
    assert folder_from_environment() is None
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "missing"))
    assert folder_from_environment() is None
