/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * ICMP about sealed sessions, by tail call: errors that come (from relay.c) and packet-too-big that goes (from seal.c).
 *
 * An error about a sealed flow is translated as icmp.h does it, and cut behind the quoted UDP header: what the far side quotes is
 * text where the receiver is on the sealed side, and ciphertext where it is on the clear one. Neither may cross. Lengths and
 * the MTU of the error change by what sealing adds, so the path MTU toward the client is what the server learns, less 28, and
 * the other way round; the quoted sum is left out (0), since it is one over octets that the receiver has not sent.
 */
#include "datagram.h"
#include "icmp.h"
#include "sealed.h"

#define BPF_LICENSE Dual BSD/GPL

/* bcc's own maps; the loader puts the pinned ones of these names in their place. */
BPF_TABLE("array", __u32, struct flow4, flows4, 1);
BPF_TABLE("array", __u32, struct flow6, flows6, 1);
BPF_TABLE("array", __u32, struct hop, hops, 1);
BPF_DEVMAP(exits, 1);
BPF_TABLE("percpu_array", __u32, __u64, verdicts, VERDICTS);

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

enum { FRAG_NEEDED = 4 };   /* code of DESTINATION_UNREACHABLE (RFC 1191) */
enum { PACKET_TOO_BIG6 = 2 }; /* RFC 4443 */
#define SMALLEST_MTU6 1280
#define ANSWER_TTL 64

INLINE int finish(enum verdict verdict)
{
	__u32 index = verdict;
	__u64 *count = verdicts.lookup(&index);

	if (count)
		(*count)++;
	return action(verdict);
}

/* An error toward the server is about a sealed datagram, which was longer than what the server had sent; and the reverse. */
INLINE __u32 changed(__u32 length, __u8 kind)
{
	return kind == OPEN ? length - SEALED_OVERHEAD : length + SEALED_OVERHEAD;
}

INLINE __u16 changed_be16(__u16 length_be16, __u8 kind)
{
	return BE16((__u16)changed(BE16(length_be16), kind));
}

INLINE void rewrite_quoted_udp(struct udphdr *udp, __u8 kind, __u16 source_port_be16, __u16 destination_port_be16)
{
	udp->source = source_port_be16;
	udp->dest = destination_port_be16;
	udp->len = changed_be16(udp->len, kind);
	udp->check = 0;
}

INLINE enum verdict error_sealed4(struct xdp_md *context)
{
	struct frame frame;
	struct iphdr *ip;
	struct error4 *error;
	__u32 length;
	struct tuple4 key = {};

	if (parse_ethernet(context, &frame) || parse_ipv4(&frame, &ip, &length) || parse_error4(&frame, ip, length, &error, &key))
		return SEALED_GONE;

	struct flow4 *flow = find(&key, 4);

	if (!flow || (flow->state.kind != OPEN && flow->state.kind != SEAL))
		return SEALED_GONE;

	enum verdict verdict = sealed_admit(&frame, &flow->state, ip->ttl);

	if (verdict)
		return verdict;

	__u32 index = flow->state.hop;
	__u8 kind = flow->state.kind;
	struct hop *hop = hops.lookup(&index);
	const struct tuple4 *new = &flow->leaves;

	if (!has_exit(hop))
		return SEALED_NO_NEXT_HOP;
	if (kind == OPEN && BE16(error->quoted.tot_len) < sizeof(*ip) + sizeof(error->udp) + SEALED_OVERHEAD)
		return SEALED_TOO_SHORT;

	__u32 mtu = error->icmp.type == DESTINATION_UNREACHABLE && error->icmp.code == FRAG_NEEDED ? BE32(error->icmp.rest) & 0xffff : 0;
	__u16 quoted_be16 = changed_be16(error->quoted.tot_len, kind), outer_be16 = BE16(sizeof(*ip) + sizeof(*error));

	error->quoted.check = checksum_update(error->quoted.check, checksum_difference(checksum_addresses4(&key) + error->quoted.tot_len,
										       checksum_addresses4(new) + quoted_be16));
	error->quoted.tot_len = quoted_be16;
	error->quoted.saddr = new->destination_be32;
	error->quoted.daddr = new->source_be32;
	rewrite_quoted_udp(&error->udp, kind, new->destination_port_be16, new->source_port_be16);
	error->icmp.rest = mtu ? BE32(changed(mtu, kind) & 0xffff) : 0;
	error->icmp.check = 0;
	error->icmp.check = ~checksum_fold(checksum_words((void *)error, sizeof(*error) / 4));
	rewrite_ipv4(ip, new, checksum_difference((__u64)ip->saddr + ip->daddr + ip->tot_len, checksum_addresses4(new) + outer_be16));
	ip->tot_len = outer_be16;
	rewrite_ethernet(&frame, hop);
	return trim(context, sizeof(*ip) + sizeof(*error)) ? SEALED_ICMP : SEALED_NO_ROOM;
}

INLINE void sum_icmp6(const struct ipv6hdr *ip, struct error6 *error)
{
	__u64 sum = checksum_words((void *)&ip->saddr, 8) + BE16(sizeof(*error)) + BE16(PROTOCOL_ICMP6);

	error->icmp.check = 0;
	error->icmp.check = ~checksum_fold(sum + checksum_words((void *)error, sizeof(*error) / 4));
}

INLINE enum verdict error_sealed6(struct xdp_md *context)
{
	struct frame frame;
	struct ipv6hdr *ip;
	struct error6 *error;
	__u32 length;
	struct tuple6 key = {};

	if (parse_ethernet(context, &frame) || parse_ipv6(&frame, &ip, &length) || parse_error6(&frame, ip, length, &error, &key))
		return SEALED_GONE;

	struct flow6 *flow = find(&key, 6);

	if (!flow || (flow->state.kind != OPEN && flow->state.kind != SEAL))
		return SEALED_GONE;

	enum verdict verdict = sealed_admit(&frame, &flow->state, ip->hop_limit);

	if (verdict)
		return verdict;

	__u32 index = flow->state.hop;
	__u8 kind = flow->state.kind;
	struct hop *hop = hops.lookup(&index);
	const struct tuple6 *new = &flow->leaves;

	if (!has_exit(hop))
		return SEALED_NO_NEXT_HOP;
	if (kind == OPEN && BE16(error->quoted.payload_len) < sizeof(error->udp) + SEALED_OVERHEAD)
		return SEALED_TOO_SHORT;

	__u32 mtu = 0;

	if (error->icmp.type == PACKET_TOO_BIG6) {
		mtu = changed(BE32(error->icmp.rest), kind);
		if (mtu < SMALLEST_MTU6 || mtu > 0xffff)
			mtu = SMALLEST_MTU6; /* less than that nobody heeds (RFC 8200 §5) */
	}
	error->quoted.payload_len = changed_be16(error->quoted.payload_len, kind);
	rewrite_ipv6_address(&error->quoted.saddr, new->destination_be32);
	rewrite_ipv6_address(&error->quoted.daddr, new->source_be32);
	rewrite_quoted_udp(&error->udp, kind, new->destination_port_be16, new->source_port_be16);
	error->icmp.rest = BE32(mtu);
	rewrite_ipv6(ip, new);
	ip->payload_len = BE16(sizeof(*error));
	sum_icmp6(ip, error);
	rewrite_ethernet(&frame, hop);
	return trim(context, sizeof(*ip) + sizeof(*error)) ? SEALED_ICMP : SEALED_NO_ROOM;
}

/* The largest packet of the server that fits when it is sealed. */
INLINE __u32 largest(const struct hop *hop, __u32 headers)
{
	__u32 mtu = hop->mtu - SEALED_OVERHEAD;

	return mtu > SEALED_LONGEST + headers ? SEALED_LONGEST + headers : mtu;
}

/*
 * Back through the interface it came by: sender and receiver change places. `from` is the frame as it came. Not by XDP_TX: veth leaves
 * such a frame in its queue unless the far end has a program, too.
 */
INLINE void turn_ethernet(struct ethhdr *to, const struct ethhdr *from)
{
	copy_mac(to->h_dest, from->h_source);
	copy_mac(to->h_source, from->h_dest);
	to->h_proto = from->h_proto;
}

INLINE void write_answer4(struct iphdr *ip, struct error4 *error, const struct tuple4 *key, __u32 mtu)
{
	error->icmp.type = DESTINATION_UNREACHABLE;
	error->icmp.code = FRAG_NEEDED;
	error->icmp.check = 0;
	error->icmp.rest = BE32(mtu & 0xffff);
	error->icmp.check = ~checksum_fold(checksum_words((void *)error, sizeof(*error) / 4));

	*(__u16 *)ip = BE16(0x4500);
	ip->tot_len = BE16(sizeof(*ip) + sizeof(*error));
	ip->id = 0;
	ip->frag_off = BE16(0x4000); /* don't fragment */
	ip->ttl = ANSWER_TTL;
	ip->protocol = PROTOCOL_ICMP4;
	ip->check = 0;
	ip->saddr = key->destination_be32;
	ip->daddr = key->source_be32;
	ip->check = ~checksum_fold(checksum_words((void *)ip, sizeof(*ip) / 4));
}

INLINE void write_answer6(struct ipv6hdr *ip, struct error6 *error, const struct tuple6 *key, __u32 mtu)
{
	error->icmp.type = PACKET_TOO_BIG6;
	error->icmp.code = 0;
	error->icmp.rest = BE32(mtu < SMALLEST_MTU6 ? SMALLEST_MTU6 : mtu);
	*(__u32 *)ip = BE32(0x60000000);
	ip->payload_len = BE16(sizeof(*error));
	ip->nexthdr = PROTOCOL_ICMP6;
	ip->hop_limit = ANSWER_TTL;
	rewrite_ipv6_address(&ip->saddr, key->destination_be32);
	rewrite_ipv6_address(&ip->daddr, key->source_be32);
	sum_icmp6(ip, error);
}

INLINE enum verdict answer(struct xdp_md *context, int family)
{
	struct datagram datagram = {};

	if (!datagram_find(context, family, &datagram) || datagram_state(&datagram, family)->kind != SEAL)
		return SEALED_GONE;

	__u32 index = datagram_state(&datagram, family)->hop, error = family == 4 ? sizeof(struct error4) : sizeof(struct error6);
	int more = IP_HEADER(family) + sizeof(struct icmp);
	struct hop *hop = hops.lookup(&index);

	if (!has_exit(hop))
		return SEALED_NO_NEXT_HOP;

	__u32 mtu = largest(hop, IP_HEADER(family) + sizeof(struct udphdr));

	if (bpf_xdp_adjust_head(context, -more) || !datagram_moved(context, family, &datagram, error - sizeof(struct udphdr)))
		return SEALED_NO_ROOM;
	turn_ethernet(datagram.frame.ethernet, (void *)datagram.frame.ethernet + more);
	if (family == 4)
		write_answer4(datagram.ip4, (void *)datagram.udp, &datagram.key4, mtu);
	else
		write_answer6(datagram.ip6, (void *)datagram.udp, &datagram.key6, mtu);
	bpf_redirect(datagram.frame.ifindex, 0);
	return trim(context, IP_HEADER(family) + error) ? SEALED_ANSWERED : SEALED_NO_ROOM;
}

int chainrelay_error4(struct xdp_md *context)
{
	return finish(error_sealed4(context));
}

int chainrelay_error6(struct xdp_md *context)
{
	return finish(error_sealed6(context));
}

int chainrelay_answer4(struct xdp_md *context)
{
	return finish(answer(context, 4));
}

int chainrelay_answer6(struct xdp_md *context)
{
	return finish(answer(context, 6));
}
