/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Where in flows4 and flows6 a tuple's flow lies: open addressing over an array, written by control.c alone.
 *
 * A tuple has a home, and its flow lies there or in one of the next REACH places. Half of all places are free in a full table, so
 * it mostly lies at home: one look at one cache line (IPv4), where the kernel's hash map takes a bucket, the element's
 * head and its value, one after the other. A foreign tuple costs one line as well, unless its home has a reach.
 *
 * No secret goes into the home: only authenticated principals bring flows into the table, and the way to one is bounded.
 *
 * Where home is belongs to the pinned layout (test_table.py knows some): other arithmetic here raises LAYOUT_VERSION.
 *
 * A place is taken in the order: fields, reach of the home, kind. It is left in the order kind, key, reach, and stays empty for
 * QUARANTINE, in which every program that has found the flow before has long ended.
 */
#ifndef CHAINRELAY_FIND_H
#define CHAINRELAY_FIND_H

#include "parse.h"

#ifndef HOMES
#error "HOMES, the number of homes in each table, is given by the compiler's command line (xdp_compile.py)"
#endif

/* The map calls, each program's own: bcc rewrites them, and sees the main file alone. */
INLINE struct flow4 *flow4_at(__u32 place);
INLINE struct flow6 *flow6_at(__u32 place);

INLINE struct tuple4 tuple4_of(const struct iphdr *ip, const struct udphdr *udp)
{
	struct tuple4 tuple = {};

	tuple.source_be32 = ip->saddr;
	tuple.destination_be32 = ip->daddr;
	tuple.source_port_be16 = udp->source;
	tuple.destination_port_be16 = udp->dest;
	return tuple;
}

INLINE struct tuple6 tuple6_of(const struct ipv6hdr *ip, const struct udphdr *udp)
{
	struct tuple6 tuple = {};

	__builtin_memcpy(tuple.source_be32, &ip->saddr, sizeof(tuple.source_be32));
	__builtin_memcpy(tuple.destination_be32, &ip->daddr, sizeof(tuple.destination_be32));
	tuple.source_port_be16 = udp->source;
	tuple.destination_port_be16 = udp->dest;
	return tuple;
}

/* Odd numbers without a pattern: 2^64 by the golden ratio, and by the square root of 2. */
#define MIX_A 0x9e3779b97f4a7c15ULL
#define MIX_B 0xb504f333f9de6485ULL

INLINE __u64 mixed(__u64 sum, __u64 more)
{
	sum = (sum ^ more) * MIX_A;
	return sum ^ sum >> 32;
}

/* The upper half of the product, scaled to the table: all bits of the tuple are in it. */
INLINE __u32 scaled(__u64 sum)
{
	return ((sum * MIX_B >> 32) * HOMES) >> 32;
}

INLINE __u64 ports(__u16 source_be16, __u16 destination_be16)
{
	return (__u64)source_be16 << 16 | destination_be16;
}

INLINE __u32 home4(const struct tuple4 *key)
{
	__u64 sum = mixed(0, (__u64)key->source_be32 << 32 | key->destination_be32);

	return scaled(mixed(sum, ports(key->source_port_be16, key->destination_port_be16)));
}

INLINE __u32 home6(const struct tuple6 *key)
{
	__u64 sum = ports(key->source_port_be16, key->destination_port_be16);

#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		sum = mixed(sum, (__u64)key->source_be32[i] << 32 | key->destination_be32[i]);
	return scaled(sum);
}

INLINE bool same4(const struct tuple4 *a, const struct tuple4 *b)
{
	return !((a->source_be32 ^ b->source_be32) | (a->destination_be32 ^ b->destination_be32) |
		 (a->source_port_be16 ^ b->source_port_be16) | (a->destination_port_be16 ^ b->destination_port_be16));
}

INLINE bool same6(const struct tuple6 *a, const struct tuple6 *b)
{
	__u32 differs = (a->source_port_be16 ^ b->source_port_be16) | (a->destination_port_be16 ^ b->destination_port_be16);

#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		differs |= (a->source_be32[i] ^ b->source_be32[i]) | (a->destination_be32[i] ^ b->destination_be32[i]);
	return !differs;
}

/* From here on `family` is 4 or 6, a constant wherever these are inlined; flows and keys are those of that family. A flow begins with its key. */
INLINE void *flow_at(__u32 place, int family)
{
	return family == 4 ? (void *)flow4_at(place) : (void *)flow6_at(place);
}

INLINE struct state *state_of(void *flow, int family)
{
	return family == 4 ? &((struct flow4 *)flow)->state : &((struct flow6 *)flow)->state;
}

INLINE __u32 home_of(const void *key, int family)
{
	return family == 4 ? home4(key) : home6(key);
}

INLINE bool same(const void *a, const void *b, int family)
{
	return family == 4 ? same4(a, b) : same6(a, b);
}

/* The flow that `key` names, or a null pointer. Of a place that is just being left the kind may be FREE. */
INLINE void *find(const void *key, int family)
{
	__u32 home = home_of(key, family);
	void *flow = flow_at(home, family);

	if (!flow || same(flow, key, family))
		return flow;

	__u32 reach = state_of(flow, family)->reach;

#pragma clang loop unroll(disable)
	for (__u32 i = 1; i <= REACH && i <= reach; i++) {
		BARRIER(i); /* counted up as it stands here: counted down from `reach`, each number is new to the verifier */
		flow = flow_at(home + i, family);
		if (flow && same(flow, key, family))
			return flow;
	}
	return 0;
}

#endif
