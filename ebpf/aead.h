/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * ChaCha20-Poly1305 (RFC 8439 §2.8) with 12 octets of associated data, over a datagram that has been copied into the
 * scratch memory of this CPU. Who calls: aead_begin, then aead_tag and aead_crypt in the order that the direction needs.
 *
 * Words are little endian, as RFC 8439 has them; on other machines the loader refuses.
 */
#ifndef CHAINRELAY_AEAD_H
#define CHAINRELAY_AEAD_H

#include "chacha20.h"
#include "poly1305.h"

#define TAG_OCTETS 16
#define HEADER_OCTETS 12 /* key id and counter: the associated data */

/* Block 0 of the key stream is Poly1305's key. */
INLINE void aead_begin(struct scratch *scratch)
{
#pragma clang loop unroll(full)
	for (int i = 0; i < 16; i++)
		scratch->stream[i] = 0;
	chacha20_xor(scratch, 0, scratch->stream);
	poly1305_key(scratch);
}

/* What was made of the key does not stay in this memory; what lies on the program's stack the next programs overwrite. */
INLINE void aead_end(struct scratch *scratch)
{
	__builtin_memset(scratch, 0, __builtin_offsetof(struct scratch, tag));
}

/* Whether the tag that came is the one computed, in the same time for every pair. */
INLINE bool aead_verified(const struct scratch *scratch)
{
	const volatile __u32 *a = scratch->tag, *b = scratch->received;

	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

/*
 * Octets of text, at most SEALED_LONGEST. Read anew at each use: what one loop teaches the verifier about a length would
 * make every way out of that loop a case of its own for all that follows.
 */
INLINE __u64 text_length(const struct scratch *scratch)
{
	__u64 length = *(const volatile __u32 *)&scratch->length;

	AT_MOST(length, SEALED_LONGEST);
	return length;
}

/* The key stream from block 1 on into the text; up to 63 octets behind it are changed as well. */
INLINE void aead_crypt(struct scratch *scratch)
{
	__u64 length = text_length(scratch);

#pragma clang loop unroll(disable)
	for (__u32 block = 0; block < SEALED_LONGEST / CHACHA20_BLOCK; block++) {
		if (block * CHACHA20_BLOCK >= length)
			break;
		chacha20_xor(scratch, block + 1, (void *)(scratch->text + block * CHACHA20_BLOCK));
	}
}

/* The text's blocks into the sum; it must be padded to a whole one. */
INLINE void aead_sum_text(const struct scratch *scratch, struct poly1305_sum *sum)
{
	__u64 length = text_length(scratch);

#pragma clang loop unroll(disable)
	for (__u32 block = 0; block < SEALED_LONGEST / POLY1305_BLOCK; block++) {
		if (block * POLY1305_BLOCK >= length)
			break;

		const __u32 *words = (void *)(scratch->text + block * POLY1305_BLOCK);

		poly1305_block(scratch, sum, words[0], words[1], words[2], words[3]);
	}
}

/* The tag over header and ciphertext; the 16 octets behind it become zero. */
INLINE void aead_tag(struct scratch *scratch)
{
	struct poly1305_sum sum = {};
	__u64 length = text_length(scratch);
	__u64 *padding = (void *)(scratch->text + length);

	padding[0] = 0;
	padding[1] = 0;
	poly1305_block(scratch, &sum, scratch->header[0], scratch->header[1], scratch->header[2], 0);
	aead_sum_text(scratch, &sum);
	poly1305_block(scratch, &sum, HEADER_OCTETS, 0, length, 0);
	poly1305_tag(scratch, &sum, scratch->tag);
}

#endif
