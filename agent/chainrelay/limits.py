"""Every limit and timer in one place, each with its reason. Times in seconds, sizes in bytes.

What an administrator may change has the same name in agent.toml; the value here is the default. Nothing else in the
project holds a magic number of this kind.
"""

from __future__ import annotations

from typing import Final

# the wire --------------------------------------------------------------------
CONTROL_PORT: Final = 9798  # default; recalls ISO/IEC 9798
OFFER_PORT: Final = 9799  # default port of the client-server control connection
FRAME_BEFORE_AUTHENTICATION: Final = 4 * 1024  # the largest handshake message is below 1 KiB
FRAME_AFTER_AUTHENTICATION: Final = 64 * 1024  # room for EXTEND around a record and for lists
CBOR_DEPTH: Final = 6  # the deepest message nests four levels
CBOR_ITEMS: Final = 4096  # items in one message, a list of counters over many hops included
ID_LENGTH: Final = 64  # characters of an id, a user or a key id: fits log lines and nft comments
ERROR_TEXT: Final = 512  # characters of an ERROR's text: a sentence or two, one log line
NAME_LENGTH: Final = 253  # a domain name (RFC 1035 §2.3.4)
SESSION_ID_LENGTH: Final = 16
MAX_HOPS: Final = 16  # far above any real row of firewalls, low enough to stop a loop that path checks missed
EXTEND_OCTETS: Final = 16 * 1024  # one request or answer with all the EXTENDs around it; the longest ERROR is below 1 KiB
RECORDS_PER_KEY: Final = 2**48  # far below any bound of ChaCha20-Poly1305; a connection that reaches it is cut

# sealed datagrams (docs/protocol.md §13) ----------------------------------------
SEAL_WINDOW: Final = 1024  # counters below the highest: datagrams that overtake each other by more are lost anyway
SEAL_DATAGRAMS_PER_KEY: Final = 2**32  # of one direction: far below the bounds of ChaCha20-Poly1305 for forgery
SEAL_TEXT: Final = 1536  # octets that ebpf/ opens and seals at once: an Ethernet frame's; larger ones are not carried, whatever the MTU
SEAL_REKEY_DATAGRAMS: Final = 2**31  # a new key long before the last datagram: a chain that is away for hours must not end the session
SEAL_REKEY_AFTER: Final = 3600.0  # what a key that leaks gives away; one handshake per hour and session costs nothing
SEAL_OVERLAP: Final = 10.0  # both keys are taken: longer than any datagram is under way, as PORT_REST reckons, and than REKEY's round trip

# time a partner gets ---------------------------------------------------------
HANDSHAKE_TIMEOUT: Final = 5.0  # three messages, long round trips included
HALF_OPEN_CONNECTIONS: Final = 256  # unauthenticated connections at once; more are closed at accept
HALF_OPEN_PER_PREFIX: Final = 32  # of these from one /24 or /48, so that one network can't take them all
HELLO_RATE_PER_PREFIX: Final = 50.0  # M1 per second from one prefix before X25519 is spent on it
ASK_TIMEOUT: Final = 5.0  # one hop's answer; to OPEN, relays near the client wait longer than those further on (ask_timeout)
ASK_TIMEOUT_PER_HOP: Final = 1.0  # so much longer each: then the one whose neighbour hangs is the one that says so
ASK_TIMEOUT_HOPS: Final = 4  # the relay from which on all wait ASK_TIMEOUT: the client of a row that hangs hears it within 8 s
CONFIRM_TIMEOUT: Final = 30.0  # from ASSIGNED to BIND (iterative), from OPENED to REKEY (sealed): round trips to MAX_HOPS relays
END_TO_END_HALF_OPEN: Final = 1024  # end-to-end handshakes under way at once at one relay
END_TO_END_PER_LINK: Final = 256  # of these from one neighbour, so that one can't take them all
END_TO_END_PER_SECOND: Final = 5.0  # of one session; a client makes one, and another when a link was lost
EXTENDS_AT_ONCE: Final = 16  # of one session, passed on and not answered yet; a client has one at a time
RESOLVE_TIMEOUT: Final = 4.0  # below ASK_TIMEOUT, so that the relay that could not resolve is the one that says so
RESOLVERS: Final = 8  # names resolved at once (threads); more wait within RESOLVE_TIMEOUT
LOCATE_CACHE: Final = 1.0  # source address and MTU toward a host; a route change shows within a second
RECONNECT_FIRST: Final = 0.1
RECONNECT_LAST: Final = 5.0  # a relay that came back is used within this time
MESSAGES_PER_WRITE: Final = 8  # a record and a write cost as much as one message; more would keep the next relay idle meanwhile
LAST_ANSWERS: Final = 2.0  # an agent that ends waits so long for partners to take what it has told them
UNREAD_ANSWERS: Final = 1024 * 1024  # bytes waiting for a partner that does not read; then it is cut
LINK_KEEPALIVE: Final = 20.0  # idle time on a neighbour link after which TCP probes; NATs forget at 60 s and more

# sessions --------------------------------------------------------------------
LEASE_DEFAULT: Final = 120  # design: renewed at a third of it
LEASE_SHORTEST: Final = 2  # tests and impatient operators; a renewal must fit in
LEASE_LONGEST: Final = 3600
LEASE_GRACE: Final = 2.0  # the kernel's lease outlasts ours, so that the agent ends a session and reads its last counters
ABSOLUTE_LIMIT: Final = 7 * 24 * 3600  # a session's age; a stream that runs longer opens a new one
IDLE_LIMIT: Final = 0  # 0 = none: a held call may be silent for hours
PORT_REST: Final = 30  # a late datagram of an old session dies out well within this (RFC 791 TTL is hops in practice)
TCP_LINGER: Final = 10.0  # how long a TCP session whose lease ended is answered with a reset
REMOVE_RETRY: Final = 5.0  # until the kernel takes a removal that it refused; the ports stay busy as long
SESSIONS_PER_PRINCIPAL: Final = 10_000
OPENS_PER_SECOND: Final = 10_000.0  # per principal; a bucket of one second
POOL_FIRST: Final = 20_000
POOL_LAST: Final = 29_999  # below Linux's ephemeral range (32768-60999), above registered services

# datapath --------------------------------------------------------------------
MARK: Final = 0x4000_0000  # one high bit: administrators and Kubernetes use the low ones
BATCH: Final = 256  # operations in one nft transaction: 1,536 elements, about 3 ms
RULES_CHECK: Final = 0.2  # how soon a foreign `nft flush ruleset` is noticed; one look costs 30 microseconds
RULES_CHECK_SHARE: Final = 0.05  # looks take at most this part of the time: iptables-legacy takes 13 ms for one at 5,000 sessions
FAST_PATH_SESSIONS: Final = 32_768  # per family; each costs 768 octets from the start, for both families (ebpf/README.md, Maps)
FAST_PATH_PARTNERS: Final = 4_096  # addresses that the fast path's sessions lead to, 64 octets each
HELPER_TIMEOUT: Final = 20.0  # one answer of the datapath helper: it may restart or be stopped for ten seconds meanwhile
HELPER_RECONNECT: Final = 0.05  # between attempts while the helper's socket is not there
STATUS_PERIOD: Final = 10.0  # how often systemd hears the number of sessions when no watchdog asks sooner
HELPER_PULSE: Final = 5.0  # how often the helper looks up when nobody asks and no watchdog wants to know
HELPER_CONNECTIONS: Final = 4  # the agent's, one of `--teardown`, and two that are about to end
LEGACY_SESSIONS: Final = 5_000  # per family with iptables-legacy: every commit rewrites all of its rules (docs/design.md §12)
LEGACY_TIMEOUT: Final = 2_147_483.0  # the longest timeout of an ipset element (linux/netfilter/ipset/ip_set.h: jiffies in 31 bits)
IP_UDP_HEADERS: Final = {4: 28, 6: 48}  # what the largest payload loses to headers
SMALLEST_MTU: Final = {4: 576, 6: 1280}  # RFC 791, RFC 8200

# the client ------------------------------------------------------------------
CONNECT_TIMEOUT: Final = 5.0
RENEW_FRACTION: Final = 1 / 3  # of the lease
RENEW_SILENCE: Final = 5.0  # without an answer before the user hears of it; a healthy chain answers within milliseconds
RENEW_RETRY: Final = 1.0  # after a failed renewal; doubled up to RECONNECT_LAST, so that a chain that came back is used soon
UDP_RECEIVE_BUFFER: Final = 4 << 20  # octets at a client's socket: a burst of some hundred datagrams, a page of memory and more for each
PAIR_ATTEMPTS: Final = 32  # tries for an even port with a free one after it; half of all tries give an even one
OFFER_TIMEOUT: Final = 10.0  # what the client waits for OFFER: the server needs no one else to make it
PEER_TIMEOUT: Final = 30.0  # what the server waits for PEER: the client's OPEN through MAX_HOPS relays fits in
RESUME_TIME: Final = 15.0  # how long a server keeps a client whose control connection broke: a few reconnects
OFFER_CONNECTIONS: Final = 256  # control connections that one server holds at once
TCP_CONNECT: Final = 10.0  # a TCP session's own connection: the server may start its program only now
PROGRAM_STOP: Final = 5.0  # from SIGTERM to SIGKILL for a program that `chainrelay offer` started

# the journal -----------------------------------------------------------------
JOURNAL_DELAY: Final = 0.02  # what nothing waits for goes with the next batch, or after this
JOURNAL_RETRY: Final = 5.0  # between attempts while the disk is full

# the log ---------------------------------------------------------------------
REFUSALS_LOGGED_PER_SECOND: Final = 20.0  # more are counted and told in one line
