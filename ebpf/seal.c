/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Sealed sessions at the last relay (M17): the client's datagrams are opened and go to the server in clear, the server's are
 * sealed and go to the client. Called from relay.c by tail call, once the tuple is known to be that of a sealed flow.
 *
 *     open    parse -> look up -> key, counter -> tag -> counter again, marked -> decrypt -> rewrite, 28 octets less -> redirect
 *     seal    parse -> look up -> sum -> 28 octets more -> counter, taken -> encrypt, tag -> rewrite -> redirect
 *
 * Every way out but those two, and the answer to what is too large (seal_icmp.c), is a drop with a name (verdict.h): nothing goes up from here, since the rules behind know nothing of
 * the session and the stack must see neither its text nor its ciphertext. Map calls stand in this file only, as in relay.c.
 */
#include "aead.h"
#include "count.h"
#include "datagram.h"
#include "sealed.h"
#include "window.h"

#define BPF_LICENSE Dual BSD/GPL

/* bcc's own maps; the loader puts the pinned ones of these names in their place. */
BPF_TABLE("array", __u32, struct flow4, flows4, 1);
BPF_TABLE("array", __u32, struct flow6, flows6, 1);
BPF_TABLE("hash", struct tuple4, struct record, records4, 1);
BPF_TABLE("hash", struct tuple6, struct record, records6, 1);
BPF_TABLE("array", __u32, struct hop, hops, 1);
BPF_DEVMAP(exits, 1);
BPF_TABLE("percpu_array", __u32, __u64, verdicts, VERDICTS);
BPF_TABLE("hash", struct seal_key, struct seal, seals, 1);
BPF_TABLE("percpu_array", __u32, struct scratch, scratches, 1);
BPF_TABLE("prog", __u32, __u32, programs, SLOTS);

INLINE int exit_by(__u32 ifindex)
{
	return exits.redirect_map(ifindex, 0);
}

INLINE struct flow4 *flow4_at(__u32 place)
{
	return flows4.lookup(&place);
}

INLINE struct flow6 *flow6_at(__u32 place)
{
	return flows6.lookup(&place);
}

INLINE struct record *record4_of(const struct tuple4 *key)
{
	return records4.lookup((struct tuple4 *)key);
}

INLINE struct record *record6_of(const struct tuple6 *key)
{
	return records6.lookup((struct tuple6 *)key);
}

#define FORGED_PER_SECOND 16384          /* wrong tags that a key's datagrams may cost time for: 1.5 us each at 1,400 octets */
#define SECOND 1000000000ULL
#define ANSWER_EVERY (SECOND / 100)      /* the server learns its limit from the first answer; a stranger gets no flood */

/* Of one datagram, what both families have. Its text lies in `scratch`. */
struct job {
	struct scratch *scratch;
	struct seal *seal;
	__u32 at; /* where the UDP header begins in the frame */
};

INLINE struct seal *find_key(const struct record *record, __u32 key_be32)
{
	const __u32 *session = (const __u32 *)record->session;
	struct seal_key key = {};
	__u32 *to = (__u32 *)key.session;

	to[0] = session[0];
	to[1] = session[1];
	to[2] = session[2];
	to[3] = session[3];
	key.key_be32 = key_be32;
	return seals.lookup(&key);
}

INLINE struct scratch *own_scratch(void)
{
	__u32 only = 0;

	return scratches.lookup(&only);
}

INLINE int finish(enum verdict verdict)
{
	__u32 index = verdict;
	__u64 *count = verdicts.lookup(&index);

	if (count)
		(*count)++;
	return action(verdict);
}

/* The sum of `length` (at most OCTETS_SUMMED) octets from `from` on; up to 3 octets behind them become zero. */
#define SUMMED_AT_ONCE 512 /* what bpf_csum_diff takes before Linux 6.13 */
#define OCTETS_SUMMED (SEALED_LONGEST + SEALED_OVERHEAD)

INLINE __u64 sum_octets(__u8 *from, __u64 length)
{
	__s64 sum = 0;

	*(__u32 *)(from + length) = 0;
	length = (length + 3) & ~3ULL;
#pragma clang loop unroll(full)
	for (__u32 done = 0; done < OCTETS_SUMMED; done += SUMMED_AT_ONCE) {
		__s64 more = length - done;

		NOT_NEGATIVE(more);
		AT_MOST(more, SUMMED_AT_ONCE);
		sum = bpf_csum_diff(0, 0, (void *)(from + done), more, sum);
	}
	return (__u32)sum;
}

/* A wrong tag was paid for; from FORGED_PER_SECOND on the key's datagrams are dropped unseen until the second ends. */
INLINE void count_forged(struct seal *seal)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	bpf_spin_lock(&seal->lock);
	seal->forged++;
	if (now - seal->budget_ns >= SECOND) {
		seal->budget_ns = now;
		seal->budget_used = 0;
	}
	seal->budget_used++;
	bpf_spin_unlock(&seal->lock);
}

INLINE bool over_budget(const struct seal *seal)
{
	return seal->budget_used >= FORGED_PER_SECOND && bpf_ktime_get_coarse_ns() - seal->budget_ns < SECOND;
}

/* Cheapest first: key id and counter, before a single octet is copied. `words` are the datagram's first twelve octets. */
INLINE enum verdict judge(const struct record *record, const __u32 *words, struct job *job, __u64 *counter)
{
	__u32 key_be32 = words[0], component = key_be32 & BE32(1);
	struct seal *seal;

	if (component != BE32(record->component))
		return WRONG_COMPONENT;
	seal = find_key(record, key_be32 ^ component);
	if (!seal || (seal->ends_ns && bpf_ktime_get_coarse_ns() >= seal->ends_ns))
		return UNKNOWN_KEY;
	*counter = (__u64)BE32(words[1]) << 32 | BE32(words[2]);
	if (*counter >= COUNTERS_END)
		return COUNTER_TOO_HIGH;
	if (!window_fresh(seal, *counter)) {
		__sync_fetch_and_add(&seal->replayed, 1);
		return REPLAYED;
	}
	if (over_budget(seal))
		return FORGE_LIMIT;
	job->seal = seal;
	return CONTINUE;
}

/* Copy, verify, accept, decrypt: on CONTINUE the text lies in scratch and its counter is used up. */
INLINE enum verdict open_text(struct xdp_md *context, struct job *job, __u64 counter)
{
	struct scratch *scratch = job->scratch;
	struct seal *seal = job->seal;
	__u64 text = text_length(scratch);
	bool fresh;

	if (bpf_xdp_load_bytes(context, job->at + sizeof(struct udphdr), scratch->header, text + SEALED_OVERHEAD))
		return SEALED_GONE;
	__builtin_memcpy(scratch->key, seal->open_key, sizeof(scratch->key));
	scratch->nonce[0] = seal->open_iv[0];
	scratch->nonce[1] = seal->open_iv[1] ^ scratch->header[1];
	scratch->nonce[2] = seal->open_iv[2] ^ scratch->header[2];
	__builtin_memcpy(scratch->received, scratch->text + text, TAG_OCTETS);
	aead_begin(scratch);
	aead_tag(scratch);
	if (!aead_verified(scratch)) {
		aead_end(scratch);
		count_forged(seal);
		return FORGED;
	}

	bpf_spin_lock(&seal->lock);
	fresh = window_fresh(seal, counter);
	if (fresh) {
		window_mark(seal, counter);
		seal->opened++;
	} else {
		seal->replayed++; /* another CPU had the same datagram */
	}
	bpf_spin_unlock(&seal->lock);
	if (fresh)
		aead_crypt(scratch);
	aead_end(scratch);
	return fresh ? CONTINUE : REPLAYED;
}

INLINE void datagram_count(struct datagram *datagram, int family)
{
	if (family == 4)
		count_flow4(datagram->flow4, &datagram->key4, datagram->length);
	else
		count_flow6(datagram->flow6, &datagram->key6, datagram->length);
}

INLINE struct record *datagram_record(const struct datagram *datagram, int family)
{
	return family == 4 ? record4_of(&datagram->key4) : record6_of(&datagram->key6);
}

/* The text into the frame, behind its UDP header. */
INLINE bool write_opened(struct xdp_md *context, int family, struct job *job, struct datagram *datagram)
{
	__u64 text = text_length(job->scratch), least = 1;

	datagram_rewrite_udp(datagram, family, text, sum_octets(job->scratch->text, text));
	BARRIER(least); /* of `text` not being 0 Linux 6.1 learns nothing */
	return text < least || !bpf_xdp_store_bytes(context, job->at + sizeof(struct udphdr), job->scratch->text, text);
}

INLINE enum verdict open(struct xdp_md *context, int family)
{
	struct datagram datagram = {};
	struct job job = {};
	__u64 counter;

	if (!datagram_find(context, family, &datagram))
		return SEALED_GONE;

	const struct state *state = datagram_state(&datagram, family);
	struct record *record = datagram_record(&datagram, family);

	if (!record || state->kind != OPEN)
		return SEALED_GONE;

	enum verdict verdict = sealed_admit(&datagram.frame, state, datagram_ttl(&datagram, family));

	if (verdict)
		return verdict;

	__u32 index = state->hop, length = datagram.length, headers = IP_HEADER(family) + sizeof(struct udphdr), *words;
	struct hop *hop = hops.lookup(&index);

	if (!has_exit(hop))
		return SEALED_NO_NEXT_HOP;
	if (family == 6 && !datagram.udp->check)
		return SEALED_NO_CHECKSUM;
	words = (void *)(datagram.udp + 1);
	if ((void *)(words + 3) > datagram.frame.end || length < headers + SEALED_OVERHEAD)
		return SEALED_TOO_SHORT;
	if (length - SEALED_OVERHEAD > hop->mtu || length - headers - SEALED_OVERHEAD > SEALED_LONGEST)
		return SEALED_TOO_LARGE;
	verdict = judge(record, words, &job, &counter);
	if (verdict)
		return verdict;
	job.at = sizeof(struct ethhdr) + IP_HEADER(family);
	job.scratch = own_scratch();
	if (!job.scratch)
		return SEALED_GONE;
	job.scratch->length = length - headers - SEALED_OVERHEAD;
	verdict = open_text(context, &job, counter);
	if (verdict)
		return verdict;
	if (!write_opened(context, family, &job, &datagram))
		return SEALED_NO_ROOM;
	datagram_rewrite_ip(&datagram, family, length - SEALED_OVERHEAD);
	rewrite_ethernet(&datagram.frame, hop);
	datagram_count(&datagram, family);
	return trim(context, length - SEALED_OVERHEAD) ? OPENED : SEALED_NO_ROOM;
}

/* One answer per key and ANSWER_EVERY, whoever asks: the server needs no second one, and nobody gets more out than in. */
INLINE bool may_answer(struct seal *seal)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	if (now - seal->answered_ns < ANSWER_EVERY)
		return false;
	seal->answered_ns = now;
	return true;
}

/* The server's datagram into scratch, with its UDP header before the text, and its sum checked unless there is none to check. */
INLINE enum verdict take_text(struct xdp_md *context, struct job *job, const struct udphdr *udp, __u64 addresses)
{
	__u8 *from = job->scratch->text - sizeof(*udp);
	__u16 pseudo = checksum_pseudo(addresses, udp);
	__u64 text = text_length(job->scratch);

	if (bpf_xdp_load_bytes(context, job->at, from, text + sizeof(*udp)))
		return SEALED_GONE;
	if (udp->check && udp->check != pseudo && checksum_fold(sum_octets(from, text + sizeof(*udp)) + pseudo) != 0xffff)
		return SEALED_BAD_CHECKSUM;
	return CONTINUE;
}

/* A counter that nobody else gets, and the key that it belongs to, as one step. */
INLINE bool take_counter(struct seal *seal, struct scratch *scratch, __u64 *counter)
{
	__u64 next;

	bpf_spin_lock(&seal->lock);
	next = seal->next;
	if (next < SEALED_MOST)
		seal->next = next + 1;
	__builtin_memcpy(scratch->key, seal->seal_key, sizeof(scratch->key));
	__builtin_memcpy(scratch->nonce, seal->seal_iv, sizeof(scratch->nonce));
	bpf_spin_unlock(&seal->lock);
	*counter = next;
	return next < SEALED_MOST;
}

/* Encrypt and authenticate in scratch. */
INLINE enum verdict seal_text(struct job *job, __u32 key_be32)
{
	struct scratch *scratch = job->scratch;
	__u64 counter;

	if (!take_counter(job->seal, scratch, &counter)) {
		aead_end(scratch);
		return KEY_EXHAUSTED;
	}
	scratch->header[0] = key_be32;
	scratch->header[1] = BE32((__u32)(counter >> 32));
	scratch->header[2] = BE32((__u32)counter);
	scratch->nonce[1] ^= scratch->header[1];
	scratch->nonce[2] ^= scratch->header[2];
	aead_begin(scratch);
	aead_crypt(scratch);
	aead_tag(scratch);
	__builtin_memcpy(scratch->text + text_length(scratch), scratch->tag, TAG_OCTETS);
	aead_end(scratch);
	return CONTINUE;
}

/* The sealed datagram into the frame, behind its UDP header. */
INLINE bool write_sealed(struct xdp_md *context, int family, struct job *job, struct datagram *datagram)
{
	__u64 sealed = text_length(job->scratch) + SEALED_OVERHEAD;
	__u8 *from = (void *)job->scratch->header;

	datagram_rewrite_udp(datagram, family, sealed, sum_octets(from, sealed));
	return !bpf_xdp_store_bytes(context, job->at + sizeof(struct udphdr), from, sealed);
}

/* The headers to the frame's new beginning, SEALED_OVERHEAD lower; word by word and upwards, since the two places overlap. */
INLINE void move_headers(void *to, __u32 length)
{
	volatile __u16 *low = to;
	const volatile __u16 *high = to + SEALED_OVERHEAD;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < length / 2; i++)
		low[i] = high[i];
}

INLINE enum verdict seal(struct xdp_md *context, int family)
{
	struct datagram datagram = {};
	struct job job = {};

	if (!datagram_find(context, family, &datagram))
		return SEALED_GONE;

	const struct state *state = datagram_state(&datagram, family);
	struct record *record = datagram_record(&datagram, family);

	if (!record || state->kind != SEAL)
		return SEALED_GONE;

	enum verdict verdict = sealed_admit(&datagram.frame, state, datagram_ttl(&datagram, family));

	if (verdict)
		return verdict;

	__u32 index = state->hop, key_be32 = record->key_be32, component_be32 = BE32(record->component), length = datagram.length;
	struct hop *hop = hops.lookup(&index);

	if (!has_exit(hop))
		return SEALED_NO_NEXT_HOP;
	if (family == 6 && !datagram.udp->check)
		return SEALED_NO_CHECKSUM;
	job.at = sizeof(struct ethhdr) + IP_HEADER(family);
	job.scratch = own_scratch();
	if (!job.scratch)
		return SEALED_GONE;
	job.scratch->length = length - IP_HEADER(family) - sizeof(struct udphdr);
	job.seal = find_key(record, key_be32);
	if (!job.seal)
		return UNKNOWN_KEY;
	if (*(const volatile __u8 *)&state->kind != SEAL)
		return SEALED_GONE; /* removed meanwhile: the record may have been another session's by then */
	if (length + SEALED_OVERHEAD > hop->mtu || job.scratch->length > SEALED_LONGEST)
		return may_answer(job.seal) ? SEALED_TO(family == 4 ? SLOT_ANSWER4 : SLOT_ANSWER6) : SEALED_TOO_LARGE;
	verdict = take_text(context, &job, datagram.udp, datagram_old(&datagram, family));
	if (verdict)
		return verdict;
	if (bpf_xdp_adjust_head(context, -SEALED_OVERHEAD) || !datagram_moved(context, family, &datagram, SEALED_OVERHEAD))
		return SEALED_NO_ROOM;
	move_headers(datagram.frame.ethernet, sizeof(struct ethhdr) + IP_HEADER(family) + sizeof(struct udphdr));
	verdict = seal_text(&job, key_be32 | component_be32);
	if (verdict)
		return verdict;
	if (!write_sealed(context, family, &job, &datagram))
		return SEALED_NO_ROOM;
	datagram_rewrite_ip(&datagram, family, length + SEALED_OVERHEAD);
	rewrite_ethernet(&datagram.frame, hop);
	datagram_count(&datagram, family);
	return trim(context, length + SEALED_OVERHEAD) ? SEALED : SEALED_NO_ROOM;
}

INLINE int sealed_or_answered(struct xdp_md *context, enum verdict verdict)
{
	if (verdict >= SEALED_TO(0)) {
		programs.call(context, verdict - SEALED_TO(0));
		verdict = SEALED_TOO_LARGE;
	}
	return finish(verdict);
}

int chainrelay_open4(struct xdp_md *context)
{
	return finish(open(context, 4));
}

int chainrelay_open6(struct xdp_md *context)
{
	return finish(open(context, 6));
}

int chainrelay_seal4(struct xdp_md *context)
{
	return sealed_or_answered(context, seal(context, 4));
}

int chainrelay_seal6(struct xdp_md *context)
{
	return sealed_or_answered(context, seal(context, 6));
}
