/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Every way out of the program, by name. Each is counted per CPU in the map `verdicts`; the same names stand in
 * agent/chainrelay/datapath/xdp_layout.py (compared by tests/unit/datapath/test_xdp_layout.py).
 *
 * Plain flows: FORWARDED and ICMP_TRANSLATED leave by redirect. All others leave the packet as it came and let it go up to the
 * stack, where the nftables rules know what to do: forward it the slow way, answer it, or drop it.
 *
 * Sealed flows (from OPENED on): the first four leave by redirect, SEALED_ANSWERED back to the sender, and all others are dropped.
 * Nothing of a sealed flow goes up.
 */
#ifndef CHAINRELAY_VERDICT_H
#define CHAINRELAY_VERDICT_H

enum verdict {
	CONTINUE = 0,           /* not a way out: the next step follows */
	FORWARDED = 1,          /* rewritten and redirected */
	ICMP_TRANSLATED = 2,    /* an ICMP error about a flow of ours, rewritten and redirected */
	NOT_IP = 3,             /* ARP, VLAN tags, anything else */
	MALFORMED = 4,          /* truncated, or lengths that contradict each other */
	OPTIONS = 5,            /* IPv4 options, IPv6 extension headers */
	FRAGMENT = 6,           /* first or later fragment */
	OTHER_PROTOCOL = 7,     /* neither UDP nor ICMP */
	NO_SESSION = 8,         /* no such tuple */
	LEASE_ENDED = 9,
	OTHER_INTERFACE = 10,   /* the tuple is known, but not from there */
	OTHER_STATION = 11,     /* the frame's destination is not our MAC */
	TTL_ENDS = 12,          /* TTL or hop limit ≤ 1: the stack answers time-exceeded */
	NO_NEXT_HOP = 13,       /* neighbour not resolved, or beyond an interface without the fast path */
	TOO_LARGE = 14,         /* for the way out: the stack answers frag-needed or fragments */
	PARTIAL_CHECKSUM = 15,  /* only the pseudo-header's sum, and it can't be completed here */
	NO_CHECKSUM = 16,       /* UDP over IPv6 without checksum (RFC 6936): not for a fast path */
	ICMP_OTHER = 17,        /* ICMP that is not an error about a flow of ours */
	OPENED = 18,            /* verified, decrypted, redirected */
	SEALED = 19,            /* encrypted and redirected */
	SEALED_ICMP = 20,       /* an ICMP error about a sealed flow, cut, translated and redirected */
	SEALED_ANSWERED = 21,   /* the server's datagram would be too large sealed: frag-needed or packet-too-big back to it */
	SEALED_NO_PROGRAM = 22, /* the place of the sealing program is empty */
	SEALED_GONE = 23,       /* the flow was removed or is another one by now */
	SEALED_LEASE_ENDED = 24,
	SEALED_OTHER_INTERFACE = 25,
	SEALED_OTHER_STATION = 26,
	SEALED_TTL_ENDS = 27,
	SEALED_NO_NEXT_HOP = 28,
	SEALED_TOO_LARGE = 29,  /* for the way out or for the program; not answered, or one answer was just given */
	SEALED_TOO_SHORT = 30,  /* no room for key id, counter and tag */
	SEALED_PARTIAL_CHECKSUM = 31, /* generic mode: the stack would finish a sum that is no longer the datagram's */
	SEALED_NO_CHECKSUM = 32, /* UDP over IPv6 without checksum */
	SEALED_BAD_CHECKSUM = 33, /* the server's datagram was damaged before it came here */
	SEALED_NO_ROOM = 34,    /* the frame can't grow at its head */
	WRONG_COMPONENT = 35,   /* the key id's last bit is not the port's component */
	UNKNOWN_KEY = 36,       /* no such key, or its time is over */
	COUNTER_TOO_HIGH = 37,  /* 2^63 or more */
	REPLAYED = 38,          /* accepted before, or too old to tell */
	FORGED = 39,            /* the tag is wrong */
	FORGE_LIMIT = 40,       /* too many wrong tags within a second: not even looked at */
	KEY_EXHAUSTED = 41,     /* 2^32 datagrams sealed with this key */
	VERDICTS = 42
};

#endif
