"""What the installed commands `chainrelay-agent` and `chainrelay-datapath` call. A client's `pip install` brings both of them
without what a relay needs besides (docs/library.md), so they say in one line what is missing. Nothing else lives here.
"""

from __future__ import annotations

from importlib import import_module

from chainrelay.output import warn


def agent() -> int:
    """`chainrelay-agent`. Returns the exit status."""
    return _run("chainrelay-agent", "chainrelay.agent.main")


def datapath() -> int:
    """`chainrelay-datapath`. Returns the exit status."""
    return _run("chainrelay-datapath", "chainrelay.agent.datapath")


def _run(command: str, module: str) -> int:
    try:
        main = import_module(module).main
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "chainrelay":
            raise
        mend = "install the package chainrelay-agent, or without packages: pip install 'chainrelay[agent]', apt install python3-nftables"
        warn(f"{command}: this is an installation for clients, a relay needs {missing.name} besides; {mend}")
        return 1
    return int(main())
