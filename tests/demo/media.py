"""The clip: made by ffmpeg, streamed by ffmpeg, judged by ffmpeg. H.264 and AAC in an MPEG transport stream."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FRAME_RATE = 25


def make_clip(path: Path, seconds: int) -> None:
    """A moving test picture and a tone, which ends later: ffmpeg's RTP muxer never sends its last, unfilled packet."""
    picture = ["-f", "lavfi", "-t", str(seconds), "-i", f"testsrc2=size=640x360:rate={FRAME_RATE}"]
    tone = ["-f", "lavfi", "-t", str(seconds + 0.5), "-i", "sine=frequency=440:sample_rate=48000"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-g", str(FRAME_RATE), "-b:v", "1500k", "-c:a", "aac"]
    _ffmpeg([*picture, *tone, *codecs, "-f", "mpegts", str(path)])


def streaming(clip: Path, url: str) -> list[str]:
    """The server's command: the clip in real time as RTP (RFC 2250) to `url`."""
    return [*_FFMPEG, "-re", "-i", str(clip), "-c", "copy", "-f", "rtp_mpegts", url]


def frames(path: Path) -> list[str]:
    """The MD5 of every decoded picture, in order."""
    listed = _ffmpeg(["-i", str(path), "-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"])
    return [line.rpartition(",")[2].strip() for line in listed.splitlines() if line and not line.startswith("#")]


_FFMPEG = ("ffmpeg", "-nostdin", "-v", "error", "-y")


def _ffmpeg(arguments: list[str]) -> str:
    done = subprocess.run([*_FFMPEG, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ffmpeg ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    return done.stdout
