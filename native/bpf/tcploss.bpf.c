// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* TCP going wrong: segments sent again, resets sent and received, by the local port and the peer
 * (of resets to a segment that no socket wanted, what the segment says).
 * Slots: labels of endpoint.bpf.h; value 0 sent again, 1 resets sent, 2 resets received.
 *
 * A buffer that is sent again holds several segments where the interface divides them; they count
 * as the kernel counts them (TcpRetransSegs of /proc/net/snmp), answers to SYN included.
 */
#include "endpoint.bpf.h"

#define SLOTS		 128
#define ETH_IPV6	 0x86dd
#define TCP_TIME_WAIT	 6
#define TCP_NEW_SYN_RECV 12

struct sock_common {
	__u32 skc_daddr;
	__u16 skc_dport; /* network byte order */
	__u16 skc_num;
	__u16 skc_family;
	unsigned char skc_state;
	struct {
		unsigned char bytes[16];
	} skc_v6_daddr;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u32 sk_max_ack_backlog;
} __attribute__((preserve_access_index));

struct inet_sock {
	__u16 inet_sport; /* network byte order */
} __attribute__((preserve_access_index));

struct tcp_skb_cb {
	__u16 tcp_gso_segs;
} __attribute__((preserve_access_index));

struct sk_buff {
	char cb[48];
	unsigned char *head;
	__u16 protocol; /* network byte order */
	__u16 network_header;
	__u16 transport_header;
} __attribute__((preserve_access_index));

struct tcploss_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct tcploss_cpu);

static __always_inline void label_socket(struct endpoint *to, const struct sock *sk)
{
	__u32 v4 = 0, port = BPF_CORE_READ(sk, __sk_common.skc_num);
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	bool accepted = state == TCP_NEW_SYN_RECV;

	/* Neither of these is a whole socket. */
	if (state != TCP_NEW_SYN_RECV && state != TCP_TIME_WAIT)
		accepted = BPF_CORE_READ(sk, sk_max_ack_backlog);
	/* One that is closed has given its number back. */
	if (!port)
		port = __builtin_bswap16(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6)
		bpf_core_read(to->address, sizeof(to->address), &sk->__sk_common.skc_v6_daddr);
	else
		v4 = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	label_endpoint(to, v4, port, BPF_CORE_READ(sk, __sk_common.skc_dport), accepted);
}

/* Of a segment that came and that no socket wanted. */
static __always_inline void label_segment(struct endpoint *to, const struct sk_buff *skb)
{
	const unsigned char *head = BPF_CORE_READ(skb, head);
	const unsigned char *network = head + BPF_CORE_READ(skb, network_header);
	__u16 ports[2] = {}; /* the peer's, ours */
	__u32 v4 = 0;

	bpf_probe_read_kernel(ports, sizeof(ports), head + BPF_CORE_READ(skb, transport_header));
	if (BPF_CORE_READ(skb, protocol) == __builtin_bswap16(ETH_IPV6))
		bpf_probe_read_kernel(to->address, sizeof(to->address), network + 8);
	else
		bpf_probe_read_kernel(&v4, sizeof(v4), network + 12);
	label_endpoint(to, v4, __builtin_bswap16(ports[1]), ports[0], false);
}

static __always_inline int count(const struct sock *sk, const struct sk_buff *skb, int what,
				 __u32 times)
{
	struct tcploss_cpu *cpu = this_cpu(&cpus);
	struct endpoint end = {};
	struct weir_slot *slot;

	if (!cpu)
		return 0;
	add(&cpu->head.produced, times);
	if (sk)
		label_socket(&end, sk);
	else if (skb)
		label_segment(&end, skb);
	slot = slot_of(cpu->slots, SLOTS, end.address[0], end.address[1], end.ports);
	add(&slot->value[what], times);
	return 0;
}

SEC(TP "tcp_retransmit_skb")
int on_retransmit(__u64 *ctx)
{
	const struct sk_buff *skb = (const struct sk_buff *)ctx[1];
	__u32 segments = BPF_CORE_READ((const struct tcp_skb_cb *)&skb->cb, tcp_gso_segs);

	return count((const struct sock *)ctx[0], NULL, 0, segments ? segments : 1);
}

SEC(TP "tcp_retransmit_synack")
int on_answer_again(__u64 *ctx)
{
	/* A struct request_sock, which begins as a socket does, too. */
	return count((const struct sock *)ctx[1], NULL, 0, 1);
}

SEC(TP "tcp_send_reset")
int on_reset_sent(__u64 *ctx)
{
	return count((const struct sock *)ctx[0], (const struct sk_buff *)ctx[1], 1, 1);
}

SEC(TP "tcp_receive_reset")
int on_reset_received(__u64 *ctx)
{
	return count((const struct sock *)ctx[0], NULL, 2, 1);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
