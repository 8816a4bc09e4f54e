"""Manual pages and shell completion from what the code knows: the command's parser and the configuration's schema.

    PYTHONPATH=agent:packaging python3 -m documents FOLDER

chainrelay.1 and chainrelay.bash come from the parser, chainrelay.conf.5 from the schema, so neither can drift; pages of prose
(man/*.7, man/*.8) are taken as they are, with the version and the date filled in. The date is that of the release
(SOURCE_DATE_EPOCH), so that two builds of one source are the same.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chainrelay import __version__
from chainrelay.client.cli.main import parser
from chainrelay.config.reference import FILES
from chainrelay.config.schema import Key, Need, Rows, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent


def documents() -> dict[str, str]:
    """Every document by its file name."""
    pages = {"chainrelay.1": command_page(), "chainrelay.conf.5": configuration_page(), "chainrelay.bash": completion()}
    for path in sorted((HERE / "man").glob("*.[1-8]")):
        pages[path.name] = path.read_text(encoding="utf-8").replace("@DATE@", _date()).replace("@VERSION@", __version__)
    return pages


# chainrelay(1) ----------------------------------------------------------------------


def command_page() -> str:
    """The command with all its verbs and options."""
    top = parser()
    lines = [_title("chainrelay", 1, "User commands")]
    lines += [".SH NAME", "chainrelay \\- sessions through several firewalls in a row", ".SH SYNOPSIS"]
    for words, verb in _verbs(top):
        lines += [".B " + _text(" ".join(["chainrelay", *words])), _text(_usage(verb)), ".br"]
    lines += [".SH DESCRIPTION", _text(top.description or "")]
    lines += ["What relays and sessions are is told in", ".BR chainrelay (7).", ".SH VERBS"]
    for words, verb in _verbs(top):
        lines += [".SS " + _text(" ".join(words)), *_paragraphs(verb.description or "")]
        for action in _options(verb):
            lines += [".TP", ".B " + _text(_invocation(action)), _text(_help(verb, action))]
    lines += [".SH EXIT STATUS"]
    for code, meaning in re.findall(r"^ +(\d)  (.+)$", top.epilog or "", re.MULTILINE):
        lines += [".TP", f".B {code}", _text(meaning)]
    lines += [".SH FILES", ".TP", ".I $XDG_CONFIG_HOME/chainrelay, /etc/chainrelay"]
    lines += ["client.toml, routes.toml, peers.toml, access.toml; see"]
    lines += [".BR chainrelay.conf (5).", ".SH SEE ALSO", ".BR chainrelay (7),", ".BR chainrelay.conf (5),", ".BR chainrelay\\-agent (8)"]
    return "\n".join(lines) + "\n"


def _verbs(top: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """The parsers of verbs that do something, with the words that lead to them."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                yield from _verbs(verb, (*words, name))
            return
    yield words, top


def _options(verb: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in verb._actions if not isinstance(action, argparse._HelpAction)]


def _usage(verb: argparse.ArgumentParser) -> str:
    words = [_invocation(each) if each.required else f"[{_invocation(each)}]" for each in _options(verb)]
    return " ".join(words)


def _invocation(action: argparse.Action) -> str:
    shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        shown = "|".join(map(str, action.choices))
    if not action.option_strings:
        return shown
    return action.option_strings[-1] + ("" if action.nargs == 0 else f" {shown}")


def _help(verb: argparse.ArgumentParser, action: argparse.Action) -> str:
    values = {**vars(action), "prog": verb.prog}
    return (action.help or "") % values


# chainrelay.conf(5) -----------------------------------------------------------------


def configuration_page() -> str:
    """Every file, every key."""
    names = [schema.title for schema in FILES]
    lines = [_title("chainrelay.conf", 5, "File formats"), ".SH NAME", _text(", ".join(names)) + " \\- configuration of chainrelay"]
    lines += [".SH SYNOPSIS"]
    for name in names:
        lines += [f".I /etc/chainrelay/{name}", ".br"]
    lines += [".I /etc/chainrelay/keys/", ".SH DESCRIPTION"]
    lines += [_text(
        "A relay reads agent.toml, routes.toml, peers.toml and access.toml; a client reads client.toml and, where they exist, the other "
        "three. All are TOML. A key that does not exist is an error, never ignored. `chainrelay-agent --check-config` reads everything, "
        "starts nothing and tells all mistakes at once, with file, key, line, reason and what to write instead."
    )]  # fmt: skip
    lines += [".PP", _text(
        "A shared key is 32 random bytes as one line of base64 in a file below keys/ that only its owner may read (mode 0600, owner "
        "chainrelay for the agent); `chainrelay key new FILE` makes one. Both partners have the same content under the same kid."
    )]  # fmt: skip
    for schema in FILES:
        lines += [".SH " + schema.title.upper(), *_keys(schema, "")]
    lines += [".SH SEE ALSO", ".BR chainrelay\\-agent (8),", ".BR chainrelay (1),", ".BR chainrelay (7)"]
    return "\n".join(lines) + "\n"


def _keys(schema: Schema, prefix: str) -> Iterator[str]:
    """Plain keys of a table first, then its sections and rows under their own names."""
    for key in schema.keys:
        if not isinstance(key.kind, Schema | Rows):
            yield from (".TP", ".B " + _text(prefix + key.name), _text(f"{key.doc} ({key.kind.name}; {_default(key)})"))
    for key in schema.keys:
        match key.kind:
            case Rows():
                yield from (".SS " + _text(f"[[{prefix}{key.name}]]"), _text(key.kind.schema.doc))
                yield from _keys(key.kind.schema, f"{prefix}{key.name}.")
            case Schema():
                yield from (".SS " + _text(f"[{prefix}{key.name}]"), _text(key.kind.doc or key.doc))
                yield from _keys(key.kind, f"{prefix}{key.name}.")
            case _:
                pass


def _default(key: Key[Any]) -> str:
    return "required" if key.default is Need.REQUIRED else f"default {key.shown or key.default}"


# bash completion ----------------------------------------------------------------------


def completion() -> str:
    """A function for bash: verbs, then the options of the verb that stands on the line."""
    cases: list[str] = []
    first: list[str] = []
    for words, verb in _verbs(parser()):
        options = sorted({each for action in verb._actions for each in action.option_strings})
        cases.append(f'        {words[0]}) words="{" ".join([*words[1:], *options])}" ;;')
        first.append(words[0])
    return f"""# bash completion for chainrelay(1)

_chainrelay() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} words
    COMPREPLY=()
    case $previous in
        --config) mapfile -t COMPREPLY < <(compgen -d -- "$current"); return ;;
        new) mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
    esac
    case ${{COMP_WORDS[1]}} in
{chr(10).join(cases)}
        *) words="{" ".join(first)} --help --version" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -F _chainrelay chainrelay
"""


# roff -----------------------------------------------------------------------------


def _title(name: str, section: int, area: str) -> str:
    return f'.TH {name.upper()} {section} "{_date()}" "chainrelay {__version__}" "{area}"'


def _date() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))


def _paragraphs(text: str) -> Iterator[str]:
    """Indented lines are kept as they are, others flow."""
    for block in text.strip().split("\n\n"):
        yield from (".PP", ".nf", *map(_text, block.splitlines()), ".fi") if "\n  " in block else (".PP", _text(" ".join(block.split())))


def _text(text: str) -> str:
    """Text as roff: no accidental requests, hyphens that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def main(folder: Path) -> None:
    """Write all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
