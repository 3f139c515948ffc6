// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* TCP going wrong: segments sent again, resets sent and received, by the local port and the peer.
 * Slots: labels of endpoint.bpf.h; value 0 sent again, 1 resets sent, 2 resets received.
 */
#include "endpoint.bpf.h"

#define SLOTS 128

struct sock_common {
	__u32 skc_daddr;
	__u16 skc_dport; /* network byte order */
	__u16 skc_num;
	__u16 skc_family;
	struct {
		unsigned char bytes[16];
	} skc_v6_daddr;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
} __attribute__((preserve_access_index));

struct tcploss_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct tcploss_cpu);

static __always_inline int count(const struct sock *sk, int what)
{
	struct tcploss_cpu *cpu = this_cpu(&cpus);
	struct endpoint end = {};
	struct weir_slot *slot;
	__u32 v4 = 0;

	if (!cpu)
		return 0;
	add(&cpu->head.produced, 1);
	if (sk) { /* none: a reset to nobody's segment */
		if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6)
			bpf_core_read(end.address, sizeof(end.address),
				      &sk->__sk_common.skc_v6_daddr);
		else
			v4 = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		label_endpoint(&end, v4, BPF_CORE_READ(sk, __sk_common.skc_num),
			       BPF_CORE_READ(sk, __sk_common.skc_dport));
	}
	slot = slot_of(cpu->slots, SLOTS, end.address[0], end.address[1], end.ports);
	add(&slot->value[what], 1);
	return 0;
}

SEC(TP "tcp_retransmit_skb")
int on_retransmit(__u64 *ctx)
{
	return count((const struct sock *)ctx[0], 0);
}

SEC(TP "tcp_send_reset")
int on_reset_sent(__u64 *ctx)
{
	return count((const struct sock *)ctx[0], 1);
}

SEC(TP "tcp_receive_reset")
int on_reset_received(__u64 *ctx)
{
	return count((const struct sock *)ctx[0], 2);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
