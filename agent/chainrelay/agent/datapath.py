"""`chainrelay-datapath`: the daemon that holds the capabilities. Options, start, signals; what it serves is privileged/service.py.

It reads of the configuration only agent.toml, which says what the rules are; no keys, no tables. SIGHUP is not for it: another
pool or another mark takes a restart, which no session notices. Exit status: 0 ended as asked, 1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import logging
import os
import pwd
import signal
import sys
from pathlib import Path

from chainrelay import __version__
from chainrelay.agent.assemble import local_backend
from chainrelay.agent.journald import set_up_logging
from chainrelay.agent.notify import Notify
from chainrelay.config.agent_keys import DEFAULT_SOCKET
from chainrelay.config.datapath import load_datapath
from chainrelay.errors import ChainrelayError, ConfigError
from chainrelay.limits import HELPER_PULSE
from chainrelay.output import warn
from chainrelay.privileged.service import Service

log = logging.getLogger("chainrelay.datapath")


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    options = parse(argv)
    try:
        serve(options)
    except ChainrelayError as fault:
        warn(f"chainrelay-datapath: {fault}")
        return 2 if isinstance(fault, ConfigError) else 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="chainrelay-datapath", description="The relay's privileged half: keeps the kernel's rules as the agent asks by a socket."
    )
    parser.add_argument("--config", type=Path, default=Path("/etc/chainrelay"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--socket", type=Path, default=DEFAULT_SOCKET, metavar="PATH", help="default: %(default)s")
    parser.add_argument("--agent-user", default="chainrelay", metavar="USER", help="name or number; root may as well; default: %(default)s")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args(argv)


def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT. Raises ChainrelayError."""
    config = load_datapath(options.config)
    set_up_logging(config.log_level)
    agent = uid_of(options.agent_user)
    notify = Notify()
    backend = local_backend(config)
    try:
        lost = not backend.intact()
        backend.setup()
        service = Service(backend, options.socket, {agent, 0}, notify.alive, notify.watchdog or HELPER_PULSE, lost=lost)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.stop())
        try:
            log.info("ready at %s for uid %d", options.socket, agent)
            notify.ready(f"serving uid {agent} at {options.socket}")
            service.run()
            notify.stopping()
        finally:
            service.close()
    finally:
        backend.close()


def uid_of(user: str) -> int:
    """The number of a user. Raises ConfigError."""
    if user.isascii() and user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        mend = "make it (systemd-sysusers, or adduser --system --group chainrelay), or name another one"
        raise ConfigError("--agent-user", f"there is no user {user!r} on {os.uname().nodename}", mend) from None


if __name__ == "__main__":
    sys.exit(main())
