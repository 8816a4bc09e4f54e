/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The replay window: which counters were accepted. A ring of WINDOW bits below `top`; a bit stands for the one counter in
 * [top - WINDOW, top) with its remainder, so no bit is lost to the ring (RFC 6479 gives a word of them away).
 */
#ifndef CHAINRELAY_WINDOW_H
#define CHAINRELAY_WINDOW_H

#include "parse.h"

#define COUNTERS_END (1ULL << 63)

/* Whether the counter may still be accepted. Cheap enough to ask without the lock first, and again with it. */
INLINE bool window_fresh(const struct seal *seal, __u64 counter)
{
	__u64 top = seal->top;

	if (counter >= top)
		return true;
	if (top - counter > WINDOW)
		return false;
	return !(seal->window[counter / 64 % WINDOW_WORDS] >> counter % 64 & 1);
}

/* The counters from `top` up to `counter` come into the window unseen: their bits still stand for those WINDOW below. */
INLINE void window_advance(struct seal *seal, __u64 counter)
{
	__u64 at = seal->top;

	seal->top = counter + 1;
	if (counter - at >= WINDOW)
		at = counter - WINDOW + 1;
#pragma clang loop unroll(disable)
	for (int i = 0; i <= WINDOW_WORDS; i++) {
		if (at >= counter)
			break;

		__u64 first = at % 64, until = counter - at + first;
		__u64 bits = ~0ULL << first;

		if (until < 64)
			bits &= ~(~0ULL << until);
		seal->window[at / 64 % WINDOW_WORDS] &= ~bits;
		at += 64 - first;
	}
}

/* Accept a fresh counter. Under the lock. */
INLINE void window_mark(struct seal *seal, __u64 counter)
{
	if (counter >= seal->top)
		window_advance(seal, counter);
	seal->window[counter / 64 % WINDOW_WORDS] |= 1ULL << counter % 64;
}

#endif
