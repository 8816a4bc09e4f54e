/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Keys and values of the maps: what the program and the Python side both read and write, and nothing else.
 *
 * The same layouts stand in agent/chainrelay/datapath/xdp_layout.py; tests/unit/datapath/test_xdp_layout.py compiles this file and
 * compares every size and offset. Byte order is part of the name (`_be16`, `_be32`: as in the packet; otherwise the
 * machine's own). Padding is explicit and zero. A change here raises LAYOUT_VERSION, which is in the path of the pins.
 */
#ifndef CHAINRELAY_LAYOUT_H
#define CHAINRELAY_LAYOUT_H

#include <linux/types.h>

#define LAYOUT_VERSION 1

/* A datagram's tuple: the key as it arrives, or the tuple with which it leaves. */
struct tuple4 {
	__u32 source_be32;
	__u32 destination_be32;
	__u16 source_port_be16;
	__u16 destination_port_be16;
};

struct tuple6 {
	__u32 source_be32[4];
	__u32 destination_be32[4];
	__u16 source_port_be16;
	__u16 destination_port_be16;
};

/* What both families know of one direction of a session. Hot fields first: with the IPv4 tuple behind them one cache line. */
struct state {
	__u64 lease_ns;     /* CLOCK_MONOTONIC; from then on the datagrams go up, where the rules' own lease has ended too */
	__u32 hop;          /* index into `hops` */
	__u32 arrives_on;   /* ifindex; from another interface the datagram goes up, so that rp_filter has its say */
	__u8 arrives_at[6]; /* that interface's MAC; a frame for another station goes up and is dropped there */
	__u8 padding[2];
};

struct count {
	__u64 packets;      /* forwarded, since the entry exists */
	__u64 octets;       /* of these, IP length */
};

/* The first CPUs count in a place of their own without locking the bus, all others share the last place by atomic adds. */
#define COUNTS 4

struct account {
	struct count counts[COUNTS];
	__u64 packets_told; /* of these, what an earlier renewal has reported; written by control.c only */
	__u64 octets_told;
	__u8 session[16];
};

struct flow4 {
	struct state state;
	struct tuple4 leaves;
	__u8 padding[4];
	struct account account;
};

struct flow6 {
	struct state state;
	struct tuple6 leaves;
	__u8 padding[4];
	struct account account;
};

/* Where datagrams to one address leave. One entry for all flows that go there: a changed MAC is one write. */
struct hop {
	__u8 to[6];         /* the neighbour's MAC */
	__u8 from[6];       /* our interface's */
	__u32 ifindex;      /* 0: not resolved, or an interface without the fast path: the datagram goes up */
	__u32 mtu;          /* of the route; what is larger goes up, and the stack answers frag-needed */
	__u32 family;       /* 4, 6, or 0 for a free place */
	__u32 address_be32[4]; /* the address this is the way to; IPv4 in the first word */
};

/* One record of a control run (control.c): in with the key and what shall hold, out with what was counted. */
struct renewal4 {
	struct tuple4 key;
	__u32 hop;
	__u64 lease_ns;     /* 0 closes the flow: its datagrams go up from now on */
	__u32 arrives_on;
	__u8 arrives_at[6];
	__u8 padding[2];
	__u32 found;        /* out: 1 when there was such a flow */
	__u64 packets;      /* out: forwarded since the last renewal */
	__u64 octets;       /* out */
};

struct renewal6 {
	struct tuple6 key;
	__u32 hop;
	__u64 lease_ns;
	__u32 arrives_on;
	__u8 arrives_at[6];
	__u8 padding[2];
	__u32 found;
	__u64 packets;
	__u64 octets;
};

#endif
