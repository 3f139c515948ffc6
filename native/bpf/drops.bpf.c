// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Packets that the kernel dropped, by its reason (enum skb_drop_reason of the running kernel) and
 * the interface. Slots: label: interface name, name, reason; value 0 packets, 1 bytes.
 */
#include "common.bpf.h"

#define SLOTS		128
#define MOST_INTERFACES (1 << 24)

struct net_device {
	char name[16];
	int ifindex;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
	unsigned int len;
} __attribute__((preserve_access_index));

struct drops_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct drops_cpu);

SEC(TP "kfree_skb")
int on_drop(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	__u32 reason = ctx[2];
	struct drops_cpu *cpu = this_cpu(&cpus);
	struct net_device *device;
	__u64 name[2] = {};
	struct weir_slot *slot;

	if (!cpu)
		return 0;
	/* The field is used for other things while a packet is in a queue of TCP, and may still
	 * hold them: never followed directly, and no name unless a device is there. */
	device = BPF_CORE_READ(skb, dev);
	if (device && bpf_core_read_str(name, sizeof(name), &device->name) > 1 &&
	    (__u32)BPF_CORE_READ(device, ifindex) - 1 >= MOST_INTERFACES)
		name[0] = name[1] = 0;
	add(&cpu->head.produced, 1);
	slot = slot_of(cpu->slots, SLOTS, name[0], name[1], reason);
	add(&slot->value[0], 1);
	add(&slot->value[1], READ(skb, len));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
