// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Time in software interrupts, by vector. They don't nest on a CPU. In place of a histogram's
 * buckets: word v counts runs of vector v, word 16 + v the nanoseconds of those that were timed,
 * word 32 + v their number, and word 63 is the start of the timed run that goes on.
 *
 * Reading the clock is most of what this costs, so while a CPU has many of them not all are timed:
 * of those in one jiffy (head.sum_ns[5]) the first four, the 8th, the 16th and so on.
 */
#include "common.bpf.h"

#define VECTORS	  16
#define ALL_TIMED 4

struct softirq_cpu {
	struct weir_head head;
	struct weir_hist words;
};

WEIR_CPUS(struct softirq_cpu);

SEC(TP "softirq_entry")
int BPF_PROG(on_entry)
{
	struct softirq_cpu *cpu = this_cpu(&cpus);
	__u64 jiffy = bpf_jiffies64(), nth;

	if (!cpu)
		return 0;
	if (cpu->head.sum_ns[5] != jiffy) {
		cpu->head.sum_ns[5] = jiffy;
		cpu->head.sum_ns[4] = 0;
	}
	nth = ++cpu->head.sum_ns[4];
	if (nth <= ALL_TIMED || !(nth & (nth - 1)))
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
	vector &= VECTORS - 1;
	cpu->head.produced++;
	cpu->words.bucket[vector]++;
	start = cpu->words.bucket[63];
	if (!start)
		return 0;
	cpu->words.bucket[63] = 0;
	cpu->words.bucket[VECTORS + vector] += bpf_ktime_get_ns() - start;
	cpu->words.bucket[2 * VECTORS + vector]++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
