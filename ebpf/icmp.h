/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * ICMP errors about datagrams that this program forwarded: conntrack has never seen those, so nobody else could translate
 * them (frag-needed above all, or path MTU discovery through two relays fails).
 *
 * The quote holds the tuple with which the datagram left here. Turned round it is the key of the opposite direction, whose
 * `leaves` says how the offender's side knows the session. The error then comes from our own endpoint there: that is
 * what conntrack does as well, and it shows nobody the addresses behind us.
 */
#ifndef CHAINRELAY_ICMP_H
#define CHAINRELAY_ICMP_H

#include "rewrite.h"

/* The UAPI headers for ICMP draw in the C library's; eight octets are quicker written than shimmed. */
struct icmp {
	__u8 type;
	__u8 code;
	__u16 check;
	__u32 rest; /* the MTU among others: passed on as it is, our rewriting changes no length */
};

enum { DESTINATION_UNREACHABLE = 3, TIME_EXCEEDED = 11, PARAMETER_PROBLEM = 12 }; /* RFC 792 */
enum { FIRST_ERROR6 = 1, LAST_ERROR6 = 4 }; /* RFC 4443: unreachable, too big, time exceeded, parameter problem */

struct error4 {
	struct icmp icmp;
	struct iphdr quoted;
	struct udphdr udp; /* RFC 792 promises 8 octets behind the quoted header: all of it */
};

struct error6 {
	struct icmp icmp;
	struct ipv6hdr quoted;
	struct udphdr udp;
};

#define QUOTE4_WORDS 7  /* 20 + 8 octets */
#define QUOTE6_WORDS 12 /* 40 + 8 octets */

INLINE enum verdict parse_error4(struct frame *frame, const struct iphdr *ip, __u32 length, struct error4 **error,
				 struct tuple4 *key)
{
	struct error4 *at = (void *)(ip + 1);

	if ((void *)(at + 1) > frame->end || length < sizeof(*ip) + sizeof(*at))
		return ICMP_OTHER;
	if (at->icmp.type != DESTINATION_UNREACHABLE && at->icmp.type != TIME_EXCEEDED && at->icmp.type != PARAMETER_PROBLEM)
		return ICMP_OTHER;
	if (at->quoted.version != 4 || at->quoted.ihl != 5 || at->quoted.protocol != PROTOCOL_UDP ||
	    at->quoted.frag_off & BE16(0x1fff) || at->quoted.saddr != ip->daddr)
		return ICMP_OTHER;
	key->source_be32 = at->quoted.daddr;
	key->destination_be32 = at->quoted.saddr;
	key->source_port_be16 = at->udp.dest;
	key->destination_port_be16 = at->udp.source;
	*error = at;
	return CONTINUE;
}

INLINE void rewrite_error4(struct iphdr *ip, struct error4 *error, const struct tuple4 *key, const struct tuple4 *new)
{
	__u64 inner = checksum_difference(checksum_addresses4(key), checksum_addresses4(new));
	__u64 outer = checksum_difference((__u64)ip->saddr + ip->daddr, checksum_addresses4(new));
	__u64 old = checksum_words((void *)&error->quoted, QUOTE4_WORDS);

	error->quoted.check = checksum_update(error->quoted.check, inner);
	error->quoted.saddr = new->destination_be32;
	error->quoted.daddr = new->source_be32;
	rewrite_udp(&error->udp, inner, new->destination_port_be16, new->source_port_be16);
	error->icmp.check = checksum_update(
		error->icmp.check, checksum_difference(old, checksum_words((void *)&error->quoted, QUOTE4_WORDS)));
	rewrite_ipv4(ip, new, outer);
}

INLINE enum verdict parse_error6(struct frame *frame, const struct ipv6hdr *ip, __u32 length, struct error6 **error,
				 struct tuple6 *key)
{
	struct error6 *at = (void *)(ip + 1);

	if ((void *)(at + 1) > frame->end || length < sizeof(*ip) + sizeof(*at))
		return ICMP_OTHER;
	if (at->icmp.type < FIRST_ERROR6 || at->icmp.type > LAST_ERROR6)
		return ICMP_OTHER;
	if (at->quoted.version != 6 || at->quoted.nexthdr != PROTOCOL_UDP)
		return ICMP_OTHER;

	__u32 differs = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++) {
		key->source_be32[i] = at->quoted.daddr.in6_u.u6_addr32[i];
		key->destination_be32[i] = at->quoted.saddr.in6_u.u6_addr32[i];
		differs |= key->destination_be32[i] ^ ip->daddr.in6_u.u6_addr32[i];
	}
	if (differs)
		return ICMP_OTHER;
	key->source_port_be16 = at->udp.dest;
	key->destination_port_be16 = at->udp.source;
	*error = at;
	return CONTINUE;
}

INLINE void rewrite_error6(struct ipv6hdr *ip, struct error6 *error, const struct tuple6 *key, const struct tuple6 *new)
{
	/* ICMPv6 sums the outer addresses too (RFC 4443 §2.3) */
	__u64 old = checksum_words((void *)&ip->saddr, 8) + checksum_words((void *)&error->quoted, QUOTE6_WORDS);

	rewrite_ipv6_address(&error->quoted.saddr, new->destination_be32);
	rewrite_ipv6_address(&error->quoted.daddr, new->source_be32);
	rewrite_udp(&error->udp, checksum_difference(checksum_addresses6(key), checksum_addresses6(new)),
		    new->destination_port_be16, new->source_port_be16);
	rewrite_ipv6(ip, new);
	error->icmp.check = checksum_update(
		error->icmp.check, checksum_difference(old, checksum_words((void *)&ip->saddr, 8) +
								    checksum_words((void *)&error->quoted, QUOTE6_WORDS)));
}

#endif
