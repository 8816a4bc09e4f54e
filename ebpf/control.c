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

#define KEYS 64 /* more than fit into the frame of a test run */
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

INLINE struct record *record_of(const void *key, int family)
{
	if (family == 4)
		return records4.lookup((struct tuple4 *)key);
	return records6.lookup((struct tuple6 *)key);
}

/* A key in a frame is copied before a map is asked for it. */
union tuple {
	struct tuple4 four;
	struct tuple6 six;
};

INLINE union tuple copy_of(const void *key, int family)
{
	union tuple copy;

	if (family == 4)
		copy.four = *(const struct tuple4 *)key;
	else
		copy.six = *(const struct tuple6 *)key;
	return copy;
}

/* All but the key and `state`: where its datagrams leave, and a count of zero. */
INLINE void fill_rest(void *to, const void *from, int family)
{
	if (family == 4) {
		((struct flow4 *)to)->leaves = ((const struct flow4 *)from)->leaves;
		((struct flow4 *)to)->own = (struct count){};
	} else {
		((struct flow6 *)to)->leaves = ((const struct flow6 *)from)->leaves;
		((struct flow6 *)to)->own = (struct count){};
	}
}

INLINE void name(void *flow, const union tuple *key, int family)
{
	if (family == 4)
		((struct flow4 *)flow)->key = key->four;
	else
		((struct flow6 *)flow)->key = key->six;
}

/* The place in which the flow `from` of the frame lies from now on, plus one; 0: none. */
INLINE __u32 place(void *from, int family)
{
	union tuple key = copy_of(from, family);
	struct record *record = record_of(&key, family);
	__u32 home = home_of(&key, family);
	void *first = flow_at(home, family);

	if (!record || !first)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 away = 0; away <= REACH; away++) {
		void *to = flow_at(home + away, family);

		if (!to || !is_empty(state_of(to, family)))
			continue;
		fill_rest(to, from, family);
		fill(state_of(to, family), state_of(from, family), record->lease_ns);
		name(to, &key, family);
		show(state_of(to, family), state_of(first, family), away, state_of(from, family)->kind);
		record->place = home + away + 1;
		return record->place;
	}
	return 0;
}

/* How far the home still reaches, now that one of its flows is gone. From the far end, and straight into memory: to the verifier a number
 * that the loop brings along would make every turn a case of its own. */
INLINE void draw_in(__u32 home, int family)
{
	void *first = flow_at(home, family);
	__u32 away;

	if (!first || !state_of(first, family)->reach)
		return;
#pragma clang loop unroll(disable)
	for (away = REACH; away; away--) {
		void *flow = flow_at(home + away, family);

		if (flow && state_of(flow, family)->kind != FREE && home_of(flow, family) == home)
			break;
	}
	state_of(first, family)->reach = away;
}

INLINE void leave(void *flow, const union tuple *key, int family)
{
	union tuple nobody = {};

	state_of(flow, family)->kind = FREE;
	state_of(flow, family)->lease_ticks = bpf_jiffies64();
	IN_ORDER();
	name(flow, &nobody, family);
	draw_in(home_of(key, family), family);
}

INLINE void renew(struct state *state, struct record *record, const struct asked *asked)
{
	record->lease_ns = asked->lease_ns;
	if (!asked->lease_ns) { /* the rest stays: a datagram that was admitted just now is still on its way */
		state->lease_ticks = 0;
		return;
	}
	state->hop = asked->hop;
	state->arrives_on = asked->arrives_on;
	__builtin_memcpy(state->arrives_at, asked->arrives_at, ETH_ALEN);
	state->lease_ticks = ticks_of(asked->lease_ns);
}

INLINE void tell(const struct count *own, struct record *record, struct asked *asked)
{
	__u64 now_packets = *(volatile __u64 *)&own->packets + *(volatile __u64 *)&record->others.packets;
	__u64 now_octets = *(volatile __u64 *)&own->octets + *(volatile __u64 *)&record->others.octets;

	asked->packets = now_packets - record->packets_told;
	asked->octets = now_octets - record->octets_told;
	record->packets_told = now_packets;
	record->octets_told = now_octets;
}

INLINE const struct count *count_of(const void *flow, int family)
{
	return family == 4 ? &((const struct flow4 *)flow)->own : &((const struct flow6 *)flow)->own;
}

/* The flow in its place, its record too; a null pointer for one that is not there. */
INLINE void *held(const union tuple *key, struct record **record, int family)
{
	void *flow;

	*record = record_of(key, family);
	flow = *record && (*record)->place ? flow_at((*record)->place - 1, family) : 0;
	flow = flow && state_of(flow, family)->kind != FREE && same(flow, key, family) ? flow : 0;
	BARRIER(flow); /* who asks whether it is there asks the pointer itself: what else decides that, Linux 6.1 does not connect with it */
	return flow;
}

INLINE void control(const void *named, struct asked *asked, int family)
{
	union tuple key = copy_of(named, family);
	struct record *record;
	void *flow = held(&key, &record, family);

	asked->found = !!flow;
	if (!flow || !record)
		return;
	if (asked->what == REKEY) {
		record->key_be32 = asked->key_be32;
		return;
	}
	renew(state_of(flow, family), record, asked);
	tell(count_of(flow, family), record, asked);
}

INLINE void remove(const void *named, struct asked *asked, int family)
{
	union tuple key = copy_of(named, family);
	struct record *record;
	void *flow = held(&key, &record, family);

	asked->found = !!flow;
	if (!flow || !record)
		return;
	leave(flow, &key, family);
	record->place = 0;
}

/* One after the other, as many as the frame holds, at most `most`: each is a case of its own to the verifier, and with every flow more Linux 6.1
 * looks at twice as many. */
#define FOR_EACH(record, most) for (int i = 0; i < most && (void *)(record + 1) <= end; i++, record++)

int chainrelay_place4(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct placing4 *placing = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	FOR_EACH(placing, AT_ONCE)
		placing->place = place(&placing->flow, 4);
	return XDP_PASS;
}

int chainrelay_place6(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct placing6 *placing = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	FOR_EACH(placing, AT_ONCE)
		placing->place = place(&placing->flow, 6);
	return XDP_PASS;
}

int chainrelay_renew4(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct renewal4 *renewal = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	FOR_EACH(renewal, AT_ONCE)
		control(&renewal->key, &renewal->asked, 4);
	return XDP_PASS;
}

int chainrelay_renew6(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct renewal6 *renewal = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	FOR_EACH(renewal, AT_ONCE)
		control(&renewal->key, &renewal->asked, 6);
	return XDP_PASS;
}

int chainrelay_remove4(struct xdp_md *context)
{
	struct renewal4 *removal = (void *)(long)context->data;

	if ((void *)(removal + 1) <= (void *)(long)context->data_end)
		remove(&removal->key, &removal->asked, 4);
	return XDP_PASS;
}

int chainrelay_remove6(struct xdp_md *context)
{
	struct renewal6 *removal = (void *)(long)context->data;

	if ((void *)(removal + 1) <= (void *)(long)context->data_end)
		remove(&removal->key, &removal->asked, 6);
	return XDP_PASS;
}

int chainrelay_end_keys(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct ending *record = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	FOR_EACH(record, KEYS) {
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
