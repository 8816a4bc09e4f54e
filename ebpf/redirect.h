/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * May the packet go, and where: what is asked before the first write (`admit`, `reachable`), the frame's new addresses, and
 * the `action` that a verdict stands for.
 */
#ifndef CHAINRELAY_REDIRECT_H
#define CHAINRELAY_REDIRECT_H

#include "parse.h"

/* The low half of a MAC's comparison is 16 bits wide: an Ethernet header is only 2-aligned in a frame. */
INLINE bool same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

INLINE enum verdict admit(const struct frame *frame, const struct state *state, __u8 ttl)
{
	if (bpf_jiffies64() >= state->lease_ticks) /* one load; bpf_ktime_get_coarse_ns would tell no more, and takes 10 ns */
		return LEASE_ENDED;
	if (frame->ifindex != state->arrives_on)
		return OTHER_INTERFACE;
	if (!same_mac(frame->ethernet->h_dest, state->arrives_at))
		return OTHER_STATION;
	if (ttl <= 1)
		return TTL_ENDS;
	return CONTINUE;
}

/* The map call, each program's own: bcc rewrites it, and sees the main file alone. XDP_REDIRECT if the interface takes the fast path. */
INLINE int exit_by(__u32 ifindex);

/* Before the first write, although it says where the frame goes: the kernel remembers that until the program ends. */
INLINE bool has_exit(const struct hop *hop)
{
	return hop && hop->ifindex && exit_by(hop->ifindex) == XDP_REDIRECT;
}

INLINE enum verdict reachable(const struct hop *hop, __u32 length)
{
	if (!has_exit(hop))
		return NO_NEXT_HOP;
	if (length > hop->mtu)
		return TOO_LARGE;
	return CONTINUE;
}

/* In three steps: the compiler, which doesn't know of any alignment, would take six. */
INLINE void copy_mac(__u8 *to, const __u8 *from)
{
	__u16 *x = (__u16 *)to;
	const __u16 *y = (const __u16 *)from;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
}

INLINE void rewrite_ethernet(struct frame *frame, const struct hop *hop)
{
	copy_mac(frame->ethernet->h_dest, hop->to);
	copy_mac(frame->ethernet->h_source, hop->from);
}

INLINE int action(enum verdict verdict)
{
	if (verdict < OPENED)
		return verdict == FORWARDED || verdict == ICMP_TRANSLATED ? XDP_REDIRECT : XDP_PASS;
	return verdict <= SEALED_ANSWERED ? XDP_REDIRECT : XDP_DROP;
}

#endif
