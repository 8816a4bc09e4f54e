/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a flow has forwarded, and what a verdict means for the packet.
 */
#ifndef CHAINRELAY_COUNT_H
#define CHAINRELAY_COUNT_H

#include "parse.h"

/* Exact whichever CPUs carry a session. A program is not interrupted by another on its CPU, so a place of its own needs no lock. */
INLINE void count_flow(struct account *account, __u32 length)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (cpu < (CPUS <= COUNTS ? COUNTS : COUNTS - 1)) {
		struct count *own = &account->counts[cpu];

		own->packets++;
		own->octets += length;
	} else {
		struct count *shared = &account->counts[COUNTS - 1];

		__sync_fetch_and_add(&shared->packets, 1);
		__sync_fetch_and_add(&shared->octets, length);
	}
}

INLINE int action(enum verdict verdict)
{
	if (verdict < OPENED)
		return verdict == FORWARDED || verdict == ICMP_TRANSLATED ? XDP_REDIRECT : XDP_PASS;
	return verdict <= SEALED_ANSWERED ? XDP_REDIRECT : XDP_DROP;
}

#endif
