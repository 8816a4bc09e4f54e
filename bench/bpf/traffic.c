/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The benchmark's own programs: a generator (run with live frames), a sink that counts and drops, and the bare redirect
 * that is the limit of what forwarding between two interfaces can be. Constants come as -D: LINES, in how large a table
 * `bounce` visits one cache line per datagram (0: none), which is the least that a session can cost.
 */
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#define BPF_LICENSE Dual BSD/GPL
#define HEADERS 62 /* Ethernet, IPv6, UDP */

struct work {
	__u8 headers[64];   /* of session 0, checksums right */
	__u32 length;       /* of them: 42 or 62 */
	__u32 sessions;     /* source ports from the template's on, one after the other */
	__u32 out;
	__u32 port;         /* of session 0's source; its destination port is `to_port` */
	__u32 to_port;
	__u32 per_port;     /* sessions that share a destination port; not 0 */
};

/* Of one window, on one CPU. The clock is read every STRIDE frames only. */
struct arrivals {
	__u64 count;
	__u64 first_ns;
	__u64 last_ns;
	__u64 count_at_last;
};

#define STRIDE 64
#define PRIME 7919      /* the order of sessions: no two neighbours in a row, so that no hardware guesses the next entry */
#define SAMPLES 8192

struct line {
	u64 known, counted[7];
};

BPF_ARRAY(work, struct work, 1);
BPF_PERCPU_ARRAY(serial, u64, 1);
BPF_PERCPU_ARRAY(arrived, struct arrivals, 1);
BPF_ARRAY(sent, u64, 1);             /* when the probe left that is on its way; 0: none is */
BPF_ARRAY(took, u64, SAMPLES);       /* nanoseconds of each probe */
BPF_ARRAY(probes, u64, 1);
BPF_DEVMAP(out, 1);                  /* where `bounce` sends all */
#if LINES
BPF_F_TABLE("array", u32, struct line, lines, LINES, 1 << 10); /* BPF_F_MMAPABLE: from a page's beginning on */
#endif

/* A page that a hop has rewritten comes back: every header is written anew for every frame. */
static __attribute__((always_inline)) inline int fill(struct xdp_md *context)
{
	__u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	__u32 zero = 0;
	struct work *todo = work.lookup(&zero);
	u64 *number = serial.lookup(&zero);

	if (!todo || !number || data + HEADERS + 2 > end)
		return XDP_ABORTED;

	__u8 *udp = data + 34;

	__builtin_memcpy(data, todo->headers, 42);
	if (todo->length == HEADERS) {
		__builtin_memcpy(data + 42, todo->headers + 42, 20);
		udp = data + 54;
	}

	__u16 *ports = (void *)udp, *check = (void *)(udp + 6);
	__u32 session = todo->sessions == 1 ? 0 : (__u32)((*number * PRIME) % todo->sessions);
	__u32 sum = (__u16)~*check + (__u16)~ports[0] + (__u16)~ports[1];

	ports[0] = __builtin_bswap16(todo->port + session % todo->per_port);
	ports[1] = __builtin_bswap16(todo->to_port + session / todo->per_port);
	sum += ports[0] + ports[1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	if (*check) /* a template without a sum stays without */
		*check = ~sum;
	(*number)++;
	return bpf_redirect(todo->out, 0);
}

int generate(struct xdp_md *context)
{
	return fill(context);
}

/* One frame under way at a time: the time from here to the sink is the latency of all hops. */
int probe(struct xdp_md *context)
{
	__u32 zero = 0;
	u64 *when = sent.lookup(&zero);

	if (when)
		*when = bpf_ktime_get_ns();
	return fill(context);
}

int sink(struct xdp_md *context)
{
	__u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	__u32 zero = 0;
	struct arrivals *seen = arrived.lookup(&zero);

	if (!seen || data + 42 > end)
		return XDP_PASS;
	if (!((data[12] == 0x08 && data[13] == 0x00 && data[23] == 17) || (data[12] == 0x86 && data[20] == 17)))
		return XDP_PASS;

	u64 *when = sent.lookup(&zero), *next = probes.lookup(&zero);

	if (when && next && *when) {
		__u32 place = *next % SAMPLES;
		u64 now = bpf_ktime_get_ns() - *when;

		took.update(&place, &now);
		(*next)++;
		*when = 0;
	}
	if (seen->count % STRIDE == 0) {
		seen->last_ns = bpf_ktime_get_ns();
		seen->count_at_last = seen->count;
		if (seen->count == 0)
			seen->first_ns = seen->last_ns;
	}
	seen->count++;
	return XDP_DROP;
}

int bounce(struct xdp_md *context)
{
	__u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;

	if (data + 14 > end || (data[12] == 0x08 && data[13] == 0x06))
		return XDP_PASS;
#if LINES
	if (data + HEADERS > end)
		return XDP_PASS;

	__u32 *ports = (__u32 *)(data + (data[12] == 0x86 ? 54 : 34)); /* they tell the session, as `fill` numbers them */
	__u64 sum = *ports * 0x9e3779b97f4a7c15ULL;
	__u32 place = (((sum ^ sum >> 32) * 0x9e3779b97f4a7c15ULL >> 32) * LINES) >> 32;
	struct line *line = lines.lookup(&place);

	if (!line)
		return XDP_PASS;
	*ports ^= line->known; /* zero: the next relay must find the line as well. What the datagram leaves with is read there */
	line->counted[0]++;
#endif
	return out.redirect_map(0, 0);
}
