"""`chainrelay-agent`: arguments, start, signals. What the agent does is in net/agent.py, how its parts come together in assemble.py.

Exit status: 0 ended as asked, 1 failed while running or at start, 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path

from chainrelay import __version__
from chainrelay.agent import packaged
from chainrelay.agent.assemble import administrators_rule, build_backend, build_relay, probe, static_rules, with_own_addresses
from chainrelay.agent.fast_path import state_of
from chainrelay.agent.journald import set_up_logging
from chainrelay.agent.notify import Notify
from chainrelay.config.agent import AgentConfig, load_agent
from chainrelay.config.check import check
from chainrelay.config.datapath import DatapathConfig, load_datapath, salvage_datapath
from chainrelay.config.diff import differences, in_force
from chainrelay.errors import ChainrelayError, ConfigError, ConfigErrors
from chainrelay.limits import STATUS_PERIOD
from chainrelay.net.agent import Relay
from chainrelay.net.journal import NAME as JOURNAL
from chainrelay.net.journal import SessionJournal
from chainrelay.net.listener import assert_no_agent
from chainrelay.output import put, warn
from chainrelay.session.events import Forget

log = logging.getLogger("chainrelay.agent")

ENDED_SOON = (0.0, 0.5, 2.0, 5.0)  # seconds after which sessions that are ended may have come to their end
GC_THRESHOLDS = (20_000, 20, 100)  # young objects: some 500 sessions' worth; everything: only after a million sessions' worth


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    options = parse(argv)
    try:
        return carry_out(options)
    except ChainrelayError as fault:
        if str(fault):
            warn(f"chainrelay-agent: {fault}")
        return 2 if isinstance(fault, ConfigError) else 1


def carry_out(options: argparse.Namespace) -> int:
    """What the options ask for. Returns the exit status; raises ChainrelayError."""
    if options.check_config:
        report = check(options.config, probe=lambda config: [*probe(config), *packaged.unreadable(options.config)])
        put(report.as_json() if options.json else report.as_text())
        return 0 if report.ok else 2
    if options.teardown:
        config, faults = salvage_datapath(options.config)
        if faults and options.config != packaged.DIRECTORY:
            raise ConfigErrors(faults)
        for fault in faults:
            warn(f"chainrelay-agent: {fault}; the default stands in for it, everything of ours is removed")
        helper = options.datapath_socket or config.socket or packaged.helper(options.config)
        teardown(config, helper, config.state or packaged.state(options.config))
    elif options.print_ruleset:
        put(static_rules(load_datapath(options.config)), end="")
    elif options.print_datapath:
        state = state_of(load_datapath(options.config).xdp)
        put(state.as_json() if options.json else state.as_text())
    else:
        relay = with_options(load_agent(options.config), options)
        set_up_logging(relay.log_level)
        asyncio.run(serve(options, relay))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="chainrelay-agent", description="The relay's agent: the handshake with its neighbours, rules for the kernel."
    )
    parser.add_argument("--config", type=Path, default=packaged.DIRECTORY, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--datapath-socket", type=Path, metavar="PATH", help="the datapath helper's socket, instead of [datapath] socket")
    parser.add_argument("--json", action="store_true", help="with --check-config, --print-datapath: print JSON")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check-config", action="store_true", help="check the files, tell, and exit (0 good, 2 not)")
    what.add_argument("--print-ruleset", action="store_true", help="print the rules the agent would install, and exit")
    what.add_argument("--print-datapath", action="store_true", help="tell what the XDP fast path is doing, and exit")
    what.add_argument("--teardown", action="store_true", help="remove everything of ours from the kernel, and exit")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args(argv)


def with_options(config: AgentConfig, options: argparse.Namespace) -> AgentConfig:
    """The configuration with what the command line says instead."""
    return replace(config, socket=options.datapath_socket) if options.datapath_socket is not None else config


def teardown(config: DatapathConfig, helper: Path | None, state: Path | None) -> None:
    """Remove rules, sessions and conntrack entries of ours, and the journal's records; nobody else's. `helper`: its socket, instead of
    the configuration's; `state`: the journal's folder.

    Raises DatapathError, and ConfigError while an agent runs: it would put everything back.
    """
    set_up_logging(config.log_level)
    if state is None or not (state / JOURNAL).exists():  # nothing to forget, and no lock that an agent would hold
        assert_no_agent(config.listen)
    else:
        journal = SessionJournal(state)
        journal.write([Forget(record.request.session) for record in journal.records])
        journal.close()
    backend = build_backend(replace(config, socket=helper))
    try:
        backend.flush_own()
    finally:
        backend.close()


async def serve(options: argparse.Namespace, config: AgentConfig) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reads the configuration again, SIGUSR1 and SIGUSR2 drain (chainrelay-agent(8))."""
    notify = Notify()
    relay = build_relay(config)
    spare_the_standing()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGINT, ended.set)
    loop.add_signal_handler(signal.SIGHUP, reload, options, relay, notify)
    loop.add_signal_handler(signal.SIGUSR1, drain, relay, notify)
    loop.add_signal_handler(signal.SIGUSR2, end_all, relay, notify)
    try:
        await relay.start()
        where = ", ".join(map(str, config.listen))
        log.info("%s ready on %s; an administrator's forward chain needs: %s", config.id, where, administrators_rule(config))
        notify.ready(status(relay))
        while not await happened(ended, notify.watchdog or STATUS_PERIOD):
            notify.alive()
            notify.status(status(relay))
        notify.stopping()
        log.info("stopping; %d sessions stay until their leases end", len(relay.engine.sessions()))
    finally:
        await relay.stop()


def status(relay: Relay) -> str:
    """One line for `systemctl status`."""
    draining = ", draining: no new ones" if relay.engine.draining else ""
    return f"{relay.config.id} on {', '.join(map(str, relay.config.listen))}, {len(relay.engine.sessions())} sessions{draining}"


def drain(relay: Relay, notify: Notify) -> None:
    """Before maintenance: partners are refused new sessions, with a code of its own; a restart takes them again."""
    relay.drain()
    log.warning("draining: no new sessions until the next start; %d stand and go on", len(relay.engine.sessions()))
    notify.status(status(relay))


def end_all(relay: Relay, notify: Notify) -> None:
    """The rest of draining: what still stands ends now, with word to the next relay."""
    log.warning("draining: no new sessions until the next start; %d that stand are ended", len(relay.engine.sessions()))
    relay.end_all()
    for soon in ENDED_SOON:  # the number is what an administrator waits for
        asyncio.get_running_loop().call_later(soon, lambda: notify.status(status(relay)))


def spare_the_standing() -> None:
    """Set the cycle collector to what an agent holds: sessions, which stand for minutes to days and form no cycles. With the
    usual thresholds it walks all of them again and again while new ones come, so that set-up slows down as sessions stand."""
    gc.collect()
    gc.freeze()  # modules and tables
    gc.set_threshold(*GC_THRESHOLDS)


async def happened(event: asyncio.Event, within: float) -> bool:
    """Whether it does, within so many seconds."""
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True


def reload(options: argparse.Namespace, relay: Relay, notify: Notify) -> None:
    """Take over the files as they are now; when they are wrong, the old configuration stays in force."""
    notify.reloading()
    try:
        config = with_own_addresses(with_options(load_agent(options.config), options))
    except ConfigError as fault:
        log.error("the configuration stays as it was: %s", fault)
        notify.ready("the last reload failed, the configuration before it is in force; see the log")
        return
    for line in differences(relay.config, config):
        log.info("reload: %s", line)
    relay.reconfigure(in_force(relay.config, config))
    notify.ready(f"{config.id}: configuration read again")


if __name__ == "__main__":
    sys.exit(main())
