// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* On demand: how long answers of name servers take, over UDP port 53, as seen where packets leave
 * and enter this machine (a resolver on it is seen on the loopback). Histogram 0: from question to
 * answer, in nanoseconds. Slots: label: the server's address (IPv4 mapped into IPv6); value 0 sum
 * of nanoseconds, 1 answers, 2 those that say an error other than "no such name", 3 "no such name".
 *
 * Questions wait in an array by their number and port; one that collides with another overwrites
 * it. Questions without an answer are not counted: a resolver asks again.
 */
#include "common.bpf.h"

#define PLACES	  4096
#define SLOTS	  32
#define UDP	  17
#define PORT	  53
#define ETH_IP	  0x0800
#define ETH_IPV6  0x86dd
#define NAME_FAIL 3

struct sk_buff {
	unsigned char *head;
	__u16 network_header;
	__u16 protocol; /* network byte order */
} __attribute__((preserve_access_index));

struct dns_cpu {
	struct weir_head head;
	struct weir_hist answer;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct dns_cpu);

struct question {
	__u64 ns;
	__u64 id; /* number and port of who asks */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, struct question);
} questions SEC(".maps");

struct packet {
	__u64 source[2], target[2];
	__u16 source_port, target_port; /* host byte order */
	__u16 number;
	__u16 flags; /* of the DNS header, host byte order */
};

/* False for what is no DNS over UDP. */
static __always_inline bool read_packet(struct sk_buff *skb, struct packet *packet)
{
	const unsigned char *at = BPF_CORE_READ(skb, head);
	__u16 protocol = __builtin_bswap16(BPF_CORE_READ(skb, protocol)), words[8];
	unsigned char first[20];

	at += BPF_CORE_READ(skb, network_header);
	if (bpf_probe_read_kernel(first, sizeof(first), at))
		return false;
	if (protocol == ETH_IP) {
		if (first[9] != UDP)
			return false;
		packet->source[1] = (__u64) * (__u32 *)&first[12] << 32 | 0xffff0000;
		packet->target[1] = (__u64) * (__u32 *)&first[16] << 32 | 0xffff0000;
		at += (first[0] & 0xf) * 4;
	} else if (protocol == ETH_IPV6) {
		if (first[6] != UDP)
			return false;
		bpf_probe_read_kernel(packet->source, 16, at + 8);
		bpf_probe_read_kernel(packet->target, 16, at + 24);
		at += 40;
	} else {
		return false;
	}
	/* ports, length, checksum; number and flags of DNS */
	if (bpf_probe_read_kernel(words, 12, at))
		return false;
	packet->source_port = __builtin_bswap16(words[0]);
	packet->target_port = __builtin_bswap16(words[1]);
	packet->number = words[4];
	packet->flags = __builtin_bswap16(words[5]);
	return packet->source_port == PORT || packet->target_port == PORT;
}

SEC("tp_btf/net_dev_queue")
int on_send(__u64 *ctx)
{
	struct packet packet = {};
	struct question *question;
	__u32 key;

	if (!read_packet((struct sk_buff *)ctx[0], &packet) || packet.target_port != PORT ||
	    packet.flags >> 15)
		return 0;
	key = (packet.number ^ packet.source_port) & (PLACES - 1);
	question = bpf_map_lookup_elem(&questions, &key);
	if (!question)
		return 0;
	question->id = (__u64)packet.number << 16 | packet.source_port;
	question->ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int on_receive(__u64 *ctx)
{
	struct packet packet = {};
	struct question *question;
	struct weir_slot *slot;
	struct dns_cpu *cpu;
	__u32 key, code;
	__u64 ns;

	if (!read_packet((struct sk_buff *)ctx[0], &packet) || packet.source_port != PORT ||
	    !(packet.flags >> 15))
		return 0;
	key = (packet.number ^ packet.target_port) & (PLACES - 1);
	question = bpf_map_lookup_elem(&questions, &key);
	cpu = this_cpu(&cpus);
	if (!question || !cpu || question->id != ((__u64)packet.number << 16 | packet.target_port))
		return 0;
	ns = __sync_lock_test_and_set(&question->ns, 0);
	if (!ns)
		return 0;
	ns = bpf_ktime_get_ns() - ns;
	add(&cpu->head.produced, 1);
	add(&cpu->head.sum_ns[0], ns);
	add(&cpu->answer.bucket[bucket_of(ns)], 1);
	slot = slot_of(cpu->slots, SLOTS, packet.source[0], packet.source[1], 0);
	add(&slot->value[0], ns);
	add(&slot->value[1], 1);
	code = packet.flags & 0xf;
	if (code == NAME_FAIL)
		add(&slot->value[3], 1);
	else if (code)
		add(&slot->value[2], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
