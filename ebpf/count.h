/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a flow has forwarded.
 */
#ifndef CHAINRELAY_COUNT_H
#define CHAINRELAY_COUNT_H

#include "parse.h"

#define OWNERS 255 /* CPUs that fit into state.owner */

/* The map calls, each program's own: bcc rewrites them, and sees the main file alone. */
INLINE struct record *record4_of(const struct tuple4 *key);
INLINE struct record *record6_of(const struct tuple6 *key);

/*
 * Exact whichever CPUs carry a session, but for what is under way on another one while the flow is being removed or gets its owner: the first that
 * forwards a datagram of it owns the count beside the flow and needs no lock there, since a program is not interrupted by another on
 * its CPU; all others add to the record's. True for the owner.
 *
 * The datagram that makes an owner counts in the record: should two CPUs have been first at the same time, the later store stands.
 */
INLINE bool count_own(struct state *state, struct count *own, __u32 length)
{
	__u32 cpu = bpf_get_smp_processor_id() + 1;

	if (state->owner != cpu) {
		if (!state->owner && cpu <= OWNERS)
			state->owner = cpu;
		return false;
	}
	own->packets++;
	own->octets += length;
	return true;
}

INLINE void count_other(struct record *record, __u32 length)
{
	if (!record) /* the flow is being removed, and its record was read already */
		return;
	__sync_fetch_and_add(&record->others.packets, 1);
	__sync_fetch_and_add(&record->others.octets, length);
}

INLINE void count_flow4(struct flow4 *flow, const struct tuple4 *key, __u32 length)
{
	if (!count_own(&flow->state, &flow->own, length))
		count_other(record4_of(key), length);
}

INLINE void count_flow6(struct flow6 *flow, const struct tuple6 *key, __u32 length)
{
	if (!count_own(&flow->state, &flow->own, length))
		count_other(record6_of(key), length);
}

#endif
