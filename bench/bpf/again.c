/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The same frame again and again through a program under test, inside one BPF_PROG_TEST_RUN: puts the frame back as it was,
 * forgets its counter, and calls. With nothing to call it takes what the putting back takes, which is subtracted.
 */
#include "layout.h"

#define BPF_LICENSE Dual BSD/GPL
#define GROWS 28 /* what sealing adds to a frame's head, and opening takes off its tail */
#define LONGEST 1600

struct template {
	__u32 length;
	__u32 opens;
	struct seal_key key;
	__u8 frame[LONGEST];
};

BPF_TABLE("array", __u32, struct template, templates, 1);
BPF_TABLE("prog", __u32, __u32, tested, 1);
BPF_TABLE("hash", struct seal_key, struct seal, seals, 1);

int again(struct xdp_md *context)
{
	__u32 zero = 0;
	struct template *template = templates.lookup(&zero);

	if (!template)
		return XDP_ABORTED;

	__u64 size = (long)context->data_end - (long)context->data, length = template->length;

	if (size > length && bpf_xdp_adjust_head(context, GROWS))
		return XDP_ABORTED;
	if (size < length && bpf_xdp_adjust_tail(context, GROWS))
		return XDP_ABORTED;
	if (length - 1 >= LONGEST || bpf_xdp_store_bytes(context, 0, template->frame, length))
		return XDP_ABORTED;
	if (template->opens) {
		struct seal_key key = template->key;
		struct seal *seal = seals.lookup(&key);

		if (!seal)
			return XDP_ABORTED;
		seal->top = 0;
		seal->window[0] = 0;
	}
	tested.call(context, 0);
	return XDP_DROP;
}
