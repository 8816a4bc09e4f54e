/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Every way out of the program, by name. Each is counted per CPU in the map `verdicts`; the same names stand in
 * agent/chainrelay/datapath/xdp_layout.py (compared by tests/unit/datapath/test_xdp_layout.py).
 *
 * FORWARDED and ICMP_TRANSLATED leave by redirect. All others leave the packet as it came and let it go up to the stack,
 * where the nftables rules know what to do: forward it the slow way, answer it, or drop it.
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
	VERDICTS = 18
};

#endif
