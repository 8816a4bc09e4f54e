"""Random frames against the model: `python -m unit.ebpf.fuzz --count 1000000` (make fuzz-xdp), a short run in test_fuzz.py.

Most frames are datagrams and ICMP errors of the world's flows with none to four fields or octets changed, cut or padded: what
is nearly right finds more than noise does. A part of them belongs to sealed sessions, of which nothing may ever go up, leave as another
text, or leave unsealed. The seed is printed; the same seed makes the same frames.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from chainrelay.datapath.xdp_layout import LAYOUT_VERSION, Verdict
from unit.ebpf import frames, model
from unit.ebpf.sealed_world import KEYS, SealedWorld, payload_of
from unit.ebpf.world import CASES, World

DROP, PASS, REDIRECT = 1, 2, 4
TEXT = b"the text of a sealed datagram, which is not seen between"
BATCH = 2000  # frames between two looks at the counters


class Difference(AssertionError):
    """The program and the model disagree about a frame."""


def seeds() -> list[bytes]:
    """Good frames of every flow: datagrams of several sizes, with and without checksum, partial ones, and errors."""
    made = []
    for cases in CASES.values():
        for case in cases.values():
            header = 28 if case.flow.source.family == 4 else 48
            for size in (0, 1, 18, 61, 600 - header, 601 - header):
                payload = bytes(number * 31 % 256 for number in range(size))
                made.append(frames.octets(frames.datagram(case.flow, payload)))
            bare = frames.Ether(frames.octets(frames.rewritten(case.flow, bytes(2))))[frames.UDP].chksum
            made.append(frames.octets(frames.datagram(case.flow, bare.to_bytes(2, "big"))))  # its sum will be 0
            partial = frames.datagram(case.flow, b"partial")
            partial[frames.UDP].chksum = frames.pseudo_sum(partial)
            made.append(frames.octets(partial))
            none = frames.datagram(case.flow, b"none")
            none[frames.UDP].chksum = 0
            made.append(frames.octets(none))
            made += [frames.octets(frames.error(case.flow, kind)) for kind in ("too-big", "port")]
    return made


def mutate(frame: bytes, rng: random.Random) -> bytes:
    """Some change, mostly in the headers."""
    octets = bytearray(frame)
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3, 4))):
        at = rng.randrange(min(len(octets), rng.choice((14, 34, 62, 110, 200))))
        match rng.randrange(6):
            case 0:
                octets[at] ^= 1 << rng.randrange(8)
            case 1:
                octets[at] = rng.randrange(256)
            case 2:
                octets[at] = rng.choice((0, 1, 0xFF, 17, 0x45, 0x60))
            case 3:
                octets[at : at + 2] = rng.choice((b"\0\0", b"\xff\xff", rng.randbytes(2)))
            case 4 if len(octets) > 15:
                del octets[rng.randrange(14, len(octets)) :]
            case _:
                octets += rng.randbytes(rng.randrange(1, 40))
    return bytes(octets)


def of_sealed(sealed: SealedWorld, rng: random.Random) -> bytes:
    """A fresh good frame of a sealed session: of the client, of the server, or an error about either."""
    match rng.randrange(4):
        case 0 | 1:
            return sealed.sealed(TEXT)
        case 2:
            return sealed.clear(TEXT)
        case _:
            return frames.octets(frames.error(rng.choice((sealed.there, sealed.back)), rng.choice(("too-big", "port"))))


def check_sealed(sealed: SealedWorld, frame: bytes, action: int, after: bytes) -> None:
    """What must hold of a frame that belongs to a sealed session, whatever else is odd about it."""
    if action == DROP:
        return
    if action != REDIRECT:
        raise Difference(f"a sealed session's frame went up: {frame.hex()}")
    if after[23 if after[12:14] == b"\x08\x00" else 20] != 17:
        right = TEXT not in after  # an error, cut
    elif payload_of(after)[:4] == sealed.peer.key_id:
        right = payload_of(frame).startswith(sealed.peer.open(payload_of(after)))
    else:
        right = payload_of(after) == TEXT
    if not right:
        raise Difference(f"a sealed session's frame {frame.hex()} left as {after.hex()}")


def run(world: World, count: int, seed: int) -> Counter[Verdict]:
    """Offer `count` frames to both programs in turn. Raises Difference with the frame; the verdicts that occurred otherwise."""
    rng = random.Random(seed)
    pool, seen = seeds(), Counter[Verdict]()
    done = 0
    sealed = [SealedWorld(world, 4), SealedWorld(world, 6, keys=replace(KEYS, key_id=bytes.fromhex("d0123458")))]
    while done < count:
        before, batch = world.counts(), Counter[Verdict]()
        mode = rng.choice(("native", "native", "generic"))
        program = world.programs[mode]
        for _ in range(min(BATCH, count - done)):
            frame = rng.randbytes(rng.randrange(14, 90)) if rng.randrange(50) == 0 else mutate(rng.choice(pool), rng)
            if rng.randrange(5) == 0:
                frame = mutate(of_sealed(rng.choice(sealed), rng), rng)
            verdict, expected = model.expect(frame, mode)
            action, after, _ = program.run(frame)
            if verdict is Verdict.OPENED:
                check_sealed(sealed[frame[12:14] != b"\x08\x00"], frame, action, after)
                batch[verdict] += 1
                done += 1
                continue
            forwarded = verdict in {Verdict.FORWARDED, Verdict.ICMP_TRANSLATED}
            if after != expected or action != (REDIRECT if forwarded else PASS):
                wanted = f"model {verdict.name} {expected.hex()}"
                raise Difference(f"seed {seed}, {mode}: {frame.hex()}\n  {wanted}\n  program {action} {after.hex()}")
            batch[verdict] += 1
            done += 1
        counts = {verdict: number - before[verdict] for verdict, number in world.counts().items()}
        counted = {verdict: number for verdict, number in counts.items() if verdict < Verdict.OPENED}
        of_them = {verdict: number for verdict, number in counts.items() if verdict >= Verdict.OPENED}
        if sum(of_them.values()) != batch.pop(Verdict.OPENED, 0):
            raise Difference(f"seed {seed}, {mode}: {of_them} do not add up")
        if counted != {verdict: batch[verdict] for verdict in Verdict if verdict < Verdict.OPENED}:
            raise Difference(f"seed {seed}, {mode}: the program counted {counted}, the model {dict(batch)}")
        seen += batch + Counter(of_them)
    return seen


def main() -> None:
    """The long run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    options = parser.parse_args()
    print(f"fuzz-xdp: {options.count} frames, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chainrelay-") as folder:
        pins = Path(folder, "bpf")
        load = [sys.executable, "-m", "chainrelay.privileged.xdp_load", "--pins", str(pins), "--log", f"{folder}/log"]
        try:
            subprocess.run(load, check=True, stdout=subprocess.DEVNULL)
            world = World(pins / f"v{LAYOUT_VERSION}")
            start = time.monotonic()
            seen = run(world, options.count, options.seed)
            world.close()
        finally:
            subprocess.run(["umount", "-q", str(pins)], check=False)
    for verdict in Verdict:
        print(f"  {verdict.name.lower().replace('_', '-'):24} {seen[verdict]:>9}")
    print(f"fuzz-xdp: {options.count} frames in {time.monotonic() - start:.0f} s, 0 differences")


if __name__ == "__main__":
    main()
