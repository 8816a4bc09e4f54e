"""`make demo`: real video from a server to a client through a row of relays, and the proof of what is claimed about it.

`play.py` tells the story step by step, `checks.py` compares (pure), `media.py` is ffmpeg, `ladder.py` draws the
exchange, `player.py` is the client's program, `report.py` prints. Nothing here is a test of details: those
are in tests/e2e.
"""
