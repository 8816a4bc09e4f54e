"""The whole chain with video, on booted hosts: the demo's clip, player and judgement, with the installed commands in between."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from chainrelay.wire.endpoint import Endpoint
from demo import media
from demo.checks import Observations
from demo.play import MEDIA_PORT, between
from hosts.appliance import FAMILY, Appliances, next_line
from hosts.site import TESTS_INSIDE
from lab import wait
from lab.capture import Capture
from lab.remains import remains

SECONDS: Final = 3
PATIENCE: Final = 90.0  # seconds, for programs to start on an emulated machine


def stream(row: Appliances) -> Observations:
    """Play the clip from the server to the client and tell what was seen."""
    (row.folder / "media").mkdir(exist_ok=True)
    media.make_clip(row.folder / "media/clip.ts", SECONDS)
    pictures = media.frames(row.folder / "media/clip.ts")
    row.server.put(row.folder / "media", "/root")
    url = f"rtp://{{peer}}?localrtpport={MEDIA_PORT}&localrtcpport={MEDIA_PORT + 1}"
    with Capture(row.row.server_end, direction="out") as at_server, Capture(row.row.client_end, direction="in") as at_client:
        offer = row.server.popen(
            ["chainrelay", "offer", "--components", "2", "--once", "--json", "--listen", str(row.control), "--port", str(MEDIA_PORT),
             "--", *media.streaming(Path("/root/clip.ts"), url)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert next_line(offer)["event"] == "listening"
        player = row.client.popen(
            ["env", f"PYTHONPATH={TESTS_INSIDE}", "PYTHONDONTWRITEBYTECODE=1", "/usr/bin/python3", "-m", "demo.player",
             "/etc/chainrelay", str(row.control), "/root/received.ts"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        opened = next_line(player)
        local, entry, leaving, peer = (Endpoint.parse(opened[name]) for name in ("local", "entry", "exit", "server"))
        user_space = {each.name: remains(each).sockets for each in row.firewalls}
        status = offer.wait(SECONDS + PATIENCE)
        assert status == 0, f"`chainrelay offer -- ffmpeg` ended with {status}"
        sent = between(at_server.datagrams(), peer, leaving)
        with suppress(wait.WaitError):  # what did not arrive is for the judgement to tell
            wait.until(lambda: len(between(at_client.datagrams(), entry, local)) >= len(sent), "the last datagram", 5)
        assert player.stdin is not None
        player.stdin.close()
        closed = next_line(player)
        player.wait(PATIENCE)
        received = between(at_client.stop(), entry, local)
        sent = between(at_server.stop(), peer, leaving)
    assert leaving.family == FAMILY
    received_file = row.folder / "received.ts"
    received_file.write_bytes(row.client.fetch("/root/received.ts"))
    return Observations(
        hops=tuple(each.name for each in row.firewalls),
        sent=[each.payload for each in sent],
        received=[each.payload for each in received],
        frames_expected=SECONDS * media.FRAME_RATE,
        frames_sent=pictures,
        frames_received=media.frames(received_file),
        counted={each["hop"]: each["to_client_packets"] for each in closed["counters"]},
        in_user_space=user_space,
        remains={each.name: remains(each).of_sessions for each in row.firewalls},
    )
