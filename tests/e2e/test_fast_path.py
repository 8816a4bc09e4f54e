"""The chain with XDP in front of the rules, brought about by the agents themselves from their configuration.

Where a test means the fast path, it fails if the rules carried a datagram (`Chain.fast_path_only`). The program itself is looked at
in tests/unit/ebpf, tests/xdp and the conformance suite.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from chainrelay.errors import Code, Refusal
from chainrelay.limits import FAST_PATH_SESSIONS
from e2e.chain import Chain
from lab.fastpath import Pins
from lab.relays import Agent
from lab.remains import programs, remains

pytestmark = pytest.mark.root

MISSING = 'raise ImportError("no such thing here")\n'
REJECTED = """
import importlib, sys
here = next(each for each in sys.path if each.endswith("rejected"))
sys.path.remove(here)
this = sys.modules.pop("bcc")
real = importlib.import_module("bcc")
class BPF(real.BPF):
    def __init__(self, src_file, cflags):
        bad = "int %s(struct xdp_md *c) { return *(char *)(long)c->data; }"
        text = "#include <linux/bpf.h>\\n" + "".join(bad % ("chainrelay_" + name) for name in ("native", "generic"))
        super().__init__(text=text, cflags=cflags)
sys.modules["bcc"] = this
"""


@pytest.fixture(scope="module")
def fast() -> Iterator[Chain]:
    """Two relays, native, both families."""
    with Chain(2, xdp="native") as chain:
        yield chain


@pytest.fixture
def one() -> Iterator[Chain]:
    """One relay, for those who break something."""
    with Chain(1, (4,), xdp="auto") as chain:
        yield chain


@pytest.mark.parametrize("server_first", [True, False])
@pytest.mark.parametrize("family", [4, 6])
def test_whoever_speaks_first(fast: Chain, family: int, server_first: bool) -> None:
    with fast.server(family) as server, fast.open(server) as call:
        with fast.fast_path_only(40):
            call.proves_flow(server_first=server_first)
        assert [(each.to_server_packets, each.to_client_packets) for each in call.close()] == [(20, 20)] * 2
        assert fast.leftovers() == {}
        assert [agent.fast_path()["entries"] for agent in fast.relays.agents] == [0, 0]


@pytest.mark.parametrize("family", [4, 6])
def test_rtp_and_rtcp(fast: Chain, family: int) -> None:
    with fast.server(family, components=2) as server, fast.open(server) as call, fast.fast_path_only(80):
        call.proves_flow(component=0)
        call.proves_flow(component=1, server_first=False)


def test_what_is_told_of_it(fast: Chain) -> None:
    agent = fast.relays.agents[0]
    with fast.server(4) as server, fast.open(server) as call:
        call.proves_flow()
        state = agent.fast_path()
        told = agent.run("--print-datapath").stdout
    assert {name: each["mode"] for name, each in state["interfaces"].items()} == {"to-client": "native", "to-fw2": "native"}
    assert (state["wanted"], state["sessions"], state["entries"], state["room"]) == ("native", 1, 2, 2 * FAST_PATH_SESSIONS)
    assert f"to-client: native, program {state['interfaces']['to-client']['program']}\n" in told
    assert f"forwarded: {state['verdicts']['forwarded']}\n" in told + "\n"
    assert agent.log().count("fast path (native): to-client native, to-fw2 native") == 1


def test_it_goes_on_without_the_agent_and_its_successor_takes_over(fast: Chain) -> None:
    agent = fast.relays.agents[0]
    with fast.server(4) as server, fast.open(server) as call:
        before = programs(agent.host)
        with fast.fast_path_only(80):
            agent.kill()
            call.proves_flow()
            agent.start()
            call.proves_flow()
        assert len(before) == 2
        assert programs(agent.host) == before, "programs that would come out the same stay"


def test_no_room_is_a_refusal_and_nothing_stays_of_it() -> None:
    with Chain(2, (4,), xdp="native", room=2) as chain, chain.server(4) as server:
        with chain.open(server) as first, chain.open(server) as second:
            with pytest.raises(Refusal) as refused:
                chain.open(server)
            assert (refused.value.code, refused.value.hop) == (Code.DATAPATH_FULL, "fw2")
            assert [agent.fast_path()["entries"] for agent in chain.relays.agents] == [4, 4]
            with chain.fast_path_only(80):
                first.proves_flow()
                second.proves_flow()
        assert chain.leftovers() == {}
        with chain.open(server) as again:
            again.proves_flow()


def test_a_program_of_somebody_else_stays(one: Chain) -> None:
    """Under auto the rules serve that interface; under native the agent names the interface and what to do, and ends."""
    agent = one.relays.agents[0]
    agent.stop()
    agent.teardown()
    foreign = Pins()
    try:
        foreign.load(agent.host, ["to-client"], "--mode", "native")
        before = programs(agent.host)
        agent.start()
        state = agent.fast_path()
        assert state["interfaces"]["to-client"]["mode"] == "off"
        assert "another XDP program" in state["interfaces"]["to-client"]["why"]
        assert state["interfaces"]["to-server"]["mode"] == "native"
        with one.server(4) as server, one.open(server) as call:
            call.proves_flow()
        agent.stop()
        status, told = refuses(one, agent, "native")
        assert status == 1, told
        assert "interface to-client: native: another XDP program" in told
        assert "ip link set dev to-client xdp off" in told
        agent.teardown()
        assert programs(agent.host) == before
    finally:
        foreign.close()


@pytest.mark.parametrize(("shim", "text", "why"), [
    ("missing", MISSING, "install python3-bpfcc"), ("rejected", REJECTED, "verifier refuses relay.c"),
])  # fmt: skip
def test_no_compiler_and_no_grace_of_the_verifier(one: Chain, tmp_path: Path, shim: str, text: str, why: str) -> None:
    """Auto goes on with the rules, says so in one line and leaves no program; native ends with the reason and what to do."""
    agent = one.relays.agents[0]
    agent.packages = tmp_path / shim
    (agent.packages / "bcc").mkdir(parents=True)
    (agent.packages / "bcc" / "__init__.py").write_text(text)
    agent.stop()
    agent.teardown()  # programs of an earlier start would do as well
    agent.start()
    said = [line for line in agent.log().splitlines() if "fast path" in line][-1]
    assert "fast path (auto): off, the rules carry everything" in said
    assert why in said
    assert programs(agent.host) == ()
    assert why in agent.fast_path()["why"]
    with one.server(4) as server, one.open(server) as call:
        call.proves_flow()
        assert call.close()[0].to_server_packets == 20
    agent.stop()
    status, told = refuses(one, agent, "native")
    assert status == 1, told
    assert 'agent.toml:datapath.xdp: "native"' in told
    assert why in told
    assert "Traceback" not in told
    if shim == "rejected":
        assert "invalid access to packet" in one.relays.configuration.pins("fw1").with_name("xdp.log").read_text()


def test_switched_off_the_rules_take_over(one: Chain) -> None:
    """With a session that lives: its entries would otherwise go on by themselves."""
    agent = one.relays.agents[0]
    with one.server(4) as server, one.open(server) as call:
        with one.fast_path_only(40):
            call.proves_flow()
        agent.stop()
        toml = one.relays.configuration.directory("fw1") / "agent.toml"
        toml.write_text(toml.read_text().replace('xdp = "auto"', 'xdp = "off"'))
        agent.start()
        assert programs(agent.host) == ()
        call.proves_flow()


def test_the_confined_helper_loads_it_with_the_rights_of_its_unit() -> None:
    """CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON, a user of its own, a bpffs that it owns: nothing else."""
    with Chain(1, (4,), xdp="native", confined=True) as chain, chain.server(4) as server, chain.open(server) as call:
        with chain.fast_path_only(40):
            call.proves_flow()
        agent = chain.relays.agents[0]
        assert {state["mode"] for state in agent.fast_path()["interfaces"].values()} == {"native"}
        assert len(programs(agent.host)) == 2


def test_teardown_leaves_nothing(one: Chain) -> None:
    agent = one.relays.agents[0]
    with one.server(4) as server, one.open(server) as call:
        call.proves_flow()
        agent.stop()
        assert len(programs(agent.host)) == 2, "it outlives the agent"
        agent.teardown()
        assert remains(agent.host).all == ()
        assert not one.relays.configuration.pins("fw1").exists()


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("firewall", ["guest", "own"])
@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("hops", [1, 2, 3, 4, 5])
def test_every_combination(hops: int, mode: str, firewall: str) -> None:
    with Chain(hops, xdp=mode, firewall=firewall) as chain:
        for family, server_first, components in product((4, 6), (True, False), (1, 2)):
            with chain.server(family, components=components) as server, chain.open(server) as call:
                with chain.fast_path_only(40 * components):
                    for component in range(components):
                        call.proves_flow(server_first=server_first, component=component)
                counted = [(each.to_server_packets, each.to_client_packets) for each in call.close()]
            assert counted == [(20 * components, 20 * components)] * hops
            assert chain.leftovers() == {}


def refuses(chain: Chain, agent: Agent, mode: str) -> tuple[int, str]:
    """The agent's command with another mode, which is to end by itself."""
    toml = chain.relays.configuration.directory(agent.host.name) / "agent.toml"
    toml.write_text(toml.read_text().replace('xdp = "auto"', f'xdp = "{mode}"'))
    done = agent.run(check=False)
    return done.returncode, done.stdout + done.stderr
