/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Changes in place. Written by bpf(2), a value is replaced whole, and what the other CPU counted meanwhile is lost; these
 * programs change the fields that may change inside the live entry and answer what was counted since the last renewal, to
 * the packet. They are attached nowhere: the daemon runs them with BPF_PROG_TEST_RUN, the "frame" being an array of records
 * (layout.h: renewal4, renewal6, ending), and gets the frame back with the answers filled in.
 *
 * For keys it is more than counts: a counter that went back would repeat, and a value that bpf(2) replaces or deletes
 * stays readable in freed memory. So a key ends here, and before it is deleted it is made zeros here.
 */
#include "parse.h"

#define BPF_LICENSE Dual BSD/GPL

#define RECORDS 64 /* more than fit into the frame of a test run */

/* bcc's own maps; the loader puts the pinned ones of these names in their place. */
BPF_TABLE("hash", struct tuple4, struct flow4, flows4, 1);
BPF_TABLE("hash", struct tuple6, struct flow6, flows6, 1);
BPF_TABLE("hash", struct seal_key, struct seal, seals, 1);

INLINE void renew(struct state *state, struct account *account, __u64 lease_ns, __u32 hop, __u32 arrives_on,
		  const __u8 *arrives_at, __u64 *packets, __u64 *octets)
{
	__u64 now_packets = 0, now_octets = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < COUNTS; i++) {
		now_packets += *(volatile __u64 *)&account->counts[i].packets;
		now_octets += *(volatile __u64 *)&account->counts[i].octets;
	}

	state->hop = hop;
	state->arrives_on = arrives_on;
	__builtin_memcpy(state->arrives_at, arrives_at, ETH_ALEN);
	state->lease_ns = lease_ns;
	*packets = now_packets - account->packets_told;
	*octets = now_octets - account->octets_told;
	account->packets_told = now_packets;
	account->octets_told = now_octets;
}

int chainrelay_renew4(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct renewal4 *record = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	for (int i = 0; i < RECORDS; i++, record++) {
		if ((void *)(record + 1) > end)
			break;

		struct tuple4 key = record->key;
		struct flow4 *flow = flows4.lookup(&key);

		record->found = !!flow;
		if (!flow)
			continue;
		if (record->rekey)
			flow->key_be32 = record->key_be32;
		else
			renew(&flow->state, &flow->account, record->lease_ns, record->hop, record->arrives_on,
			      record->arrives_at, &record->packets, &record->octets);
	}
	return XDP_PASS;
}

int chainrelay_renew6(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct renewal6 *record = (void *)(long)context->data;

#pragma clang loop unroll(disable)
	for (int i = 0; i < RECORDS; i++, record++) {
		if ((void *)(record + 1) > end)
			break;

		struct tuple6 key = record->key;
		struct flow6 *flow = flows6.lookup(&key);

		record->found = !!flow;
		if (!flow)
			continue;
		if (record->rekey)
			flow->key_be32 = record->key_be32;
		else
			renew(&flow->state, &flow->account, record->lease_ns, record->hop, record->arrives_on,
			      record->arrives_at, &record->packets, &record->octets);
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
