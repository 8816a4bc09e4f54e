/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * From bytes to headers. Reads only; what is odd gets its verdict here, so that everything behind may assume:
 * Ethernet without tags, an IP header without options that is no fragment, lengths that fit the frame.
 */
#ifndef CHAINRELAY_PARSE_H
#define CHAINRELAY_PARSE_H

#include "layout.h"
#include "verdict.h"
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#define INLINE static __attribute__((always_inline)) inline
/* What the compiler must not see through: a value behind it has no known bounds and no known origin. */
#define BARRIER(x) asm volatile("" : "+r"(x))
/* Bounds that the verifier sees: of the compiler's own comparison it may learn about a register, while the number is read from the stack
 * again (Linux 6.1 does not know that they are the same). */
#define AT_MOST(x, most) asm volatile("if %0 <= %1 goto +1\n%0 = %1\n" : "+r"(x) : "i"(most))
#define NOT_NEGATIVE(x) asm volatile("if %0 s> 0 goto +1\n%0 = 0\n" : "+r"(x))

#define BE16(x) __builtin_bswap16(x)
#define BE32(x) __builtin_bswap32(x)

#define IPV4_FRAGMENT_BITS 0x3fff /* more fragments, and the offset (RFC 791) */
#define PROTOCOL_UDP 17
#define PROTOCOL_ICMP4 1
#define PROTOCOL_ICMP6 58

struct frame {
	struct ethhdr *ethernet;
	void *end;
	__u32 ifindex;
};

INLINE enum verdict parse_ethernet(struct xdp_md *context, struct frame *frame)
{
	frame->ethernet = (void *)(long)context->data;
	frame->end = (void *)(long)context->data_end;
	frame->ifindex = context->ingress_ifindex;
	return (void *)(frame->ethernet + 1) > frame->end ? MALFORMED : CONTINUE;
}

/* The header and, in *length, the whole packet's length as the header says; the frame may be longer (Ethernet pads). */
INLINE enum verdict parse_ipv4(struct frame *frame, struct iphdr **header, __u32 *length)
{
	struct iphdr *ip = (void *)(frame->ethernet + 1);

	if ((void *)(ip + 1) > frame->end || ip->version != 4)
		return MALFORMED;
	if (ip->ihl != 5)
		return ip->ihl < 5 ? MALFORMED : OPTIONS;
	*length = BE16(ip->tot_len);
	if (*length < sizeof(*ip) || *length > (__u32)(frame->end - (void *)ip))
		return MALFORMED;
	if (ip->frag_off & BE16(IPV4_FRAGMENT_BITS))
		return FRAGMENT;
	*header = ip;
	return CONTINUE;
}

INLINE enum verdict parse_ipv6(struct frame *frame, struct ipv6hdr **header, __u32 *length)
{
	struct ipv6hdr *ip = (void *)(frame->ethernet + 1);

	if ((void *)(ip + 1) > frame->end || ip->version != 6)
		return MALFORMED;
	*length = BE16(ip->payload_len) + sizeof(*ip);
	if (*length > (__u32)(frame->end - (void *)ip))
		return MALFORMED;
	switch (ip->nexthdr) {
	case 44: /* fragment */
		return FRAGMENT;
	case 0: case 43: case 60: case 135: case 139: case 140: /* extension headers (IANA), fragment above */
		return OPTIONS;
	}
	*header = ip;
	return CONTINUE;
}

/* `payload` is where the IP header ends, `length` what it says it carries. */
INLINE enum verdict parse_udp(struct frame *frame, void *payload, __u32 length, struct udphdr **header)
{
	struct udphdr *udp = payload;

	if ((void *)(udp + 1) > frame->end || length < sizeof(*udp) || BE16(udp->len) != length)
		return MALFORMED;
	*header = udp;
	return CONTINUE;
}

#endif
