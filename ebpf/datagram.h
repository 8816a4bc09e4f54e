/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A datagram of either family with its flow, for the sealing programs: what differs between IPv4 and IPv6 is here, so that they
 * have one body. `family` is a constant wherever it is passed: of each pair the compiler keeps one half.
 */
#ifndef CHAINRELAY_DATAGRAM_H
#define CHAINRELAY_DATAGRAM_H

#include "find.h"
#include "rewrite.h"

#define IP_HEADER(family) ((family) == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr))

struct datagram {
	struct frame frame;
	__u32 length; /* of the packet, as its header says */
	struct iphdr *ip4;
	struct ipv6hdr *ip6;
	struct udphdr *udp;
	struct tuple4 key4;
	struct tuple6 key6;
	struct flow4 *flow4;
	struct flow6 *flow6;
};

/* Parsed and looked up; false where it is none, or none of ours. */
INLINE bool datagram_find(struct xdp_md *context, int family, struct datagram *datagram)
{
	if (parse_ethernet(context, &datagram->frame))
		return false;
	if (family == 4) {
		struct iphdr *ip;

		if (parse_ipv4(&datagram->frame, &ip, &datagram->length) ||
		    parse_udp(&datagram->frame, ip + 1, datagram->length - sizeof(*ip), &datagram->udp))
			return false;
		datagram->ip4 = ip;
		datagram->key4 = tuple4_of(ip, datagram->udp);
		datagram->flow4 = find(&datagram->key4, 4);
		return datagram->flow4;
	}

	struct ipv6hdr *ip;

	if (parse_ipv6(&datagram->frame, &ip, &datagram->length) ||
	    parse_udp(&datagram->frame, ip + 1, datagram->length - sizeof(*ip), &datagram->udp))
		return false;
	datagram->ip6 = ip;
	datagram->key6 = tuple6_of(ip, datagram->udp);
	datagram->flow6 = find(&datagram->key6, 6);
	return datagram->flow6;
}

INLINE const struct state *datagram_state(const struct datagram *datagram, int family)
{
	return family == 4 ? &datagram->flow4->state : &datagram->flow6->state;
}

INLINE __u8 datagram_ttl(const struct datagram *datagram, int family)
{
	return family == 4 ? datagram->ip4->ttl : datagram->ip6->hop_limit;
}

/* The addresses' sum as they arrive, and as they leave. */
INLINE __u64 datagram_old(const struct datagram *datagram, int family)
{
	return family == 4 ? checksum_addresses4(&datagram->key4) : checksum_addresses6(&datagram->key6);
}

INLINE __u64 datagram_new(const struct datagram *datagram, int family)
{
	return family == 4 ? checksum_addresses4(&datagram->flow4->leaves) : checksum_addresses6(&datagram->flow6->leaves);
}

/* Ports and length; the sum of what is behind the UDP header is given. */
INLINE void datagram_rewrite_udp(struct datagram *datagram, int family, __u32 payload, __u64 sum)
{
	struct udphdr *udp = datagram->udp;
	__u16 check;

	udp->source = family == 4 ? datagram->flow4->leaves.source_port_be16 : datagram->flow6->leaves.source_port_be16;
	udp->dest = family == 4 ? datagram->flow4->leaves.destination_port_be16 : datagram->flow6->leaves.destination_port_be16;
	udp->len = BE16(payload + sizeof(*udp));
	sum += (__u64)udp->source + udp->dest + udp->len;
	check = ~checksum_fold(sum + checksum_pseudo(datagram_new(datagram, family), udp));
	udp->check = check ? check : 0xffff;
}

/* Addresses, TTL, and the packet's new length. */
INLINE void datagram_rewrite_ip(struct datagram *datagram, int family, __u32 length)
{
	if (family == 4) {
		struct iphdr *ip = datagram->ip4;
		__u16 length_be16 = BE16(length);

		rewrite_ipv4(ip, &datagram->flow4->leaves,
			     checksum_difference(datagram_old(datagram, 4) + ip->tot_len, datagram_new(datagram, 4) + length_be16));
		ip->tot_len = length_be16;
	} else {
		rewrite_ipv6(datagram->ip6, &datagram->flow6->leaves);
		datagram->ip6->payload_len = BE16(length - sizeof(*datagram->ip6));
	}
}

/* The headers lie elsewhere in the frame by now: false if the frame does not hold them and `more` octets. */
INLINE bool datagram_moved(struct xdp_md *context, int family, struct datagram *datagram, __u32 more)
{
	struct ethhdr *ethernet = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;

	datagram->frame.ethernet = ethernet;
	if (family == 4) {
		datagram->ip4 = (void *)(ethernet + 1);
		datagram->udp = (void *)(datagram->ip4 + 1);
	} else {
		datagram->ip6 = (void *)(ethernet + 1);
		datagram->udp = (void *)(datagram->ip6 + 1);
	}
	return (void *)(datagram->udp + 1) + more <= end;
}

#endif
