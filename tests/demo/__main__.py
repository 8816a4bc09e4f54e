"""`python -m demo [--hops 1..5] [--family 4|6] [--way recursive|iterative]
[--rules nftables|iptables-legacy] [--xdp auto|native|generic|off]`, as root.

The last line is `demo: ok` or `demo: FAILED <why>`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import get_args

from chainrelay.wire.messages import Way
from demo.checks import verdict
from demo.play import DemoError, Play
from demo.report import Report
from lab.host import CommandError
from lab.relays import AgentError
from lab.rulesets import Rules
from lab.wait import WaitError


def main() -> int:
    """Returns the exit status: 0 ok, 1 failed, 2 usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="demo", description="Real video through a row of relays in network namespaces.")
    parser.add_argument("--hops", type=int, choices=range(1, 6), default=2, help="relays in the row (default: %(default)s)")
    parser.add_argument("--family", type=int, choices=(4, 6), default=4, help="IP version (default: %(default)s)")
    parser.add_argument("--rules", choices=get_args(Rules), default="nftables", help="what the relays write (default: %(default)s)")
    parser.add_argument("--way", choices=("recursive", "iterative"), default="recursive", help="who asks the relays (default: %(default)s)")
    parser.add_argument("--xdp", choices=("auto", "native", "generic", "off"), default="auto", help="the fast path (default: %(default)s)")
    options = parser.parse_args()
    way = Way[options.way.upper()]
    try:
        play = Play(options.hops, options.family, Report(), way, options.rules, options.xdp)
        reasons = play.run() if os.geteuid() == 0 else ["it needs root: network namespaces"]
    except (DemoError, CommandError, AgentError, WaitError, LookupError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        reasons = [str(error) or repr(error)]
    except KeyboardInterrupt:
        sys.stdout.write("demo: FAILED interrupted\n")
        return 130
    line, status = verdict(reasons)
    sys.stdout.write(line + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
