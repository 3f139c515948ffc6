// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Time in software interrupts, by vector. They don't nest on a CPU. In place of a histogram's
 * buckets: word v counts runs of vector v, word 16 + v their nanoseconds, and word 63 is the start
 * of the run that goes on.
 */
#include "common.bpf.h"

#define VECTORS 16

struct softirq_cpu {
	struct weir_head head;
	struct weir_hist words;
};

WEIR_CPUS(struct softirq_cpu);

SEC(TP "softirq_entry")
int BPF_PROG(on_entry)
{
	struct softirq_cpu *cpu = this_cpu(&cpus);

	if (cpu)
		cpu->words.bucket[63] = bpf_ktime_get_ns();
	return 0;
}

SEC(TP "softirq_exit")
int BPF_PROG(on_exit, unsigned int vector)
{
	struct softirq_cpu *cpu = this_cpu(&cpus);
	__u64 start;

	if (!cpu)
		return 0;
	start = cpu->words.bucket[63];
	if (!start) /* attached in the middle of it */
		return 0;
	vector &= VECTORS - 1;
	cpu->words.bucket[63] = 0;
	cpu->head.produced++;
	cpu->words.bucket[vector]++;
	cpu->words.bucket[VECTORS + vector] += bpf_ktime_get_ns() - start;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
