"""Manual pages and completion: whatever the parsers and the schema know is in them, and man has no complaint."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import documents
from chainrelay.agent import datapath, main
from chainrelay.config.reference import FILES
from unit.config.test_examples import names

MAN = Path(documents.__file__).parent / "man"
MADE = documents.documents()
PAGES = sorted(name for name in MADE if name[-1].isdigit())


def plain(page: str) -> str:
    """A page as its reader sees it, without escapes."""
    return page.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")


@pytest.mark.parametrize("name", PAGES)
def test_man_has_no_complaint(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(MADE[name], encoding="utf-8")
    command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(path)]
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANWIDTH": "80"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert shown.stderr == ""


@pytest.mark.parametrize("name", PAGES)
def test_the_version_and_the_date_are_filled_in(name: str) -> None:
    assert "@" not in re.sub(r"\S+@\S+\.\S+", "", MADE[name].splitlines()[0])


@pytest.mark.parametrize("verb", ["open", "forward", "offer", "key new"])
def test_every_verb_is_in_the_manual_and_completed(verb: str) -> None:
    assert f".SS {verb}\n" in MADE["chainrelay.1"]
    assert verb.partition(" ")[0] in MADE["chainrelay.bash"]


def test_every_option_of_the_command_is_in_the_manual() -> None:
    options = set(re.findall(r"(?<!\S)(--[a-z-]+)", MADE["chainrelay.bash"].replace('"', " "))) - {"--help", "--version", "--"}
    assert len(options) > 15
    assert {each for each in options if f".B {each}" not in plain(MADE["chainrelay.1"])} == set()


@pytest.mark.parametrize(("page", "parse"), [("chainrelay-agent.8", main.parse), ("chainrelay-datapath.8", datapath.parse)])
def test_every_option_of_a_daemon_is_in_its_page(page: str, parse: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])  # type: ignore[operator]
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert {each for each in options if each not in plain(MADE[page])} == set()


def test_every_key_of_every_file_is_in_the_manual() -> None:
    page = plain(MADE["chainrelay.conf.5"])
    missing = [key for schema in FILES for key in names(schema) if f".B {key.replace('[]', '')}\n" not in page]
    assert missing == []


def test_the_completion_is_sound_for_bash() -> None:
    assert subprocess.run(["bash", "-n"], input=MADE["chainrelay.bash"], text=True, check=False).returncode == 0
