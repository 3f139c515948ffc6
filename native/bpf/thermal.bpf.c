// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Thermal zones that crossed a trip point. Slots: label: the zone's type, type, trip | kind of trip
 * << 16; value 0 times.
 */
#include "common.bpf.h"

#define SLOTS 32

struct thermal_zone_device {
	char type[20];
} __attribute__((preserve_access_index));

struct thermal_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct thermal_cpu);

SEC(TP "thermal_zone_trip")
int on_trip(__u64 *ctx)
{
	struct thermal_cpu *cpu = this_cpu(&cpus);
	struct thermal_zone_device *zone = (void *)ctx[0];
	__u64 name[2] = {}, trip = (ctx[1] & 0xffff) | (ctx[2] & 0xffff) << 16;

	if (!cpu)
		return 0;
	bpf_core_read(name, sizeof(name), &zone->type);
	add(&cpu->head.produced, 1);
	add(&slot_of(cpu->slots, SLOTS, name[0], name[1], trip)->value[0], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
