/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The fast path: one datagram of a session in, the same datagram with new addresses and ports out (M8), at the network
 * driver, before the stack allocates anything for it.
 *
 *     parse -> look up -> rewrite -> checksum -> redirect -> count
 *     parse.h  here       rewrite.h  checksum.h  redirect.h  here       ICMP errors: icmp.h
 *
 * Whatever is odd goes up untouched, before the first write, and the nftables rules deal with it. All exits have a name
 * (verdict.h) and are counted. Map calls stand in this file only: bcc rewrites them and sees no other file.
 *
 * What belongs to a sealed session goes on in a program of its own (seal.c, seal_icmp.c) by tail call, and never up.
 *
 * Licence: BSD-2-Clause or GPL-2.0 at your choice (the helpers used need no GPL); the rest of the project is Apache-2.0.
 * Compiled by agent/chainrelay/privileged/xdp_load.py; xdp_compile.py gives HOMES and TICK_NS on the command line.
 */
#include "count.h"
#include "find.h"
#include "icmp.h"
#include "redirect.h"
#include "sealed.h"

#define BPF_LICENSE Dual BSD/GPL

/* bcc's own maps; the loader puts the pinned ones of these names in their place. */
BPF_TABLE("array", __u32, struct flow4, flows4, 1);
BPF_TABLE("array", __u32, struct flow6, flows6, 1);
BPF_TABLE("hash", struct tuple4, struct record, records4, 1);
BPF_TABLE("hash", struct tuple6, struct record, records6, 1);
BPF_TABLE("array", __u32, struct hop, hops, 1);
BPF_DEVMAP(exits, 1);
BPF_TABLE("percpu_array", __u32, __u64, verdicts, VERDICTS);
BPF_TABLE("prog", __u32, __u32, programs, SLOTS);

INLINE int exit_by(__u32 ifindex)
{
	return exits.redirect_map(ifindex, 0);
}

INLINE struct flow4 *flow4_at(__u32 place)
{
	return flows4.lookup(&place);
}

INLINE struct flow6 *flow6_at(__u32 place)
{
	return flows6.lookup(&place);
}

INLINE struct record *record4_of(const struct tuple4 *key)
{
	return records4.lookup((struct tuple4 *)key);
}

INLINE struct record *record6_of(const struct tuple6 *key)
{
	return records6.lookup((struct tuple6 *)key);
}

enum mode { NATIVE, GENERIC };

/*
 * A check field that holds just the pseudo-header's sum is what a local socket left for hardware to finish. Native XDP
 * finishes it here. Generic XDP can't know whether the packet behind is still marked so: the stack decides.
 */
INLINE enum verdict can_complete(enum mode mode, __u32 length)
{
	return mode == GENERIC || length > CHECKSUM_LONGEST ? PARTIAL_CHECKSUM : CONTINUE;
}

INLINE enum verdict relay_udp4(struct frame *frame, struct iphdr *ip, __u32 length, enum mode mode)
{
	struct udphdr *udp;
	enum verdict verdict = parse_udp(frame, ip + 1, length - sizeof(*ip), &udp);

	if (verdict)
		return verdict;

	struct tuple4 key = tuple4_of(ip, udp);
	struct flow4 *flow = find(&key, 4);

	if (!flow || flow->state.kind == FREE)
		return NO_SESSION;
	if (flow->state.kind != PLAIN)
		return sealed_datagram(flow->state.kind == OPEN ? SLOT_OPEN4 : SLOT_SEAL4, frame, udp,
				       checksum_addresses4(&key), length - sizeof(*ip), mode == GENERIC);
	verdict = admit(frame, &flow->state, ip->ttl);
	if (verdict)
		return verdict;

	__u32 index = flow->state.hop;
	struct hop *hop = hops.lookup(&index);

	verdict = reachable(hop, length);
	if (verdict)
		return verdict;

	__u64 old = checksum_addresses4(&key), new = checksum_addresses4(&flow->leaves);
	__u64 difference = checksum_difference(old, new);
	bool partial = udp->check && udp->check == checksum_pseudo(old, udp);

	if (partial) {
		verdict = can_complete(mode, length);
		if (verdict)
			return verdict;
		rewrite_udp_complete(frame, udp, length - sizeof(*ip), new, flow->leaves.source_port_be16,
				     flow->leaves.destination_port_be16);
	} else {
		rewrite_udp(udp, difference, flow->leaves.source_port_be16, flow->leaves.destination_port_be16);
	}
	rewrite_ipv4(ip, &flow->leaves, difference);
	rewrite_ethernet(frame, hop);
	count_flow4(flow, &key, length);
	return FORWARDED;
}

INLINE enum verdict relay_udp6(struct frame *frame, struct ipv6hdr *ip, __u32 length, enum mode mode)
{
	struct udphdr *udp;
	enum verdict verdict = parse_udp(frame, ip + 1, length - sizeof(*ip), &udp);

	if (verdict)
		return verdict;

	struct tuple6 key = tuple6_of(ip, udp);
	struct flow6 *flow = find(&key, 6);

	if (!flow || flow->state.kind == FREE)
		return NO_SESSION;
	if (flow->state.kind != PLAIN)
		return sealed_datagram(flow->state.kind == OPEN ? SLOT_OPEN6 : SLOT_SEAL6, frame, udp,
				       checksum_addresses6(&key), length - sizeof(*ip), mode == GENERIC);
	verdict = admit(frame, &flow->state, ip->hop_limit);
	if (verdict)
		return verdict;

	__u32 index = flow->state.hop;
	struct hop *hop = hops.lookup(&index);

	verdict = reachable(hop, length);
	if (verdict)
		return verdict;
	if (!udp->check)
		return NO_CHECKSUM;

	__u64 old = checksum_addresses6(&key), new = checksum_addresses6(&flow->leaves);
	__u64 difference = checksum_difference(old, new);
	bool partial = udp->check == checksum_pseudo(old, udp);

	if (partial) {
		verdict = can_complete(mode, length);
		if (verdict)
			return verdict;
		rewrite_udp_complete(frame, udp, length - sizeof(*ip), new, flow->leaves.source_port_be16,
				     flow->leaves.destination_port_be16);
	} else {
		rewrite_udp(udp, difference, flow->leaves.source_port_be16, flow->leaves.destination_port_be16);
	}
	rewrite_ipv6(ip, &flow->leaves);
	rewrite_ethernet(frame, hop);
	count_flow6(flow, &key, length);
	return FORWARDED;
}

INLINE enum verdict relay_icmp4(struct frame *frame, struct iphdr *ip, __u32 length)
{
	struct error4 *error;
	struct tuple4 key = {};
	enum verdict verdict = parse_error4(frame, ip, length, &error, &key);

	if (verdict)
		return verdict;

	struct flow4 *flow = find(&key, 4);

	if (!flow || flow->state.kind == FREE)
		return ICMP_OTHER;
	if (flow->state.kind != PLAIN)
		return SEALED_TO(SLOT_ERROR4);
	verdict = admit(frame, &flow->state, ip->ttl);
	if (verdict)
		return verdict;

	__u32 index = flow->state.hop;
	struct hop *hop = hops.lookup(&index);

	verdict = reachable(hop, length);
	if (verdict)
		return verdict;
	rewrite_error4(ip, error, &key, &flow->leaves);
	rewrite_ethernet(frame, hop);
	return ICMP_TRANSLATED;
}

INLINE enum verdict relay_icmp6(struct frame *frame, struct ipv6hdr *ip, __u32 length)
{
	struct error6 *error;
	struct tuple6 key = {};
	enum verdict verdict = parse_error6(frame, ip, length, &error, &key);

	if (verdict)
		return verdict;

	struct flow6 *flow = find(&key, 6);

	if (!flow || flow->state.kind == FREE)
		return ICMP_OTHER;
	if (flow->state.kind != PLAIN)
		return SEALED_TO(SLOT_ERROR6);
	verdict = admit(frame, &flow->state, ip->hop_limit);
	if (verdict)
		return verdict;

	__u32 index = flow->state.hop;
	struct hop *hop = hops.lookup(&index);

	verdict = reachable(hop, length);
	if (verdict)
		return verdict;
	rewrite_error6(ip, error, &key, &flow->leaves);
	rewrite_ethernet(frame, hop);
	return ICMP_TRANSLATED;
}

INLINE enum verdict relay_ipv4(struct frame *frame, enum mode mode)
{
	struct iphdr *ip;
	__u32 length;
	enum verdict verdict = parse_ipv4(frame, &ip, &length);

	if (verdict)
		return verdict;
	switch (ip->protocol) {
	case PROTOCOL_UDP:
		return relay_udp4(frame, ip, length, mode);
	case PROTOCOL_ICMP4:
		return relay_icmp4(frame, ip, length);
	default:
		return OTHER_PROTOCOL;
	}
}

INLINE enum verdict relay_ipv6(struct frame *frame, enum mode mode)
{
	struct ipv6hdr *ip;
	__u32 length;
	enum verdict verdict = parse_ipv6(frame, &ip, &length);

	if (verdict)
		return verdict;
	switch (ip->nexthdr) {
	case PROTOCOL_UDP:
		return relay_udp6(frame, ip, length, mode);
	case PROTOCOL_ICMP6:
		return relay_icmp6(frame, ip, length);
	default:
		return OTHER_PROTOCOL;
	}
}

INLINE int relay(struct xdp_md *context, enum mode mode)
{
	struct frame frame;
	enum verdict verdict = parse_ethernet(context, &frame);

	if (!verdict) {
		switch (frame.ethernet->h_proto) {
		case BE16(ETH_P_IP):
			verdict = relay_ipv4(&frame, mode);
			break;
		case BE16(ETH_P_IPV6):
			verdict = relay_ipv6(&frame, mode);
			break;
		default:
			verdict = NOT_IP;
		}
	}

	if (verdict >= SEALED_TO(0)) {
		programs.call(context, verdict - SEALED_TO(0));
		verdict = SEALED_NO_PROGRAM; /* a tail call comes back only if there is nothing to call */
	}

	__u32 index = verdict;
	__u64 *count = verdicts.lookup(&index);

	if (count)
		(*count)++;
	return action(verdict);
}

int chainrelay_native(struct xdp_md *context)
{
	return relay(context, NATIVE);
}

int chainrelay_generic(struct xdp_md *context)
{
	return relay(context, GENERIC);
}
