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

#define LAYOUT_VERSION 4

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

/* What both families know of one direction of a session. */
struct state {
	__u64 lease_ticks;  /* jiffies; from then on the datagrams go up, where the rules' own lease ends up to two ticks later. FREE: since when */
	__u32 arrives_on;   /* ifindex; from another interface the datagram goes up, so that rp_filter has its say */
	__u8 arrives_at[6]; /* that interface's MAC; a frame for another station goes up and is dropped there */
	__u16 hop;          /* index into `hops` */
	__u8 kind;          /* FREE, or what happens to the datagrams (M17) */
	__u8 owner;         /* the CPU whose count stands in `own`, from 1 on; 0: none yet */
	__u8 reach;         /* of the place, not of the flow: so many places on lies the last flow whose home this is */
	__u8 padding;
};

enum { FREE, PLAIN, OPEN, SEAL }; /* state.kind: nothing here; rewrite; from the client: open; from the server: seal */

struct count {
	__u64 packets;      /* forwarded, since the entry exists */
	__u64 octets;       /* of these, IP length */
};

/* One place of the tables flows4 and flows6 (find.h): all that forwarding a datagram needs. IPv4: one cache line, IPv6: two. */
struct flow4 {
	struct tuple4 key;
	struct tuple4 leaves;
	struct state state;
	struct count own;   /* what the owner has forwarded: it alone writes here, and needs no lock */
};

struct flow6 {
	struct tuple6 key;
	__u8 padding[4];
	struct state state;
	struct tuple6 leaves;
	__u8 padding_end[12];
	struct count own;
};

#define REACH 63            /* places behind its home in which a flow may lie */

/* What forwarding does not need, by the same key in records4 and records6. */
struct record {
	struct count others; /* what all CPUs but the owner have forwarded, by atomic adds */
	__u64 packets_told; /* of all, what an earlier renewal has reported; written by control.c only */
	__u64 octets_told;
	__u8 session[16];
	__u64 lease_ns;     /* CLOCK_MONOTONIC; what control.c has made lease_ticks of */
	__u32 place;        /* where in the table the flow lies, plus one; 0: nowhere (yet) */
	__u32 key_be32;     /* SEAL: the id of the key to seal with, its component bit clear */
	__u32 component;    /* of a sealed session, 0 or 1: what the last bit of a key id must be */
	__u32 padding;
};

/* Where datagrams to one address leave. One entry for all flows that go there: a changed MAC is one write. */
struct hop {
	__u8 to[6];         /* the neighbour's MAC */
	__u8 from[6];       /* our interface's */
	__u32 ifindex;      /* key of `exits`; 0: not resolved, or an interface without the fast path: the datagram goes up */
	__u32 mtu;          /* of the route; what is larger goes up, and the stack answers frag-needed */
	__u32 family;       /* 4, 6, or 0 for a free place */
	__u32 address_be32[4]; /* the address this is the way to; IPv4 in the first word */
};

/* What a control run (control.c) does with a flow that stays. */
enum { RENEW, REKEY };

/* One record of it: in with the key and what shall hold, out with what was counted. Of one that leaves: in with the key. */
struct asked {
	__u16 hop;
	__u8 what;          /* RENEW: lease, hop, arrival; REKEY: only key_be32, nothing is told */
	__u8 found;         /* out: 1 when there was such a flow */
	__u32 key_be32;
	__u64 lease_ns;     /* 0 closes the flow: its datagrams go up from now on */
	__u32 arrives_on;
	__u8 arrives_at[6];
	__u8 padding[6];
	__u64 packets;      /* out: forwarded since the last renewal */
	__u64 octets;       /* out */
};

struct renewal4 {
	struct tuple4 key;
	__u8 padding[4];
	struct asked asked;
};

struct renewal6 {
	struct tuple6 key;
	__u8 padding[4];
	struct asked asked;
};

#define AT_ONCE 8           /* flows in one control run */

/* A new flow for the table; its record is there already. */
struct placing4 {
	struct flow4 flow;
	__u32 place;        /* out: as in its record; 0: no place free within REACH of its home, or no record */
	__u32 padding;
};

struct placing6 {
	struct flow6 flow;
	__u32 place;
	__u32 padding;
};

/* Sealing (docs/protocol.md §13). Which key: a session, and a key id with its component bit clear. */
struct seal_key {
	__u8 session[16];
	__u32 key_be32;
};

#define WINDOW 1024         /* counters below the highest accepted one that are still judged one by one */
#define WINDOW_WORDS (WINDOW / 64)

/* One key of a session, both directions and components. Changed by the programs alone: written by bpf(2) a counter could repeat. */
struct seal {
	struct bpf_spin_lock lock; /* next, top, window and budget; wiping */
	__u32 before_be32;  /* the key before this one, 0: none */
	__u32 open_key[8];
	__u32 open_iv[3];
	__u32 seal_key[8];
	__u32 seal_iv[3];
	__u64 ends_ns;      /* CLOCK_MONOTONIC, from then on the key is not known any more; 0: it is the current one */
	__u64 next;         /* counter of the next datagram that is sealed: so many have been */
	__u64 top;          /* one more than the highest counter accepted */
	__u64 window[WINDOW_WORDS]; /* bit c modulo WINDOW: counter c below top was accepted */
	__u64 opened;
	__u64 forged;       /* tags that were wrong */
	__u64 replayed;     /* counters seen before or too old */
	__u64 budget_ns;    /* begin of the second in which budget_used wrong tags came */
	__u64 budget_used;
	__u64 answered_ns;  /* when a datagram of the server that was too large was answered last */
};

#define KEY_OCTETS (2 * (32 + 12)) /* open_key to seal_iv */
#define SEALED_MOST (1ULL << 32)   /* datagrams that are sealed with one key */

/* One record of the control program for keys: ends_ns is written; with `wipe` the key becomes zeros and seals nothing any more. */
struct ending {
	struct seal_key key;
	__u32 wipe;
	__u64 ends_ns;
	__u64 found;        /* out: 1 when there was such a key */
	__u64 opened;       /* out, as all that follow */
	__u64 sealed;
	__u64 forged;
	__u64 replayed;
};

/* What the plain program hands a sealed flow's packet to: places in the map `programs`. */
enum { SLOT_OPEN4, SLOT_OPEN6, SLOT_SEAL4, SLOT_SEAL6, SLOT_ERROR4, SLOT_ERROR6, SLOT_ANSWER4, SLOT_ANSWER6, SLOTS };

#define SEALED_LONGEST 1536 /* octets of text: whole blocks, enough for an Ethernet frame; a longer datagram is dropped */

#define TEXT_ROOM (SEALED_LONGEST + 512) /* whole blocks are encrypted, the tag follows, sums are made of 512 octets at once */

/* The memory in which a CPU works on a datagram: as on the wire from `header` on, so that one copy brings it in and one takes it out. */
struct scratch {
	__u32 key[8];
	__u32 nonce[3];
	__u32 poly_r[5];    /* Poly1305's r in limbs of 26 bits */
	__u32 poly_s[5];    /* 5 r */
	__u32 poly_pad[4];
	__u32 stream[16];   /* block 0 of the key stream */
	__u32 tag[4];       /* as computed */
	__u32 received[4];  /* as it came */
	__u32 length;       /* octets of text */
	__u8 padding[12];
	__u32 header[3];
	__u8 text[TEXT_ROOM];
};

#endif
