"""The rows of `make bench` that relay in user space: nginx stream, coturn (ChannelData), Dante (SOCKS5), asyncio.

One process, or family of processes, per firewall, all on the core of the generator, which has a lower priority: it offers a burst
whenever they have nothing to do, so none of them is idle and none is overrun. A chain of TURN or SOCKS5 servers is a header
inside a header: what the outer server forwards is a message to the inner one.
"""

from __future__ import annotations

import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from chainrelay.wire.endpoint import Endpoint
from lab import wait
from lab.row import Firewall, Row
from rows import PORT, Builder, Setup, bare
from traffic import Traffic, mac

FIRST: Final = ["chrt", "--fifo", "2"]  # before the generator, which runs when they wait
BURST: Final = 16  # fits every receive buffer: a frame from XDP is charged a page
FIRST_WINDOW: Final = 2_000
TURN, SOCKS = 3478, 1080
COOKIE: Final = 0x2112A442  # RFC 8489 §5
ANYWHERE: Final = b"\x01" + bytes(6)  # of SOCKS5: from whatever port the client will send
TIMEOUT: Final = 5.0

Wrap = Callable[[bytes], bytes]


def user_space(name: str, start: Callable[[Row, ExitStack, Path], tuple[Endpoint, Wrap, int]]) -> Builder:
    """A row of `name`. `start` returns where the client sends, what it puts round a payload and how long that makes it."""

    def build(stack: ExitStack, hops: int, family: int, _: int) -> Setup:
        assert family == 4, "these rows are IPv4"
        row = bare(stack, hops, family)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{name}-")))
        folder.chmod(0o755)
        try:
            to, wrap, headers = start(row, stack, folder)
        except (OSError, wait.WaitError) as error:
            words = "".join(path.read_text(errors="replace")[-800:] for path in folder.glob("*.log"))
            raise SystemExit(f"{name} over {hops} relays: {error}\n{words}") from error
        source = Endpoint(row.client_end.address(4), PORT)
        gate = mac(row.firewalls[0].left)
        return Setup(
            name,
            hops,
            Traffic(
                row.client_end, row.server_end, source, to, gate,
                payload=lambda size: wrap(bytes(max(0, size - headers))), burst=BURST, first=FIRST_WINDOW,
            ),
        )  # fmt: skip

    return build


def nginx(row: Row, stack: ExitStack, folder: Path) -> tuple[Endpoint, Wrap, int]:
    """stream, UDP, a worker."""
    del stack
    for firewall, to in _pairs(row, PORT):
        at = Endpoint(firewall.left.address(4), PORT)
        file = folder / f"{firewall.name}.conf"
        file.write_text(
            f"""load_module /usr/lib/nginx/modules/ngx_stream_module.so;
            worker_processes 1; daemon off; pid {folder}/{firewall.name}.pid; error_log {folder}/{firewall.name}.log error;
            events {{ worker_connections 1024; }}
            stream {{ server {{ listen {at} udp; proxy_pass {to}; proxy_timeout 1h; }} }}\n""",
            encoding="ascii",
        )
        _start(firewall, ["nginx", "-p", str(folder), "-c", str(file)], folder)
        _listens(firewall, at)
    return _first(row, PORT), lambda payload: payload, 0


def asyncio_relay(row: Row, stack: ExitStack, folder: Path) -> tuple[Endpoint, Wrap, int]:
    """asyncio_relay.py."""
    del stack
    program = str(Path(__file__).with_name("asyncio_relay.py"))
    for firewall, to in _pairs(row, PORT):
        at = Endpoint(firewall.left.address(4), PORT)
        _start(firewall, [sys.executable, program, str(at.address), str(PORT), str(to.address), str(to.port)], folder)
        _listens(firewall, at)
    return _first(row, PORT), lambda payload: payload, 0


def coturn(row: Row, stack: ExitStack, folder: Path) -> tuple[Endpoint, Wrap, int]:
    """An allocation and a channel at each relay, the later ones asked for through the earlier ones' channels."""
    for firewall, _ in _pairs(row, TURN):
        near, far = firewall.left.address(4), firewall.right.address(4)
        _start(
            firewall,
            [
                "turnserver", "-n", "--no-auth", "--no-tls", "--no-dtls", "--no-tcp", "--no-tcp-relay", "--no-cli", "-m", "1",
                "-L", str(near), "-E", str(far), "-p", str(TURN), "--log-file", f"{folder}/{firewall.name}.log", "--simple-log",
                "--pidfile", f"{folder}/{firewall.name}.pid", "--userdb", f"{folder}/{firewall.name}.db",
                "--permission-lifetime=3600", "--channel-lifetime=3600",
            ],
            folder,
        )  # fmt: skip
        _listens(firewall, Endpoint(near, TURN))
    with row.client.enter():
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.bind((str(row.client_end.address(4)), PORT))
        client.settimeout(TIMEOUT)
    at = _first(row, TURN)
    for depth, (_, peer) in enumerate(_pairs(row, TURN, PORT)):
        _turn(client, at, depth, 0x0003, [(0x0019, bytes([17, 0, 0, 0])), (0x000D, struct.pack(">I", 3600))])
        address = int(IPv4Address(peer.address)) ^ COOKIE
        xored = struct.pack(">BBHI", 0, 1, peer.port ^ COOKIE >> 16, address)
        _turn(client, at, depth, 0x0009, [(0x000C, struct.pack(">HH", 0x4000, 0)), (0x0012, xored)])
    return at, lambda payload: _channels(payload, row.hops), 4 * row.hops


def dante(row: Row, stack: ExitStack, folder: Path) -> tuple[Endpoint, Wrap, int]:
    """An association at each relay, the later ones asked for through the earlier ones."""
    for firewall, _ in _pairs(row, SOCKS):
        file = folder / f"{firewall.name}.conf"
        file.write_text(
            f"""errorlog: {folder}/{firewall.name}.log
            internal: {firewall.left.name} port = {SOCKS}
            external: {firewall.right.name}
            user.privileged: root
            user.unprivileged: root
            clientmethod: none
            socksmethod: none
            client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
            socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: bind connect udpassociate }}
            socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: bindreply udpreply }}\n""",
            encoding="ascii",
        )
        _start(firewall, ["danted", "-f", str(file), "-p", f"{folder}/{firewall.name}.pid"], folder)
        _listens(firewall, Endpoint(firewall.left.address(4), SOCKS))
    doors = [Endpoint(each.left.address(4), SOCKS) for each in row.firewalls]
    bound = []
    for depth in range(row.hops):
        with row.client.enter():
            control = stack.enter_context(socket.create_connection((str(doors[0].address), SOCKS), TIMEOUT))
        _greet(control)
        for door in doors[1 : depth + 1]:
            _socks(control, 1, _socks_address(door))
            _greet(control)
        bound.append(_socks(control, 3, ANYWHERE))
    targets = [*bound[1:], Endpoint(row.server_end.address(4), PORT)]
    header = b"".join(bytes(3) + _socks_address(each) for each in targets)
    return bound[0], lambda payload: header + payload, len(header)


def _pairs(row: Row, port: int, last: int = PORT) -> list[tuple[Firewall, Endpoint]]:
    """Every relay and where it sends: the next one's `port`, at the end the server's `last`."""
    following = [Endpoint(each.left.address(4), port) for each in row.firewalls[1:]]
    return list(zip(row.firewalls, [*following, Endpoint(row.server_end.address(4), last)], strict=True))


def _first(row: Row, port: int) -> Endpoint:
    return Endpoint(row.firewalls[0].left.address(4), port)


def _start(firewall: Firewall, command: Sequence[str], folder: Path) -> None:
    with (folder / f"{firewall.name}.out.log").open("w") as out:
        firewall.host.popen([*FIRST, *command], stdout=out, stderr=out)


def _listens(firewall: Firewall, at: Endpoint) -> None:
    def listens() -> bool:
        return f"{at} " in firewall.host.run(["ss", "-Hlntu"]).stdout

    wait.until(listens, f"a listener on {at}", 10.0)


def _channels(payload: bytes, depth: int) -> bytes:
    """ChannelData of ChannelData (RFC 8656 §12.4)."""
    for _ in range(depth):
        payload = struct.pack(">HH", 0x4000, len(payload)) + payload
    return payload


def _turn(client: socket.socket, at: Endpoint, depth: int, method: int, attributes: list[tuple[int, bytes]]) -> None:
    """One STUN request to relay `depth` + 1 and its success."""
    body = b"".join(struct.pack(">HH", kind, len(value)) + value for kind, value in attributes)
    request = struct.pack(">HHI12s", method, len(body), COOKIE, bytes([depth, method] * 6)) + body
    client.sendto(_channels(request, depth), (str(at.address), at.port))
    answer = client.recv(2048)[4 * depth :]
    if int.from_bytes(answer[:2]) != method | 0x0100:
        raise OSError(f"TURN refuses {method:#06x}: {answer.hex()}")


def _greet(control: socket.socket) -> None:
    control.sendall(b"\x05\x01\x00")
    if _exactly(control, 2) != b"\x05\x00":
        raise OSError("SOCKS5 wants a password")


def _socks(control: socket.socket, command: int, to: bytes) -> Endpoint:
    """A request (RFC 1928 §4) and the endpoint in its answer."""
    control.sendall(bytes([5, command, 0]) + to)
    answer = _exactly(control, 10)
    if answer[1] != 0:
        raise OSError(f"SOCKS5 command {command} refused with {answer[1]}")
    return Endpoint(IPv4Address(answer[4:8]), int.from_bytes(answer[8:10]))


def _socks_address(to: Endpoint) -> bytes:
    return b"\x01" + to.address.packed + to.port.to_bytes(2)


def _exactly(control: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = control.recv(count - len(got))
        if not more:
            raise OSError("the SOCKS5 server hung up")
        got += more
    return got


USER_SPACE: Final[dict[str, Builder]] = {
    "nginx": user_space("nginx", nginx),
    "coturn": user_space("coturn", coturn),
    "dante": user_space("dante", dante),
    "asyncio": user_space("asyncio", asyncio_relay),
}
