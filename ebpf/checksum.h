/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Internet checksums (RFC 1071), updated by the difference (RFC 1624, equation 3) or, where a local socket has left only
 * the pseudo-header's sum for hardware that there isn't, computed in full.
 *
 * Sums are 64-bit accumulators of native words: ones' complement sums do not care about byte order (RFC 1071 §2.B), and
 * 2^32 additions fit before anything can be lost.
 */
#ifndef CHAINRELAY_CHECKSUM_H
#define CHAINRELAY_CHECKSUM_H

#include "parse.h"

/* The longest UDP datagram (header included) whose sum is computed in full: what fits into one page of a driver's ring. */
#define CHECKSUM_LONGEST 3584

INLINE __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

INLINE __u64 checksum_words(const __u32 *words, int count)
{
	__u64 sum = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < count; i++)
		sum += words[i];
	return sum;
}

INLINE __u64 checksum_addresses4(const struct tuple4 *tuple)
{
	return (__u64)tuple->source_be32 + tuple->destination_be32;
}

INLINE __u64 checksum_addresses6(const struct tuple6 *tuple)
{
	return checksum_words(tuple->source_be32, 4) + checksum_words(tuple->destination_be32, 4);
}

/* A multiple of 2^16 - 1, so nothing to a ones' complement sum; larger than any sum of addresses and ports. */
#define CHECKSUM_NOTHING 0xffffffffffffULL

/* What turns the sum `old` into `new`, both below 2^47, neither folded: one difference serves all checks over the same fields. */
INLINE __u64 checksum_difference(__u64 old, __u64 new)
{
	return CHECKSUM_NOTHING - old + new;
}

INLINE __u16 checksum_update(__u16 check, __u64 difference)
{
	return ~checksum_fold((__u16)~check + difference);
}

/* What a socket writes into udp->check when the sum is left to the hardware: the pseudo-header's, not complemented. */
INLINE __u16 checksum_pseudo(__u64 addresses, const struct udphdr *udp)
{
	return checksum_fold(addresses + BE16(PROTOCOL_UDP) + udp->len);
}

/* The full sum of a datagram whose check field holds the pseudo-header's sum: that is the start value. 0 when too long. */
INLINE __u16 checksum_complete(struct frame *frame, struct udphdr *udp, __u32 length)
{
	__u8 *at = (void *)udp;
	__u64 sum = 0;
	__u32 done = 0;

#pragma clang loop unroll(disable)
	for (; done + 4 <= length && done < CHECKSUM_LONGEST; done += 4) {
		if ((void *)at + done + 4 > frame->end)
			break;
		sum += *(__u32 *)(at + done);
	}
	if (done + 2 <= length && (void *)at + done + 2 <= frame->end) {
		sum += *(__u16 *)(at + done);
		done += 2;
	}
	if (done < length && (void *)at + done + 1 <= frame->end)
		sum += at[done];
	return ~checksum_fold(sum);
}

#endif
