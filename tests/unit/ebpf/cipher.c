/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Entries of the cipher for test vectors that no datagram can carry (other lengths of associated data, counters from 2^63 on):
 * the same functions as in seal.c, on what the test has put into `scratches`.
 */
#include "aead.h"

#define BPF_LICENSE Dual BSD/GPL

BPF_TABLE("percpu_array", __u32, struct scratch, scratches, 1);

/* Key and nonce given: block 0 and Poly1305's key from it, then the text with blocks 1 and on. */
int test_crypt(struct xdp_md *context)
{
	__u32 only = 0;
	struct scratch *scratch = scratches.lookup(&only);

	if (!scratch)
		return XDP_DROP;
	aead_begin(scratch);
	aead_crypt(scratch);
	return XDP_PASS;
}

/* Poly1305 over the text, which must be whole blocks, with the key that stands in `stream`. */
int test_poly(struct xdp_md *context)
{
	__u32 only = 0;
	struct scratch *scratch = scratches.lookup(&only);
	struct poly1305_sum sum = {};

	if (!scratch)
		return XDP_DROP;
	poly1305_key(scratch);
	aead_sum_text(scratch, &sum);
	poly1305_tag(scratch, &sum, scratch->tag);
	return XDP_PASS;
}
