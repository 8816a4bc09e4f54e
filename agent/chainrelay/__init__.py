"""chainrelay: UDP and TCP sessions through several firewalls in a row, rewritten by the kernel of each.

A request's way through one relay:  net/listener.py → wire/frame.py → wire/handshake.py → wire/channel.py (Authenticated)
→ session/engine.py (session/policy.py, session/ports.py) → net/neighbours.py (the next relay) → net/datapath.py
→ datapath/nft.py → privileged/nftables.py → the answer, back the same way.

A packet's way through one relay: datapath/ruleset.py prints it: gate (prerouting, mangle) → to_destination (prerouting, dstnat)
→ forward → to_source (postrouting, srcnat). No line of Python runs for it.

    wire/        pure: frames, CBOR, handshake, records            session/   pure: the engine, tables, ports
    datapath/    mappings → transactions, and the fake             net/       the only asyncio
    privileged/  the only libnftables, netlink, conntrack          client/    library and command line
    config/      files → values                                    agent/     the daemon's main
"""

__version__ = "0.1.0"
