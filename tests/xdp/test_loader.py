"""Loading, replacing, refusing: what the loader does to interfaces, and what it says."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chainrelay.datapath.mapping import Counters, Failed, Install
from chainrelay.datapath.xdp_layout import MAPS, Verdict
from chainrelay.privileged import xdp_attach
from chainrelay.privileged.xdp_bpf import Map
from chainrelay.privileged.xdp_kernel import slots_filled
from lab import wait
from lab.daemons import HELPER_CAPABILITIES, HELPER_UID, PYTHON, TREE, confine, copy_package, environment
from lab.datagrams import Port, Stream
from lab.fastpath import FastRow, Pins
from lab.host import Namespace
from lab.link import connect

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def row() -> Iterator[FastRow]:
    with FastRow(1) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, str, Pins]]:
    """A host with one interface `wan`, and a folder for pins."""
    with Namespace("here") as here, Namespace("there") as there, ExitStack() as stack:
        connect(here, there, ("10.1.0.0/24",), names=("wan", "far"), gro=True)
        pins = Pins()
        stack.callback(pins.close)
        yield here, "wan", pins


def attached(host: Namespace, name: str) -> xdp_attach.Attached:
    with host.enter():
        return xdp_attach.attached(xdp_attach.interface_index(name))


def test_what_would_come_out_the_same_is_not_compiled_again(pair: tuple[Namespace, str, Pins]) -> None:
    host, name, pins = pair
    assert not pins.load(host, [name])["reused"]
    before = attached(host, name)
    again = pins.load(host, [name])
    assert (again["reused"], again["interfaces"][name]["mode"], attached(host, name)) == (True, "native", before)
    other = pins.load(host, [name], "--mode", "generic")
    assert (other["reused"], attached(host, name).mode) == (True, xdp_attach.Mode.GENERIC)
    assert not pins.load(host, [name], "--flows", "64")["reused"], "new maps want new programs"
    pins.load(host, [name], "--detach")
    assert not pins.load(host, [name])["reused"]


def test_a_new_program_takes_over_under_traffic_without_a_lost_datagram(row: FastRow, tmp_path: Path) -> None:
    fast = row.firewalls[0]
    mappings = row.session(4, 5300)
    mapping = mappings[0]
    row.install(mappings)
    wait.until(lambda: fast.ready(mapping), "the neighbours")
    before = {name: attached(fast.host, name) for name in fast.interfaces}
    with (
        Port(row.row.client, mapping.client_partner.address, mapping.client_partner.port) as client,
        Port(row.row.server, mapping.server_partner.address, mapping.server_partner.port) as server,
    ):
        stream, stop, arrived = Stream(), threading.Event(), 0

        def load() -> None:
            for version in range(3):
                source = shutil.copytree(TREE / "ebpf", tmp_path / str(version))
                with (source / "relay.c").open("a") as changed:
                    changed.write(f"/* version {version} */\n")
                report = fast.pins.load(fast.host, fast.interfaces, "--mode", "native", "--source", str(source))
                assert not report["reused"]
            stop.set()

        loader = threading.Thread(target=load)
        loader.start()
        while not stop.is_set():
            stream.send(client, mapping.client_side, 50)
            arrived += len(server.drain())
        loader.join()
        while arrived < stream.sent and server.receive(1.0) is not None:
            arrived += 1
    assert arrived == stream.sent
    assert arrived > 1000
    assert fast.rules.counters([mapping]) == [Counters()], "the rules carried some"
    for name in fast.interfaces:
        assert attached(fast.host, name).program != before[name].program
    row.remove(mappings)


def test_a_foreign_program_is_never_replaced(pair: tuple[Namespace, str, Pins]) -> None:
    host, name, pins = pair
    with ExitStack() as stack:
        foreign = Pins()
        stack.callback(foreign.close)
        foreign.load(host, [name], "--mode", "native")
        before = attached(host, name)
        for mode in ("native", "generic"):
            refused = pins.load(host, [name], "--mode", mode, check=False)["error"]
            assert f"another XDP program (id {before.program}) is attached" in refused
            assert "ip link set dev wan xdp off" in refused
        report = pins.load(host, [name], "--mode", "auto")
        assert report["interfaces"]["wan"]["mode"] == "off"
        assert attached(host, name) == before
        pins.load(host, [name], "--detach")
        assert attached(host, name) == before


def test_detach_takes_ours_off_and_leaves_no_pin(pair: tuple[Namespace, str, Pins]) -> None:
    host, name, pins = pair
    pins.load(host, [name])
    assert attached(host, name).mode is xdp_attach.Mode.NATIVE
    pins.load(host, [name], "--detach")
    assert attached(host, name) == xdp_attach.Attached(0, None)
    assert list(pins.path.glob("v*")) == []


def test_jumbo_frames_fall_back_to_generic_and_say_why(pair: tuple[Namespace, str, Pins]) -> None:
    """All of them: a native program's frames would be lost at an interface that has no native program."""
    host, name, pins = pair
    with Namespace("jumbo") as far:
        connect(host, far, ("10.2.0.0/24",), names=("lan", "far"), mtu=9000, gro=True)
        report = pins.load(host, [name, "lan"])
        assert report["interfaces"]["wan"] == {"mode": "generic", "why": "native programs can't send to lan, which is generic"}
        assert report["interfaces"]["lan"]["mode"] == "generic"
        assert report["interfaces"]["lan"]["why"].startswith("native: ")
        before = attached(host, name), attached(host, "lan")
        again = pins.load(host, [name, "lan"])
        assert again["reused"]
        assert all("kept as it was" in again["interfaces"][each]["why"] for each in (name, "lan"))
        assert (attached(host, name), attached(host, "lan")) == before, "a restart is no gap"
        assert "MTU" in pins.load(host, ["lan"], "--mode", "native", check=False)["error"]


def test_an_interface_that_takes_no_frames_makes_all_generic(pair: tuple[Namespace, str, Pins]) -> None:
    host, name, pins = pair
    with Namespace("bare") as far:
        connect(host, far, ("10.2.0.0/24",), names=("lan", "far"), gro=False)
        report = pins.load(host, [name, "lan"])["interfaces"]
        assert [report[each]["mode"] for each in (name, "lan")] == ["generic", "generic"]
        assert "takes no frames" in report["lan"]["why"]
        assert "takes no frames" in pins.load(host, [name, "lan"], "--mode", "native", check=False)["error"]


def test_a_program_of_a_loader_that_failed_is_still_ours(pair: tuple[Namespace, str, Pins]) -> None:
    """It has attached to the first interface before the second refused."""
    host, name, pins = pair
    assert "interface lo: native" in pins.load(host, [name, "lo"], "--mode", "native", check=False)["error"]
    assert attached(host, name).mode is xdp_attach.Mode.NATIVE
    first = attached(host, name)
    assert pins.load(host, [name], "--mode", "native")["interfaces"][name]["mode"] == "native"
    assert attached(host, name) != first
    assert not [path for path in pins.path.glob("v*/*") if "_left" in path.name or "_new" in path.name]
    pins.load(host, [name, "lo"], "--mode", "native", check=False)
    pins.load(host, [name], "--detach")
    assert attached(host, name) == xdp_attach.Attached(0, None)
    assert list(pins.path.glob("v*")) == []


def test_who_goes_leaves_the_others_alone(pair: tuple[Namespace, str, Pins]) -> None:
    """By `--detach`, and off the list of interfaces: no program, no exit; the others keep theirs."""
    host, name, pins = pair
    with Namespace("other") as far:
        connect(host, far, ("10.2.0.0/24",), names=("lan", "far"), gro=True)
        folder = Path(pins.load(host, [name, "lan"])["folder"])

        def exits() -> set[str]:
            with host.enter(), Map.open(folder / "exits") as found:
                return {each for number, each in socket.if_nameindex() if found.lookup(number.to_bytes(4, sys.byteorder))}

        assert exits() == {name, "lan"}
        pins.load(host, [name], "--detach")
        assert (exits(), attached(host, name).program, attached(host, "lan").mode) == ({"lan"}, 0, xdp_attach.Mode.NATIVE)
        pins.load(host, [name, "lan"])
        assert exits() == {name, "lan"}
        pins.load(host, ["lan"])
        assert (exits(), attached(host, name).program) == ({"lan"}, 0)
        pins.load(host, [name, "lan"])
        host.run(["ip", "link", "del", "dev", "lan"])
        assert exits() == {name}


def test_the_rights_of_the_helpers_unit_are_enough(pair: tuple[Namespace, str, Pins]) -> None:
    """A user of its own with CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON, on a bpffs that it owns; and with one of them less it says so."""
    host, name = pair[:2]
    with tempfile.TemporaryDirectory(prefix="chainrelay-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        library, run = copy_package(home), home / "run"
        run.mkdir()
        os.chown(run, HELPER_UID, HELPER_UID)
        host.run(["sh", str(TREE / "systemd" / "mount-bpffs"), str(run / "bpf"), str(HELPER_UID)])
        loader = [PYTHON, "-m", "chainrelay.privileged.xdp_load", "--pins", str(run / "bpf"), "--log", str(run / "log"), name]
        try:
            for lacking in HELPER_CAPABILITIES.split():
                rights = " ".join(each for each in HELPER_CAPABILITIES.split() if each != lacking)
                done = host.run([*confine(HELPER_UID, HELPER_UID, rights), *loader], check=False, env=environment(library))
                assert done.returncode == 1, lacking
                assert attached(host, name) == xdp_attach.Attached(0, None)
            host.run([*confine(HELPER_UID, HELPER_UID, HELPER_CAPABILITIES), *loader], env=environment(library))
            assert attached(host, name).mode is xdp_attach.Mode.NATIVE
            host.run([*confine(HELPER_UID, HELPER_UID, HELPER_CAPABILITIES), *loader, "--detach"], env=environment(library))
            assert attached(host, name) == xdp_attach.Attached(0, None)
        finally:
            host.run(["umount", str(run / "bpf")], check=False)


def test_two_at_once_do_not_harm_each_other(pair: tuple[Namespace, str, Pins]) -> None:
    host, name, pins = pair
    reports: list[dict[str, object]] = []
    loaders = [threading.Thread(target=lambda: reports.append(pins.load(host, [name]))) for _ in range(2)]
    for loader in loaders:
        loader.start()
    for loader in loaders:
        loader.join()
    assert sorted(bool(report["reused"]) for report in reports) == [False, True]
    assert attached(host, name).mode is xdp_attach.Mode.NATIVE
    assert not [path.name for path in pins.path.glob("v*/*") if "_new" in path.name or "_left" in path.name]
    pins.load(host, [name], "--detach")
    assert list(pins.path.glob("v*")) == []


def test_modes_change_and_maps_stay(pair: tuple[Namespace, str, Pins]) -> None:
    host, name, pins = pair
    assert set(pins.load(host, [name])["new_maps"]) == {layout.name for layout in MAPS}
    for mode in ("generic", "native"):
        assert pins.load(host, [name], "--mode", mode)["new_maps"] == []
        assert attached(host, name).mode is xdp_attach.Mode[mode.upper()]


def test_clear_errors(pair: tuple[Namespace, str, Pins], tmp_path: Path) -> None:
    host, name, pins = pair

    def error(*arguments: str) -> str:
        return str(pins.load(host, [name], *arguments, check=False)["error"])

    assert "interface 'eth9' does not exist; there are: lo" in pins.load(host, ["eth9"], check=False)["error"]
    broken = tmp_path / "broken"
    broken.mkdir()
    source = Path(__file__).resolve().parents[2] / "ebpf"
    for path in source.iterdir():
        (broken / path.name).symlink_to(path)
    assert "missing" in error("--source", str(tmp_path))
    (broken / "redirect.h").unlink()
    (broken / "redirect.h").write_text('#error "no C at all"')
    assert "relay.c does not compile: " in error("--source", str(broken))
    assert "no C at all" in pins.log.read_text()
    (broken / "redirect.h").write_text(
        (source / "redirect.h").read_text().replace("frame->ethernet->h_source, hop->from", "(void *)frame->ethernet + 9999, hop->from")
    )
    assert "verifier refuses relay.c" in error("--source", str(broken))
    assert "invalid access to packet" in pins.log.read_text()
    assert attached(host, name) == xdp_attach.Attached(0, None), "a refused program is attached nowhere"


def test_bcc_missing_and_no_bpffs(pair: tuple[Namespace, str, Pins], tmp_path: Path) -> None:
    host, name, pins = pair
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("raise ImportError('No module named bcc')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-m", "chainrelay.privileged.xdp_load", "--log", str(pins.log)]
    done = host.run([*command, "--pins", str(pins.path), name], check=False, env={**os.environ, "PYTHONPATH": path, "CACHE_DIRECTORY": ""})
    assert done.returncode == 1
    assert "install python3-bpfcc" in done.stderr
    done = host.run([*command, "--pins", "/proc/nowhere", name], check=False)
    assert done.returncode == 1
    assert "/proc/nowhere" in done.stderr


def test_sealing_programs_that_do_not_load_cost_the_plain_ones_nothing(pair: tuple[Namespace, str, Pins], tmp_path: Path) -> None:
    host, name, pins = pair
    source = Path(shutil.copytree(TREE / "ebpf", tmp_path / "ebpf"))
    (source / "window.h").write_text('#error "not today"')
    report = pins.load(host, [name], "--source", str(source))
    assert report["interfaces"]["wan"]["mode"] == "native"
    assert "seal.c does not compile" in report["no_sealing"]
    with Map.open(Path(report["folder"]) / "programs") as slots:
        assert not slots_filled(slots)
    assert pins.load(host, [name])["no_sealing"] == ""
    with Map.open(Path(report["folder"]) / "programs") as slots:
        assert slots_filled(slots)


def test_a_full_map_refuses_the_session_and_leaves_nothing(row: FastRow) -> None:
    fast = row.firewalls[0]
    refused = None
    for port in itertools.count(6000):
        mapping = row.session(4, port)[0]
        outcome = fast.backend.apply([Install(mapping, 60)])[0]
        if isinstance(outcome, Failed):
            refused = outcome
            break
        assert port < 6000 + 4096
    assert refused is not None
    assert refused.full
    assert "full" in refused.why
    assert fast.rules.counters([mapping]) == [Counters()]
    keys = {(flow.source, flow.destination) for flow in fast.backend.flows()}
    assert (mapping.client_partner, mapping.client_side) not in keys
    assert (mapping.server_partner, mapping.server_side) not in keys
    assert len(fast.fast.flows()) % 2 == 0
    fast.backend.flush_own()
    assert fast.fast.flows() == []
    with fast.host.enter():
        fast.backend.setup()


def test_verdicts_have_a_count_each(row: FastRow) -> None:
    assert set(row.firewalls[0].fast.verdicts()) == set(Verdict)
