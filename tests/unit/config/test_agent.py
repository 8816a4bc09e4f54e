"""agent.toml and the four files together: values, and a table of what can be wrong with where, why and mend."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from chainrelay.config.agent import XdpConfig, load_agent
from chainrelay.config.agent_keys import Xdp
from chainrelay.config.check import check
from chainrelay.config.datapath import load_datapath
from chainrelay.config.host import HostFacts
from chainrelay.datapath.ruleset import Firewall
from chainrelay.errors import ConfigErrors
from chainrelay.session.events import NextHop
from chainrelay.session.prefixes import PortRange
from chainrelay.session.tables import DIRECT
from chainrelay.wire.endpoint import Endpoint
from unit.config.directory import NO_FACTS, RELAY, write

HEAD = RELAY["agent.toml"]
ROUTE = '[[route]]\nto = "10.9.0.0/16"\n'
ALICE = '[[peer]]\nid = "alice"\nkind = "client"\n'
KEYS = 'keys = [{ kid = "a", file = "alice.key" }]\n'
FW2 = '\n[[peer]]\nid = "fw2"\nkind = "relay"\nkeys = [{ kid = "a", file = "fw2.key" }]\n'


@dataclass(frozen=True)
class Bad:
    """One file's text that is wrong, and what has to be said about it."""

    name: str
    file: str
    text: str
    where: str
    why: str
    mend: str
    facts: HostFacts = NO_FACTS


BAD = [
    # the file itself
    Bad("syntax", "agent", 'id = "fw1"\nlisten = [\n', "agent.toml", "not TOML", "mend the TOML"),
    Bad("syntax-line", "agent", 'id = "fw1"\nlisten = 10.0.0.1\n', "agent.toml (line 2)", "not TOML", "quotes"),
    Bad("twice", "agent", HEAD + 'id = "x"\n', "agent.toml (line 3)", "not TOML", "each key once"),
    Bad("not-utf8", "agent", HEAD + "# \udcff\n", "agent.toml (line 3)", "not UTF-8", "save it as UTF-8"),
    # keys that don't exist
    Bad("unknown", "agent", HEAD + "[ports]\npol = 1\n", "agent.toml:ports.pol (line 4)", "unknown key", "did you mean 'pool'"),
    Bad("unknown-section", "agent", HEAD + "[prots]\n", "agent.toml:prots (line 3)", "unknown key", "did you mean 'ports'"),
    Bad("unknown-far", "agent", HEAD + "zzz = 1\n", "agent.toml:zzz (line 3)", "unknown key", "valid: addresses, datapath"),
    Bad("unknown-row", "access", '[[allow]]\nusr = "a"\nuser = "alice"\n', "access.toml:allow[1].usr (line 2)", "unknown", "'user'"),
    Bad("unknown-table", "routes", "[[rout]]\n", "routes.toml:rout (line 1)", "unknown key", "did you mean 'route'"),
    Bad(
        "unknown-in-key", "peers", ALICE + 'keys = [\n  { kid = "a", fil = "k" },\n]\n' + FW2,
        "peers.toml:peer[1].keys[1].fil (line 5)", "unknown key", "did you mean 'file'",
    ),
    Bad("secret", "peers", ALICE + KEYS + 'key = "AAAA"\n' + FW2, "peers.toml:peer[1].key (line 5)", "unknown key", "'keys'"),
    Bad("way", "routes", ROUTE + 'direct = true\nway = "recursive"\n', "routes.toml:route[1].way (line 4)", "unknown key", "valid"),
    # missing
    Bad("no-id", "agent", 'listen = ["10.0.1.1:9798"]\n', "agent.toml:id", "missing", "write id = "),
    Bad("no-listen", "agent", 'id = "fw1"\n', "agent.toml:listen", "missing", "list of address:port"),
    Bad("no-keys", "peers", ALICE + FW2, "peers.toml:peer[1].keys (line 1)", "missing", "write keys"),
    # types and ranges
    Bad("id-number", "agent", 'id = 1\nlisten = "10.0.1.1"\n', "agent.toml:id (line 1)", "expected text, found the number 1", "letters"),
    Bad("id-space", "agent", 'id = "fw 1"\nlisten = "10.0.1.1"\n', "agent.toml:id (line 1)", "'fw 1' is not an id", "letters"),
    Bad("id-long", "agent", f'id = "{"x" * 65}"\nlisten = "10.0.1.1"\n', "agent.toml:id (line 1)", "is not an id", "1 to 64"),
    Bad("text-number", "agent", HEAD + '[ports]\nrest = "30"\n', "agent.toml:ports.rest (line 4)", "found the text", "without quotes"),
    Bad("bool-number", "agent", HEAD + "[ports]\nrest = true\n", "agent.toml:ports.rest (line 4)", "found true", "whole number"),
    Bad("float", "agent", HEAD + "[ports]\nrest = 1.5\n", "agent.toml:ports.rest (line 4)", "the number 1.5", "whole number"),
    Bad("date", "agent", HEAD + "[ports]\nrest = 2026-01-01\n", "agent.toml:ports.rest (line 4)", "a date", "whole number"),
    Bad("range", "agent", HEAD + "[ports]\nrest = 3601\n", "agent.toml:ports.rest (line 4)", "3601 is out of range", "0 to 3600"),
    Bad("not-bool", "routes", ROUTE + 'direct = "yes"\n', "routes.toml:route[1].direct (line 3)", "expected true or false", "true or"),
    Bad("choice", "agent", HEAD + 'firewall = "gest"\n', "agent.toml:firewall (line 3)", "'gest' is not known", "'guest'"),
    Bad("not-table", "agent", HEAD + "ports = 5\n", "agent.toml:ports (line 3)", "expected a table", "table of keys"),
    Bad("not-rows", "routes", 'route = "x"\n', "routes.toml:route (line 1)", "expected rows", "write [[route]]"),
    # addresses
    Bad("listen-name", "agent", 'id = "fw1"\nlisten = "fw1:9798"\n', "agent.toml:listen (line 2)", "is not address:port", "192.0.2.1"),
    Bad("listen-port", "agent", 'id = "fw1"\nlisten = "10.0.1.1:0"\n', "agent.toml:listen (line 2)", "is not address:port", "write"),
    Bad("listen-empty", "agent", 'id = "fw1"\nlisten = []\n', "agent.toml:listen (line 2)", "the list is empty", "at least one"),
    Bad(
        "listen-item", "agent", 'id = "fw1"\nlisten = [\n "10.0.1.1:9798",\n "10.0.1:9798"]\n',
        "agent.toml:listen[2] (line 4)", "'10.0.1:9798' is not address:port", "write address:port",
    ),
    Bad(
        "listen-twice", "agent", 'id = "fw1"\nlisten = ["10.0.1.1:9798", "10.0.1.1"]\n',
        "agent.toml:listen[2] (line 2)", "stands here twice", "remove one",
    ),
    Bad(
        "listen-wildcard", "agent", 'id = "fw1"\nlisten = ["0.0.0.0:9798", "10.0.1.1:9798"]\n',
        "agent.toml:listen (line 2)", "covered by 0.0.0.0", "remove one",
    ),
    Bad("multicast", "agent", 'id = "fw1"\nlisten = "224.0.0.1"\n', "agent.toml:listen (line 2)", "multicast", "of this host"),
    Bad(
        "host-bits", "access", '[[allow]]\nuser = "alice"\nsource = "10.0.0.5/24"\n',
        "access.toml:allow[1].source (line 3)", "bits", '"10.0.0.0/24"',
    ),
    Bad(
        "prefix", "access", '[[allow]]\nuser = "alice"\nsource = ["x"]\n',
        "access.toml:allow[1].source[1] (line 3)", "not a prefix", "10.9",
    ),
    Bad(
        "destination", "access", '[[allow]]\nuser = "alice"\ndestination = "a b"\n',
        "access.toml:allow[1].destination (line 3)", "neither", "suffix",
    ),
    Bad(
        "loopback", "agent", HEAD + '[addresses]\nclient_side = ["127.0.0.1"]\n',
        "agent.toml:addresses.client_side (line 4)", "a loopback address", "routable",
    ),
    Bad(
        "announce-mixed", "agent", HEAD + '[addresses]\nannounce = { "10.0.2.1" = "2001:db8::1" }\n',
        "agent.toml:addresses.announce.10.0.2.1 (line 4)", "IPv4 can't be announced as IPv6", "same family",
    ),
    Bad(
        "announce-twice", "agent", HEAD + '[addresses.announce]\n"10.0.2.1" = "192.0.2.7"\n"10.0.2.3" = "192.0.2.7"\n',
        "agent.toml:addresses.announce.10.0.2.3 (line 5)", "announced for 10.0.2.1 as well", "another address",
    ),
    Bad(
        "announce-unspecified", "agent", HEAD + '[addresses]\nannounce = { "10.0.2.1" = "0.0.0.0" }\n',
        "agent.toml:addresses.announce.10.0.2.1 (line 4)", "unspecified", "routable",
    ),
    # ports
    Bad("reversed", "agent", HEAD + '[ports]\npool = "29999-20000"\n', "agent.toml:ports.pool (line 4)", "is reversed", '"20000-29999"'),
    Bad("beyond", "agent", HEAD + '[ports]\npool = "20000-70000"\n', "agent.toml:ports.pool (line 4)", "beyond 1-65535", "65535"),
    Bad("no-range", "agent", HEAD + '[ports]\npool = "many"\n', "agent.toml:ports.pool (line 4)", "not a range", "20000-29999"),
    Bad("low", "agent", HEAD + '[ports]\npool = "1000-2000"\n', "agent.toml:ports.pool (line 4)", "below 1024", "1024 or above"),
    Bad("no-pair", "agent", HEAD + '[ports]\npool = "20001-20002"\n', "agent.toml:ports.pool (line 4)", "too small for a pair", "widen"),
    Bad("control", "agent", HEAD + '[ports]\npool = "9000-9999"\n', "agent.toml:ports.pool (line 4)", "own control port 9798", "move"),
    Bad(
        "listening", "agent", HEAD, "agent.toml:ports.pool", "listens at 20053", "ss -lntup",
        HostFacts(listening=frozenset({22, 20053, 9798})),
    ),
    Bad(
        "ephemeral", "agent", HEAD + '[ports]\npool = "30000-39999"\n', "agent.toml:ports.pool (line 4)",
        "32768-39999 is in the kernel's ephemeral range 32768-60999", "ip_local_reserved_ports=8080-8081,32768-39999",
        HostFacts(PortRange(32768, 60999), (PortRange(8080, 8081),)),
    ),
    Bad(
        "source-ports", "access", '[[allow]]\nuser = "alice"\nsource_ports = "9-5"\n',
        "access.toml:allow[1].source_ports (line 3)", "is reversed", '"5-9"',
    ),
    # the fast path
    Bad(
        "loopback-xdp", "agent", HEAD + '[datapath]\nxdp = "native"\ninterfaces = ["lo"]\n',
        "agent.toml:datapath.interfaces[1] (line 5)", "arrives at lo", "remove",
    ),
    Bad("state-file", "agent", HEAD + 'state = "/etc/passwd"\n', "agent.toml:state (line 3)", "/etc/passwd is no folder", "name a folder"),
    Bad(
        "interface-path", "agent", HEAD + '[datapath]\ninterfaces = ["eth0", "../x"]\n',
        "agent.toml:datapath.interfaces[2] (line 4)", "'../x' can't be an interface's name", "ip link",
    ),
    Bad("xdp", "agent", HEAD + '[datapath]\nxdp = "on"\n', "agent.toml:datapath.xdp (line 4)", "'on' is not known here", "valid: auto"),
    # marks, leases
    Bad("mark", "agent", HEAD + "[datapath]\nmark = 0x3\nmask = 0x1\n", "agent.toml:datapath.mark (line 4)", "outside of mask 0x1", "0x3"),
    Bad("mask-0", "agent", HEAD + "[datapath]\nmask = 0\n", "agent.toml:datapath.mask (line 4)", "0 is out of range", "from 1"),
    Bad("lease", "agent", HEAD + "[lease]\ndefault = 9\nlongest = 8\n", "agent.toml:lease.default (line 4)", "longer than", "≤ longest"),
    Bad("absolute", "agent", HEAD + "[lease]\nabsolute = 3599\n", "agent.toml:lease.absolute (line 4)", "longest 3600", "≤ absolute"),
    # routes
    Bad("nowhere", "routes", ROUTE, "routes.toml:route[1] (line 1)", "leads nowhere", "direct = true"),
    Bad("no-at", "routes", ROUTE + 'via = "fw2"\n', "routes.toml:route[1].via (line 3)", "via without at", "address:port"),
    Bad("no-via", "routes", ROUTE + 'at = "10.0.2.2"\n', "routes.toml:route[1].at (line 3)", "at without via", "write via"),
    Bad("both", "routes", ROUTE + 'via = "fw2"\ndirect = true\n', "routes.toml:route[1].direct (line 4)", "contradicts", "keep one"),
    Bad("unknown-peer", "routes", ROUTE + 'via = "fw3"\nat = "10.0.2.2"\n', "routes.toml:route[1].via (line 3)", "no peer 'fw3'", "'fw2'"),
    Bad("via-client", "routes", ROUTE + 'via = "alice"\nat = "10.0.2.2"\n', "routes.toml:route[1].via (line 3)", "is a client", "relay"),
    Bad("self", "routes", ROUTE + 'via = "fw2"\nat = "10.0.1.1"\n', "routes.toml:route[1].at (line 4)", "a loop", "next relay"),
    Bad("route-twice", "routes", (ROUTE + "direct = true\n") * 2, "routes.toml:route[2].to (line 5)", "two routes", "remove one"),
    # peers
    Bad("own-id", "peers", ALICE.replace("alice", "fw1") + KEYS + FW2, "peers.toml:peer[1].id (line 2)", "our own id", "partner's id"),
    Bad("id-twice", "peers", (ALICE + KEYS) * 2 + FW2, "peers.toml:peer[2].id (line 6)", "two rows", "one row"),
    Bad("kind", "peers", ALICE.replace("client", "server") + KEYS + FW2, "peers.toml:peer[1].kind (line 3)", "'server'", "client, relay"),
    Bad("users", "peers", ALICE + KEYS + "users = []\n" + FW2, "peers.toml:peer[1].users (line 5)", "list is empty", "at least one"),
    Bad("keys-empty", "peers", ALICE + "keys = []\n" + FW2, "peers.toml:peer[1].keys (line 4)", "list is empty", "kid"),
    Bad(
        "kid-twice", "peers", ALICE + 'keys = [{ kid = "a", file = "alice.key" },\n{ kid = "a", file = "fw2.key" }]\n' + FW2,
        "peers.toml:peer[1].keys[2].kid (line 5)", "names two keys", "kid of its own",
    ),
    Bad(
        "same-key", "peers", ALICE + 'keys = [{ kid = "a", file = "alice.key" },\n{ kid = "b", file = "alice.key" }]\n' + FW2,
        "peers.toml:peer[1].keys[2] (line 5)", "same key under another kid", "chainrelay key new",
    ),
    Bad("no-file", "peers", ALICE + 'keys = [{ kid = "a" }]\n' + FW2, "peers.toml:peer[1].keys[1] (line 4)", "neither file", "exactly one"),
    Bad(
        "two-files", "peers", ALICE + 'keys = [{ kid = "a", file = "x", credential = "y" }]\n' + FW2,
        "peers.toml:peer[1].keys[1] (line 4)", "both file and credential", "exactly one",
    ),
    Bad(
        "file-missing", "peers", ALICE + 'keys = [{ kid = "a", file = "x.key" }]\n' + FW2,
        "peers.toml:peer[1].keys[1].file (line 4)", "No such file", "chainrelay key new",
    ),
    Bad(
        "no-credentials", "peers", ALICE + 'keys = [{ kid = "a", credential = "x" }]\n' + FW2,
        "peers.toml:peer[1].keys[1].credential (line 4)", "CREDENTIALS_DIRECTORY is not set", "LoadCredential=x",
    ),
    # answers
    Bad(
        "answer-relay", "access", RELAY["access.toml"] + '[[answer]]\nrelay = "fw9"\n',
        "access.toml:answer[1].relay (line 4)", "no peer 'fw9'", "'fw2'",
    ),
    Bad(
        "answer-client", "access", RELAY["access.toml"] + '[[answer]]\nrelay = "alice"\n',
        "access.toml:answer[1].relay (line 4)", "is a client", "relay",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_one_mistake_is_one_message_with_where_why_and_mend(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    write(tmp_path, RELAY)
    (tmp_path / f"{bad.file}.toml").write_bytes(bad.text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigErrors) as caught:
        load_agent(tmp_path, bad.facts)
    assert [error.where for error in caught.value.errors] == [bad.where]
    assert bad.why in caught.value.errors[0].why
    assert bad.mend in caught.value.errors[0].mend
    assert str(caught.value).startswith(f"{bad.where}: ")


@pytest.mark.parametrize("name", RELAY)
def test_a_missing_file_is_told(name: str, tmp_path: Path) -> None:
    (write(tmp_path, RELAY) / name).unlink()
    with pytest.raises(ConfigErrors) as caught:
        load_agent(tmp_path, NO_FACTS)
    assert (caught.value.where, len(caught.value.errors)) == (name, 1)


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(
        tmp_path, RELAY, agent='id = 5\nlisten = "x"\n[ports]\npool = "9-8"\n', routes=ROUTE, access="[[allow]]\n",
        peers=ALICE + FW2,
    )
    with pytest.raises(ConfigErrors) as caught:
        load_agent(tmp_path, NO_FACTS)
    assert [error.where for error in caught.value.errors] == [
        "agent.toml:id (line 1)", "agent.toml:listen (line 2)", "agent.toml:ports.pool (line 4)",
        "peers.toml:peer[1].keys (line 1)", "routes.toml:route[1] (line 1)", "access.toml:allow[1].user (line 1)",
    ]  # fmt: skip
    assert len(str(caught.value).splitlines()) == 6


def test_a_secret_pasted_into_a_file_is_not_repeated(tmp_path: Path) -> None:
    secret = "rJ7kJX6y0V6x1m1yMZ0bWwYf3n4R4sV5pQ8gk2u0o9E="  # noqa: S105  # an invented one
    write(tmp_path, RELAY, agent=HEAD + f'firewall = "{secret}"\n[ports]\npool = "{secret}"\n')
    with pytest.raises(ConfigErrors) as caught:
        load_agent(tmp_path, NO_FACTS)
    assert secret[:12] not in str(caught.value)


def test_values(tmp_path: Path) -> None:
    agent = HEAD.replace('["10.0.1.1:9798"]', '["10.0.1.1", "[fd00:1::1]:1000"]') + (
        'firewall = "own"\n[ports]\npool = "40000-49999"\nrest = 5\n'
        '[addresses]\nclient_side = []\nserver_side = "10.0.2.1"\nannounce = { "10.0.2.1" = "192.0.2.7" }\n'
        "[datapath]\nmark = 0x100\nmask = 0xff00\n[lease]\ndefault = 10\nlongest = 20\nidle = 30\nabsolute = 60\n"
        '[limits]\nsessions_per_principal = 7\nopens_per_second = 8\n[targets]\nallow = ["169.254.0.0/16"]\n[log]\nlevel = "debug"\n'
    )
    config = load_agent(write(tmp_path, RELAY, agent=agent), HostFacts(PortRange(32768, 60999), (PortRange(40000, 49999),)))
    assert (config.id, config.log_level) == ("fw1", "debug")
    assert config.listen == (Endpoint.parse("10.0.1.1:9798"), Endpoint.parse("[fd00:1::1]:1000"))
    assert config.ruleset.firewall is Firewall.OWN
    assert (config.ruleset.pool, config.ruleset.mark, config.ruleset.mask) == (((40000, 49999),), 0x100, 0xFF00)
    policy = config.policy
    assert (policy.pool, policy.rest) == (PortRange(40000, 49999), 5)
    assert (policy.client_side, policy.server_side) == ((), (ip_address("10.0.2.1"),))
    assert policy.announce == {ip_address("10.0.2.1"): ip_address("192.0.2.7")}
    assert (policy.leases.default, policy.leases.longest, policy.leases.idle, policy.leases.absolute) == (10, 20, 30, 60)
    assert (policy.sessions_per_principal, policy.opens_per_second) == (7, 8)
    assert ip_address("169.254.3.4") in policy.targets_allow
    assert ip_address("10.0.1.1") in policy.own
    route = policy.routes.lookup(ip_address("10.9.1.1"))
    assert route is not None
    assert route.via == NextHop("fw2", Endpoint.parse("10.0.2.2:9798"))
    rest = policy.routes.lookup("www.example.org")
    assert rest is not None
    assert rest.via is DIRECT


def test_the_fast_path(tmp_path: Path) -> None:
    """Off unless it is asked for; both daemons read the same."""
    assert load_agent(write(tmp_path, RELAY), NO_FACTS).xdp == XdpConfig()
    text = '[datapath]\nxdp = "auto"\ninterfaces = ["eth0"]\npins = "/run/x/bpf"\n[limits]\nfast_path_sessions = 9\n'
    directory = write(tmp_path, RELAY, agent=HEAD + text)
    wanted = XdpConfig(Xdp.AUTO, ("eth0",), 9, Path("/run/x/bpf"))
    assert load_agent(directory, NO_FACTS).xdp == load_datapath(directory, NO_FACTS).xdp == wanted


def test_an_interface_that_is_missing_now_is_a_warning(tmp_path: Path) -> None:
    """It may come back, and an agent that could not start meanwhile would keep no session."""
    directory = write(tmp_path, RELAY, agent=HEAD + '[datapath]\nxdp = "auto"\ninterfaces = ["eth0", "ethl"]\n')
    facts = HostFacts(interfaces=frozenset({"lo", "eth0", "eth1"}))
    assert load_agent(directory, facts).xdp.interfaces == load_datapath(directory, facts).xdp.interfaces == ("eth0", "ethl")
    (warning,) = check(directory, facts).warnings
    assert str(warning).startswith("agent.toml:datapath.interfaces[2] (line 5): there is no interface 'ethl' on this host now")
    assert "did you mean 'eth1'?" in warning.mend


def test_an_interface_may_be_missing_while_xdp_is_off(tmp_path: Path) -> None:
    directory = write(tmp_path, RELAY, agent=HEAD + '[datapath]\ninterfaces = ["eth7"]\n')
    assert load_datapath(directory, HostFacts(interfaces=frozenset({"lo", "eth0"}))).xdp.interfaces == ("eth7",)


def test_defaults_are_those_of_limits(tmp_path: Path) -> None:
    policy = load_agent(write(tmp_path, RELAY), NO_FACTS).policy
    plain = type(policy)(policy.routes, policy.peers, policy.access)
    for name in ("pool", "rest", "leases", "sessions_per_principal", "opens_per_second", "announce", "client_side", "avoid"):
        assert getattr(policy, name) == getattr(plain, name), name


def test_relays_need_no_key_in_the_iterative_way(tmp_path: Path) -> None:
    """A relay's row may have no key; a client's may not ("keys-empty" above). An access row can demand one all the same."""
    access = '[[allow]]\nuser = "alice"\nneighbour_key = "required"\n[[allow]]\nuser = "alice"\nseal = "required"\n'
    peers = ALICE + KEYS + FW2.partition("keys")[0] + "keys = []\n"
    policy = load_agent(write(tmp_path, RELAY, peers=peers, access=access), NO_FACTS).policy
    assert policy.peers.is_relay("fw2")
    assert policy.peers.current_key("fw2") is None
    assert [(row.neighbour_key, row.seal) for row in policy.access.rows] == [(True, False), (False, True)]


@pytest.mark.parametrize("key", ['last = "fw2"', "seal = true"])
def test_what_only_a_clients_route_may_say(key: str, tmp_path: Path) -> None:
    write(tmp_path, RELAY, routes=RELAY["routes.toml"].replace('at = "10.0.2.2:9798"\n', f'at = "10.0.2.2:9798"\n{key}\n'))
    with pytest.raises(ConfigErrors, match="unknown key"):
        load_agent(tmp_path, NO_FACTS)
