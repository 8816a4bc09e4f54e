/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What relay.c and the sealing programs share: how a packet of a sealed flow gets from one to the other, and the wire format.
 */
#ifndef CHAINRELAY_SEALED_H
#define CHAINRELAY_SEALED_H

#include "redirect.h"
#include "rewrite.h"

#define SEALED_OVERHEAD 28 /* key id, counter, tag */

/* Not a verdict: go on in that program. */
#define SEALED_TO(slot) (VERDICTS + (slot))

/*
 * A partial sum is no hindrance to sealing and opening but in generic mode: there the stack may still finish it, over octets that
 * have become others. Where finishing it would change nothing, it does not matter who does it.
 */
INLINE enum verdict sealed_datagram(int slot, struct frame *frame, struct udphdr *udp, __u64 addresses, __u32 length, bool generic)
{
	if (generic && udp->check && udp->check == checksum_pseudo(addresses, udp) &&
	    (length > CHECKSUM_LONGEST || checksum_complete(frame, udp, length) != udp->check))
		return SEALED_PARTIAL_CHECKSUM;
	return SEALED_TO(slot);
}

/* `admit` for a flow that can't go up. The verdicts have the same order there. */
INLINE enum verdict sealed_admit(const struct frame *frame, const struct state *state, __u8 ttl)
{
	enum verdict verdict = admit(frame, state, ttl);

	return verdict ? verdict + (SEALED_LEASE_ENDED - LEASE_ENDED) : CONTINUE;
}

/* The frame ends where the packet does: what Ethernet has padded, or the larger packet before, has no business behind it. */
INLINE bool trim(struct xdp_md *context, __u32 length)
{
	__u64 size = (long)context->data_end - (long)context->data;

	BARRIER(size); /* pointers may not be subtracted in 32 bits */

	int less = (int)(sizeof(struct ethhdr) + length) - (int)size;

	return !less || !bpf_xdp_adjust_tail(context, less);
}

#endif
