/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * ChaCha20 (RFC 8439 §2.3, §2.4): a block of key stream, and text with the key stream in it. No tables, no branches and no
 * addresses that depend on key or text.
 *
 * Rolled loops on purpose: unrolled, interleaved or with the rotations as multiplications it was slower or the same. The
 * sixteen words live in registers and, most of them, on the stack; key and nonce are read again from memory for the final sum.
 */
#ifndef CHAINRELAY_CHACHA20_H
#define CHAINRELAY_CHACHA20_H

#include "parse.h"

#define CHACHA20_BLOCK 64
#define CHACHA20_DOUBLE_ROUNDS 10

#define ROTATE_LEFT(x, n) ((x) << (n) | (x) >> (32 - (n)))

#define QUARTER_ROUND(a, b, c, d) \
	(a += b, d ^= a, d = ROTATE_LEFT(d, 16), c += d, b ^= c, b = ROTATE_LEFT(b, 12), \
	 a += b, d ^= a, d = ROTATE_LEFT(d, 8), c += d, b ^= c, b = ROTATE_LEFT(b, 7))

/* Block number `counter` of the key stream, XORed into 64 octets at `to`. */
INLINE void chacha20_xor(const struct scratch *scratch, __u32 counter, __u32 *to)
{
	const volatile __u32 *key = scratch->key, *nonce = scratch->nonce;
	__u32 x0 = 0x61707865, x1 = 0x3320646e, x2 = 0x79622d32, x3 = 0x6b206574; /* "expand 32-byte k" */
	__u32 x4 = key[0], x5 = key[1], x6 = key[2], x7 = key[3], x8 = key[4], x9 = key[5], x10 = key[6], x11 = key[7];
	__u32 x12 = counter, x13 = nonce[0], x14 = nonce[1], x15 = nonce[2];

#pragma clang loop unroll(disable)
	for (int i = 0; i < CHACHA20_DOUBLE_ROUNDS; i++) {
		QUARTER_ROUND(x0, x4, x8, x12);
		QUARTER_ROUND(x1, x5, x9, x13);
		QUARTER_ROUND(x2, x6, x10, x14);
		QUARTER_ROUND(x3, x7, x11, x15);
		QUARTER_ROUND(x0, x5, x10, x15);
		QUARTER_ROUND(x1, x6, x11, x12);
		QUARTER_ROUND(x2, x7, x8, x13);
		QUARTER_ROUND(x3, x4, x9, x14);
	}
	to[0] ^= x0 + 0x61707865;
	to[1] ^= x1 + 0x3320646e;
	to[2] ^= x2 + 0x79622d32;
	to[3] ^= x3 + 0x6b206574;
	to[4] ^= x4 + key[0];
	to[5] ^= x5 + key[1];
	to[6] ^= x6 + key[2];
	to[7] ^= x7 + key[3];
	to[8] ^= x8 + key[4];
	to[9] ^= x9 + key[5];
	to[10] ^= x10 + key[6];
	to[11] ^= x11 + key[7];
	to[12] ^= x12 + counter;
	to[13] ^= x13 + nonce[0];
	to[14] ^= x14 + nonce[1];
	to[15] ^= x15 + nonce[2];
}

#endif
