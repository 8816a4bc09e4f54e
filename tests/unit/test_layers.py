"""What docs/design.md §2 says of the layers, kept: who may import whom, who makes `Authenticated`, and a test file per source file.

Read from the syntax tree of the whole package, so imports inside functions count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import chainrelay

PACKAGE = Path(chainrelay.__file__).parent
TESTS = Path(__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

EVENT_LOOP = {"asyncio", "selectors", "threading", "concurrent"}
SOCKETS = {"socket", "socketserver", "ssl"}
CHANCE = {"random", "secrets", "uuid"}
CLOCKS = {"time", "datetime"}
PROCESSES = {"subprocess", "multiprocessing"}
KERNEL = {"nftables", "pyroute2", "bcc", "iptc"}

ALL = ("",)
"""Every part of the package."""

# layer → (the parts of the package that it may import, the modules from elsewhere that it must not)
LAYERS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "errors": ((), SOCKETS | EVENT_LOOP | PROCESSES | KERNEL),
    "limits": ((), SOCKETS | EVENT_LOOP | PROCESSES | KERNEL),
    "output": (("errors",), SOCKETS | EVENT_LOOP | PROCESSES | KERNEL),
    "wire": (("wire", "errors", "limits"), SOCKETS | EVENT_LOOP | CLOCKS | CHANCE | PROCESSES | KERNEL),
    "datapath": (
        ("datapath", "wire.endpoint", "wire.messages", "wire.cbor", "wire.sealed", "errors", "limits"),
        SOCKETS | EVENT_LOOP | PROCESSES | {"nftables"},
    ),
    "session": (
        ("session", "wire", "datapath.mapping", "errors", "limits"),
        SOCKETS | EVENT_LOOP | CLOCKS | CHANCE | PROCESSES | KERNEL,
    ),
    # the values of session/ that files are turned into, and the ruleset's own; nothing of the engine
    "config": (
        ("config", "session.tables", "session.prefixes", "session.policy", "session.events", "wire", "datapath", "errors", "limits"),
        SOCKETS | EVENT_LOOP | KERNEL,
    ),
    "privileged": (("privileged", "datapath", "wire.endpoint", "wire.messages", "errors", "limits"), {"asyncio"}),
    "net": (("net", "wire", "datapath", "session", "config", "errors", "limits"), KERNEL),
    "client": (
        (
            "client",
            "wire",
            "net.stream",
            "net.connection",
            "net.neighbours",
            "net.locate",
            "config",
            "session.tables",
            "session.prefixes",
            "session.policy",
            "session.events",
            "datapath.mapping",
            "errors",
            "limits",
            "output",
        ),
        KERNEL,
    ),
    "agent": (ALL, set()),
}

# Source files without a test file of their own, and why.
UNTESTED = {
    "session/events.py": "values without behaviour; every script of the engine is made of them",
    "session/session.py": "a record; the engine's scripts look at it through the port table",
    "session/answers.py": "test_opening and its neighbours feed every kind of answer through it",
    "wire/messages.py": "values without behaviour; test_codec carries each of them",
    "client/cli/__main__.py": "two lines for python -m; test_main runs them",
    "datapath/backend.py": "an interface; the conformance suite is its test",
    "privileged/neighbours.py": "tests/xdp/test_neighbours: MACs, links and routes that change between real hosts",
    "privileged/xdp_attach.py": "tests/xdp/test_loader attaches, replaces, refuses and detaches through it",
    "privileged/xdp_compile.py": "tests/xdp/test_loader: source that compiles, that does not, that the verifier refuses; bcc missing",
    "privileged/xdp_flows.py": "tests/unit/ebpf/test_table and test_control: it and the programs behind it are one thing",
    "privileged/xdp_load.py": "tests/xdp/test_loader runs it as the process it is",
    "privileged/xdp_modes.py": "tests/xdp/test_loader: every reason for a mode, foreign programs, interfaces that go",
    "agent/packaged.py": "test_main: teardowns, and the check, of a packaged agent",
    "agent/assemble.py": "joins what is tested elsewhere; every agent of tests/e2e starts through it",
    "config/agent_checks.py": "test_agent: a row for everything that takes two keys or the host to judge",
    "config/agent_keys.py": "test_agent has every key, right and wrong; test_examples compares the documentation made of it",
    "config/access.py": "test_agent reads access.toml through it, right and wrong",
    "config/files.py": "test_agent: missing, unreadable and malformed files",
    "config/kinds.py": "test_schema and test_agent have every kind, right and wrong",
    "config/peers.py": "test_agent reads peers.toml through it, right and wrong",
    "config/pool.py": "test_agent: every way a pool can be in the way",
    "config/problems.py": "test_schema and test_check read what it gathers",
    "config/reference.py": "test_examples compares its output with docs/configuration.md",
    "config/routes.py": "test_agent reads routes.toml through it, right and wrong",
    "limits.py": "constants with their reasons",
    "errors.py": "the tree and its ladder; every layer's tests raise and read them",
}


def name_of(source: Path) -> str:
    """`session.tables` for session/tables.py, `session` for the package's own file."""
    return ".".join(source.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module; for `from chainrelay.x import y` also `chainrelay.x.y`, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            modules = [f"{node.module}.{alias.name}" for alias in node.names if is_module(f"{node.module}.{alias.name}")]
            yield from modules or [str(node.module)]


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of the package, and not something in one."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def within(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a module of the package is one of `parts` or inside of one."""
    return any(part in ("", name) or name.startswith(part + ".") for part in parts)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_imports_keep_the_layers(source: Path) -> None:
    name = name_of(source)
    layer = name.split(".")[0]
    if not layer or layer == "__init__":
        return
    assert layer in LAYERS, f"{layer} is not in docs/design.md §2"
    may, must_not = LAYERS[layer]
    for imported in imports(ast.parse(source.read_text(encoding="utf-8"))):
        top, _, inside = imported.partition(".")
        if top == "chainrelay":
            assert not inside or within(inside, may), f"{name} imports {imported}"
        else:
            assert top not in must_not, f"{name} imports {imported}"


def test_the_layer_test_sees_what_it_should() -> None:
    """The finder itself: it sees imports inside functions, and a module under a package's name."""
    tree = ast.parse("def f():\n    import asyncio\nfrom chainrelay.net import agent\nfrom chainrelay.errors import Code\n")
    assert sorted(imports(tree)) == ["asyncio", "chainrelay.errors", "chainrelay.net.agent"]
    assert within("wire.codec", ("wire",))
    assert not within("wirex", ("wire",))


def test_only_the_channel_makes_authenticated_messages() -> None:
    makers = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                made = node.func.value if isinstance(node.func, ast.Subscript) else node.func
                if (isinstance(made, ast.Name) and made.id == "Authenticated") or (
                    isinstance(made, ast.Attribute) and made.attr == "Authenticated"
                ):
                    makers.add(name_of(source))
    assert makers == {"wire.channel"}


@pytest.mark.parametrize("source", [one for one in SOURCES if one.name != "__init__.py"], ids=name_of)
def test_every_source_file_has_its_test_file(source: Path) -> None:
    inside = source.relative_to(PACKAGE)
    test = TESTS / inside.parent / f"test_{inside.name}"
    if str(inside) in UNTESTED:
        assert not test.exists(), f"{inside} has a test file by now: take it out of UNTESTED"
    else:
        assert test.exists(), f"{inside} has no {test.relative_to(TESTS.parent)}"


def test_the_exceptions_exist() -> None:
    assert not [name for name in UNTESTED if not (PACKAGE / name).exists()]
