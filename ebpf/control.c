/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The only hand that writes into the tables of flows and changes what stands there. Written by bpf(2), a value is replaced whole, and
 * what another CPU counted meanwhile is lost; these programs change single fields of the live entry and answer what was
 * counted since the last renewal, to the packet. They are attached nowhere: the daemon runs them with BPF_PROG_TEST_RUN, one at a
 * time, the "frame" being an array of records (layout.h: placing, renewal, ending), and gets the frame back with the answers.
 *
 * For keys it is more than counts: a counter that went back would repeat, and a value that bpf(2) replaces or deletes
 * stays readable in freed memory. So a key ends here, and before it is deleted it is made zeros here.
 */
#include "find.h"

#define BPF_LICENSE Dual BSD/GPL

#ifndef TICK_NS
#error "TICK_NS, how long a jiffy is, is given by the compiler's command line (xdp_compile.py)"
#endif

#define RECORDS 64 /* more than fit into the frame of a test run */
#define QUARANTINE (100000000ULL / TICK_NS + 1) /* ticks: a program takes microseconds, but the machine below may take its CPU away */

/* bcc's own maps; the loader puts the pinned ones of these names in their place. */
BPF_TABLE("array", __u32, struct flow4, flows4, 1);
BPF_TABLE("array", __u32, struct flow6, flows6, 1);
BPF_TABLE("hash", struct tuple4, struct record, records4, 1);
BPF_TABLE("hash", struct tuple6, struct record, records6, 1);
BPF_TABLE("hash", struct seal_key, struct seal, seals, 1);

/* What stands before it is written before what follows, for other CPUs as well: x86 keeps that order (xdp_compile.py refuses others), the compiler must. */
#define IN_ORDER() asm volatile("" ::: "memory")

INLINE struct flow4 *flow4_at(__u32 place)
{
	return flows4.lookup(&place);
}

INLINE struct flow6 *flow6_at(__u32 place)
{
	return flows6.lookup(&place);
}

/* Jiffies follow CLOCK_MONOTONIC. Up to two ticks too early (one rounded off, one that the coarse clock is behind), never too late. */
INLINE __u64 ticks_of(__u64 lease_ns)
{
	__u64 now_ns = bpf_ktime_get_ns();

	return lease_ns > now_ns ? bpf_jiffies64() + (lease_ns - now_ns) / TICK_NS : 0;
}

INLINE bool is_empty(const struct state *state)
{
	return state->kind == FREE && (!state->lease_ticks || bpf_jiffies64() - state->lease_ticks >= QUARANTINE);
}

/* The place is another's home as well, which it stays: `reach` does not change. */
INLINE void fill(struct state *to, const struct state *from, __u64 lease_ns)
{
	to->lease_ticks = ticks_of(lease_ns);
	to->arrives_on = from->arrives_on;
	__builtin_memcpy(to->arrives_at, from->arrives_at, ETH_ALEN);
	to->hop = from->hop;
	to->owner = 0;
}

INLINE void show(struct state *state, struct state *home, __u32 away, __u8 kind)
{
	IN_ORDER();
	if (home->reach < away)
		home->reach = away;
	IN_ORDER();
	state->kind = kind;
}

INLINE __u32 place4(const struct flow4 *from)
{
	struct tuple4 key = from->key;
	struct record *record = records4.lookup(&key);
	__u32 home = home4(&key);
	struct flow4 *first = flow4_at(home);

	if (!record || !first)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 away = 0; away <= REACH; away++) {
		struct flow4 *to = flow4_at(home + away);

		if (!to || !is_empty(&to->state))
			continue;
		to->own.packets = 0;
		to->own.octets = 0;
		to->leaves = from->leaves;
		fill(&to->state, &from->state, record->lease_ns);
		to->key = key;
		show(&to->state, &first->state, away, from->state.kind);
		record->place = home + away + 1;
		return record->place;
	}
	return 0;
}

INLINE __u32 place6(const struct flow6 *from)
{
	struct tuple6 key = from->key;
	struct record *record = records6.lookup(&key);
	__u32 home = home6(&key);
	struct flow6 *first = flow6_at(home);

	if (!record || !first)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 away = 0; away <= REACH; away++) {
		struct flow6 *to = flow6_at(home + away);

		if (!to || !is_empty(&to->state))
			continue;
		to->own.packets = 0;
		to->own.octets = 0;
		to->leaves = from->leaves;
		fill(&to->state, &from->state, record->lease_ns);
		to->key = key;
		show(&to->state, &first->state, away, from->state.kind);
		record->place = home + away + 1;
		return record->place;
	}
	return 0;
}

/* How far the home still reaches, now that one of its flows is gone. */
INLINE void draw_in4(__u32 home)
{
	struct flow4 *first = flow4_at(home);
	__u32 reach = 0;

	if (!first || !first->state.reach)
		return;
#pragma clang loop unroll(disable)
	for (__u32 away = 1; away <= REACH; away++) {
		struct flow4 *flow = flow4_at(home + away);

		if (flow && flow->state.kind != FREE && home4(&flow->key) == home)
			reach = away;
	}
	first->state.reach = reach;
}

INLINE void draw_in6(__u32 home)
{
	struct flow6 *first = flow6_at(home);
	__u32 reach = 0;

	if (!first || !first->state.reach)
		return;
#pragma clang loop unroll(disable)
	for (__u32 away = 1; away <= REACH; away++) {
		struct flow6 *flow = flow6_at(home + away);

		if (flow && flow->state.kind != FREE && home6(&flow->key) == home)
			reach = away;
	}
	first->state.reach = reach;
}

INLINE void leave(struct state *state)
{
	state->kind = FREE;
	state->lease_ticks = bpf_jiffies64();
	IN_ORDER();
}

INLINE void renew(struct state *state, struct record *record, __u64 lease_ns, __u16 hop, __u32 arrives_on, const __u8 *arrives_at)
{
	record->lease_ns = lease_ns;
	if (!lease_ns) { /* the rest stays: a datagram that was admitted just now is still on its way */
		state->lease_ticks = 0;
		return;
	}
	state->hop = hop;
	state->arrives_on = arrives_on;
	__builtin_memcpy(state->arrives_at, arrives_at, ETH_ALEN);
	state->lease_ticks = ticks_of(lease_ns);
}

INLINE void tell(const struct count *own, struct record *record, __u64 *packets, __u64 *octets)
{
	__u64 now_packets = *(volatile __u64 *)&own->packets + *(volatile __u64 *)&record->others.packets;
	__u64 now_octets = *(volatile __u64 *)&own->octets + *(volatile __u64 *)&record->others.octets;

	*packets = now_packets - record->packets_told;
	*octets = now_octets - record->octets_told;
	record->packets_told = now_packets;
	record->octets_told = now_octets;
}

int chainrelay_place4(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct placing4 *placing = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	for (int i = 0; i < RECORDS; i++, placing++) {
		if ((void *)(placing + 1) > end)
			break;
		placing->place = place4(&placing->flow);
	}
	return XDP_PASS;
}

int chainrelay_place6(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct placing6 *placing = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	for (int i = 0; i < RECORDS; i++, placing++) {
		if ((void *)(placing + 1) > end)
			break;
		placing->place = place6(&placing->flow);
	}
	return XDP_PASS;
}

int chainrelay_renew4(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct renewal4 *renewal = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	for (int i = 0; i < RECORDS; i++, renewal++) {
		if ((void *)(renewal + 1) > end)
			break;

		struct tuple4 key = renewal->key;
		struct record *record = records4.lookup(&key);
		struct flow4 *flow = record && record->place ? flow4_at(record->place - 1) : 0;

		renewal->found = flow && flow->state.kind != FREE && same4(&flow->key, &key);
		if (!renewal->found || !flow || !record)
			continue;
		if (renewal->what == REKEY) {
			record->key_be32 = renewal->key_be32;
			continue;
		}
		if (renewal->what == REMOVE) {
			leave(&flow->state);
			__builtin_memset(&flow->key, 0, sizeof(flow->key));
			record->place = 0;
			draw_in4(home4(&key));
			continue;
		}
		renew(&flow->state, record, renewal->lease_ns, renewal->hop, renewal->arrives_on, renewal->arrives_at);
		tell(&flow->own, record, &renewal->packets, &renewal->octets);
	}
	return XDP_PASS;
}

int chainrelay_renew6(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct renewal6 *renewal = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	for (int i = 0; i < RECORDS; i++, renewal++) {
		if ((void *)(renewal + 1) > end)
			break;

		struct tuple6 key = renewal->key;
		struct record *record = records6.lookup(&key);
		struct flow6 *flow = record && record->place ? flow6_at(record->place - 1) : 0;

		renewal->found = flow && flow->state.kind != FREE && same6(&flow->key, &key);
		if (!renewal->found || !flow || !record)
			continue;
		if (renewal->what == REKEY) {
			record->key_be32 = renewal->key_be32;
			continue;
		}
		if (renewal->what == REMOVE) {
			leave(&flow->state);
			__builtin_memset(&flow->key, 0, sizeof(flow->key));
			record->place = 0;
			draw_in6(home6(&key));
			continue;
		}
		renew(&flow->state, record, renewal->lease_ns, renewal->hop, renewal->arrives_on, renewal->arrives_at);
		tell(&flow->own, record, &renewal->packets, &renewal->octets);
	}
	return XDP_PASS;
}

int chainrelay_end_keys(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct ending *record = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	for (int i = 0; i < RECORDS; i++, record++) {
		if ((void *)(record + 1) > end)
			break;

		struct seal_key key = record->key;
		struct seal *seal = seals.lookup(&key);

		record->found = !!seal;
		if (!seal)
			continue;

		__u64 ends_ns = record->ends_ns, sealed;
		__u32 wipe = record->wipe;

		bpf_spin_lock(&seal->lock);
		sealed = seal->next;
		seal->ends_ns = ends_ns;
		if (wipe) {
			seal->next = SEALED_MOST; /* a program that still holds the entry seals nothing by zeros */
			seal->top = ~0ULL;        /* nor opens */
			__builtin_memset(seal->open_key, 0, KEY_OCTETS);
		}
		bpf_spin_unlock(&seal->lock);
		record->sealed = sealed;
		record->opened = seal->opened;
		record->forged = seal->forged;
		record->replayed = seal->replayed;
	}
	return XDP_PASS;
}
