/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Poly1305 (RFC 8439 §2.5) over whole blocks of 16 octets, which is all that the AEAD construction of §2.8 asks for: it pads
 * with zeros. Five limbs of 26 bits: the products of one column fit into 64 bits, and BPF has no wider multiplication.
 * Precomputed powers of r, several blocks at a time: slower or no gain (registers). No branch on key or text.
 */
#ifndef CHAINRELAY_POLY1305_H
#define CHAINRELAY_POLY1305_H

#include "parse.h"

#define POLY1305_BLOCK 16
#define LIMB 0x3ffffff

struct poly1305_sum {
	__u64 h0, h1, h2, h3, h4;
};

/* The key is the first half of a block of key stream. s = 5 r is what a column beyond 2^130 counts below. */
INLINE void poly1305_key(struct scratch *scratch)
{
	const __u32 *key = scratch->stream;
	__u64 t0 = key[0], t1 = key[1], t2 = key[2], t3 = key[3];

	scratch->poly_r[0] = t0 & 0x3ffffff;
	scratch->poly_r[1] = (t0 >> 26 | t1 << 6) & 0x3ffff03;
	scratch->poly_r[2] = (t1 >> 20 | t2 << 12) & 0x3ffc0ff;
	scratch->poly_r[3] = (t2 >> 14 | t3 << 18) & 0x3f03fff;
	scratch->poly_r[4] = t3 >> 8 & 0x00fffff;
#pragma clang loop unroll(full)
	for (int i = 0; i < 5; i++)
		scratch->poly_s[i] = scratch->poly_r[i] * 5;
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		scratch->poly_pad[i] = key[4 + i];
}

/* One block, its four words given. r is read through `volatile`: held over the loop, it would overflow the stack. */
INLINE void poly1305_block(const struct scratch *scratch, struct poly1305_sum *sum, __u64 t0, __u64 t1, __u64 t2, __u64 t3)
{
	const volatile __u32 *r = scratch->poly_r, *s = scratch->poly_s;
	__u64 h0 = sum->h0 + (t0 & LIMB);
	__u64 h1 = sum->h1 + ((t0 >> 26 | t1 << 6) & LIMB);
	__u64 h2 = sum->h2 + ((t1 >> 20 | t2 << 12) & LIMB);
	__u64 h3 = sum->h3 + ((t2 >> 14 | t3 << 18) & LIMB);
	__u64 h4 = sum->h4 + (t3 >> 8 | 1 << 24);
	__u64 d0, d1, d2, d3, d4;

	d0 = h0 * r[0] + h1 * s[4] + h2 * s[3] + h3 * s[2] + h4 * s[1];
	d1 = h0 * r[1] + h1 * r[0] + h2 * s[4] + h3 * s[3] + h4 * s[2];
	d2 = h0 * r[2] + h1 * r[1] + h2 * r[0] + h3 * s[4] + h4 * s[3];
	d3 = h0 * r[3] + h1 * r[2] + h2 * r[1] + h3 * r[0] + h4 * s[4];
	d4 = h0 * r[4] + h1 * r[3] + h2 * r[2] + h3 * r[1] + h4 * r[0];

	d1 += d0 >> 26;
	d2 += d1 >> 26;
	d3 += d2 >> 26;
	d4 += d3 >> 26;
	d0 = (d0 & LIMB) + (d4 >> 26) * 5;
	sum->h1 = (d1 & LIMB) + (d0 >> 26);
	sum->h0 = d0 & LIMB;
	sum->h2 = d2 & LIMB;
	sum->h3 = d3 & LIMB;
	sum->h4 = d4 & LIMB;
}

/* The tag: the sum modulo 2^130 - 5, plus the key's second half, modulo 2^128. */
INLINE void poly1305_tag(const struct scratch *scratch, const struct poly1305_sum *sum, __u32 *tag)
{
	__u64 h0 = sum->h0, h1 = sum->h1, h2 = sum->h2, h3 = sum->h3, h4 = sum->h4;
	__u64 g0, g1, g2, g3, g4, mask, word;

	h2 += h1 >> 26, h1 &= LIMB;
	h3 += h2 >> 26, h2 &= LIMB;
	h4 += h3 >> 26, h3 &= LIMB;
	h0 += (h4 >> 26) * 5, h4 &= LIMB;
	h1 += h0 >> 26, h0 &= LIMB;

	/* minus p, that is plus 5 minus 2^130: taken if that does not become negative */
	g0 = h0 + 5;
	g1 = h1 + (g0 >> 26), g0 &= LIMB;
	g2 = h2 + (g1 >> 26), g1 &= LIMB;
	g3 = h3 + (g2 >> 26), g2 &= LIMB;
	g4 = h4 + (g3 >> 26) - (1 << 26), g3 &= LIMB;
	mask = (g4 >> 63) - 1;
	asm volatile("" : "+r"(mask)); /* or the compiler makes a branch of it */
	h0 = (h0 & ~mask) | (g0 & mask);
	h1 = (h1 & ~mask) | (g1 & mask);
	h2 = (h2 & ~mask) | (g2 & mask);
	h3 = (h3 & ~mask) | (g3 & mask);
	h4 = (h4 & ~mask) | (g4 & mask);

	word = ((h0 | h1 << 26) & 0xffffffff) + scratch->poly_pad[0];
	tag[0] = word;
	word = ((h1 >> 6 | h2 << 20) & 0xffffffff) + scratch->poly_pad[1] + (word >> 32);
	tag[1] = word;
	word = ((h2 >> 12 | h3 << 14) & 0xffffffff) + scratch->poly_pad[2] + (word >> 32);
	tag[2] = word;
	word = ((h3 >> 18 | h4 << 8) & 0xffffffff) + scratch->poly_pad[3] + (word >> 32);
	tag[3] = word;
}

#endif
