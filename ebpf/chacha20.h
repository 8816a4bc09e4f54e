/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * ChaCha20 (RFC 8439 §2.3, §2.4): a block of key stream, and text with the key stream in it. No tables, no branches and no
 * addresses that depend on key or text.
 *
 * The rounds are written for BPF's registers by hand. Sixteen words do not fit into ten of them, and what a compiler leaves there costs
 * 80 loads and stores for each double round; here nine words are in registers, and the ones that come up again last make room
 * (Belady): 40. 32-bit arithmetic, which bcc's compiler does not use (its CPU is v1), is Linux 5.1's.
 */
#ifndef CHAINRELAY_CHACHA20_H
#define CHAINRELAY_CHACHA20_H

#include "parse.h"

#define CHACHA20_BLOCK 64
#define CHACHA20_DOUBLE_ROUNDS 10

#define LOAD(w, n) #w " = *(u32 *)%[x" #n "]\n"
#define STORE(w, n) "*(u32 *)%[x" #n "] = " #w "\n"
#define SWAP(w, out, in) STORE(w, out) LOAD(w, in)
#define ADD(w, v) #w " += " #v "\n"
#define XOR(w, v) #w " ^= " #v "\n"
#define ROTATE_LEFT(w, n, rest) "w9 = " #w "\n" #w " <<= " #n "\n" "w9 >>= " #rest "\n" #w " |= w9\n"

/* One step of two quarter rounds (p += q, r ^= p, r <<<= n), which have nothing to do with each other: the CPU does both at once. */
#define STEPS(p, q, r, v, w, x, n, rest) ADD(p, q) ADD(v, w) XOR(r, p) XOR(x, v) ROTATE_LEFT(r, n, rest) ROTATE_LEFT(x, n, rest)
#define QUARTER_ROUNDS(a, b, c, d, e, f, g, h) \
	STEPS(a, b, d, e, f, h, 16, 16) STEPS(c, d, b, g, h, f, 12, 20) STEPS(a, b, d, e, f, h, 8, 24) STEPS(c, d, b, g, h, f, 7, 25)

#define WORDS 16 /* and behind them how many double rounds are left */

INLINE void chacha20_rounds(__u32 *x)
{
	__u64 all[10]; /* an operand for each register: none keeps anything over this, and clang has no names for BPF's */

	asm volatile(
		LOAD(w0, 2) LOAD(w1, 3) LOAD(w2, 4) LOAD(w3, 7) LOAD(w4, 8) LOAD(w5, 9) LOAD(w6, 12) LOAD(w7, 13) LOAD(w8, 14)
		"again%=:\n"
		SWAP(w0, 2, 0) SWAP(w1, 3, 1) SWAP(w3, 7, 5)
		QUARTER_ROUNDS(w0, w2, w4, w6, w1, w3, w5, w7) /* 0 4 8 12, 1 5 9 13 */
		SWAP(w2, 4, 2) SWAP(w4, 8, 6) SWAP(w5, 9, 10) SWAP(w7, 13, 3)
		SWAP(w0, 0, 7) SWAP(w1, 1, 11) SWAP(w3, 5, 15)
		QUARTER_ROUNDS(w2, w4, w5, w8, w7, w0, w1, w3) /* 2 6 10 14, 3 7 11 15 */
		SWAP(w2, 2, 0) SWAP(w7, 3, 5) SWAP(w0, 7, 1)
		QUARTER_ROUNDS(w2, w7, w5, w3, w0, w4, w1, w6) /* 0 5 10 15, 1 6 11 12 */
		SWAP(w0, 1, 2) SWAP(w3, 15, 7) SWAP(w4, 6, 8) SWAP(w7, 5, 13)
		SWAP(w1, 11, 3) SWAP(w2, 0, 4) SWAP(w5, 10, 9)
		QUARTER_ROUNDS(w0, w3, w4, w7, w1, w2, w5, w8) /* 2 7 8 13, 3 4 9 14 */
		LOAD(w9, 16) "w9 += -1\n" STORE(w9, 16) "if w9 != 0 goto again%=\n"
		STORE(w0, 2) STORE(w1, 3) STORE(w2, 4) STORE(w3, 7) STORE(w4, 8) STORE(w5, 9) STORE(w6, 12) STORE(w7, 13) STORE(w8, 14)
		: [x0] "+m"(x[0]), [x1] "+m"(x[1]), [x2] "+m"(x[2]), [x3] "+m"(x[3]), [x4] "+m"(x[4]), [x5] "+m"(x[5]),
		  [x6] "+m"(x[6]), [x7] "+m"(x[7]), [x8] "+m"(x[8]), [x9] "+m"(x[9]), [x10] "+m"(x[10]),
		  [x11] "+m"(x[11]), [x12] "+m"(x[12]), [x13] "+m"(x[13]), [x14] "+m"(x[14]), [x15] "+m"(x[15]), [x16] "+m"(x[16]),
		  "=&r"(all[0]), "=&r"(all[1]), "=&r"(all[2]), "=&r"(all[3]), "=&r"(all[4]), "=&r"(all[5]),
		  "=&r"(all[6]), "=&r"(all[7]), "=&r"(all[8]), "=&r"(all[9]));
}

/* Block number `counter` of the key stream, XORed into 64 octets at `to`. */
INLINE void chacha20_xor(const struct scratch *scratch, __u32 counter, __u32 *to)
{
	const volatile __u32 *key = scratch->key, *nonce = scratch->nonce;
	__u32 x[WORDS + 1] = {
		0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, /* "expand 32-byte k" */
		key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7],
		counter, nonce[0], nonce[1], nonce[2],
		CHACHA20_DOUBLE_ROUNDS,
	};

	chacha20_rounds(x);
	to[0] ^= x[0] + 0x61707865;
	to[1] ^= x[1] + 0x3320646e;
	to[2] ^= x[2] + 0x79622d32;
	to[3] ^= x[3] + 0x6b206574;
	to[4] ^= x[4] + key[0];
	to[5] ^= x[5] + key[1];
	to[6] ^= x[6] + key[2];
	to[7] ^= x[7] + key[3];
	to[8] ^= x[8] + key[4];
	to[9] ^= x[9] + key[5];
	to[10] ^= x[10] + key[6];
	to[11] ^= x[11] + key[7];
	to[12] ^= x[12] + counter;
	to[13] ^= x[13] + nonce[0];
	to[14] ^= x[14] + nonce[1];
	to[15] ^= x[15] + nonce[2];
}

#endif
