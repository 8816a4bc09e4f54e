/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The only place that writes into a datagram's headers (ICMP errors: icmp.h). Nothing here can fail, so a packet is
 * either untouched or rewritten completely. DSCP, ECN, flow label, identification and DF stay as they are.
 */
#ifndef CHAINRELAY_REWRITE_H
#define CHAINRELAY_REWRITE_H

#include "checksum.h"

#define TTL_ONE BE16(0x0100) /* of the header's word that holds TTL and protocol */

/* One hop less, and the header's sum for it and for what the addresses change by. */
INLINE void rewrite_ipv4(struct iphdr *ip, const struct tuple4 *new, __u64 difference)
{
	ip->ttl--;
	ip->check = checksum_update(ip->check, difference - TTL_ONE);
	ip->saddr = new->source_be32;
	ip->daddr = new->destination_be32;
}

INLINE void rewrite_ipv6_address(struct in6_addr *address, const __u32 *words)
{
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		address->in6_u.u6_addr32[i] = words[i];
}

INLINE void rewrite_ipv6(struct ipv6hdr *ip, const struct tuple6 *new)
{
	ip->hop_limit--;
	rewrite_ipv6_address(&ip->saddr, new->source_be32);
	rewrite_ipv6_address(&ip->daddr, new->destination_be32);
}

/* Ports and sum. The addresses change by `difference`; a check of 0 (none, IPv4 only) stays 0, a result of 0 is sent as 0xffff. */
INLINE void rewrite_udp(struct udphdr *udp, __u64 difference, __u16 source_port_be16, __u16 destination_port_be16)
{
	if (udp->check) {
		__u64 old = (__u64)udp->source + udp->dest, new = (__u64)source_port_be16 + destination_port_be16;
		__u16 check = checksum_update(udp->check, difference - old + new);

		udp->check = check ? check : 0xffff;
	}
	udp->source = source_port_be16;
	udp->dest = destination_port_be16;
}

/* Instead of rewrite_udp where the check field holds only the pseudo-header's sum. `addresses` is the new addresses' sum. */
INLINE void rewrite_udp_complete(struct frame *frame, struct udphdr *udp, __u32 length, __u64 addresses,
				 __u16 source_port_be16, __u16 destination_port_be16)
{
	udp->source = source_port_be16;
	udp->dest = destination_port_be16;
	udp->check = checksum_pseudo(addresses, udp);

	__u16 check = checksum_complete(frame, udp, length);

	udp->check = check ? check : 0xffff;
}

#endif
