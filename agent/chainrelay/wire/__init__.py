"""The control protocol: bytes in, values out. Normative text: docs/protocol.md.

A frame's way inward: frame.py cuts the stream, handshake.py (until it is done) or channel.py (ever after) authenticates
a body, cbor.py bounds and decodes it, codec.py turns it into a value of messages.py. connection.py walks that way for
both roles, its states are the table in states.py. primitives.py holds every use of cryptography.

Nothing here knows a socket, a clock, random numbers or asyncio: what is random is brought by the caller.
"""
