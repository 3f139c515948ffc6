/* Helpers every probe uses. SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#ifndef WEIR_COMMON_BPF_H
#define WEIR_COMMON_BPF_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "layout.h"

/* Smallest b with ns <= 2^b: the bucket of layout.h. A ladder, as BPF has no count-leading-zeros.
 */
static __always_inline __u32 bucket_of(__u64 ns)
{
	__u64 v = ns ? ns - 1 : 0;
	__u32 b = 0;

	if (v >> 32) {
		v >>= 32;
		b += 32;
	}
	if (v >> 16) {
		v >>= 16;
		b += 16;
	}
	if (v >> 8) {
		v >>= 8;
		b += 8;
	}
	if (v >> 4) {
		v >>= 4;
		b += 4;
	}
	if (v >> 2) {
		v >>= 2;
		b += 2;
	}
	if (v >> 1) {
		v >>= 1;
		b += 1;
	}
	return (b + (__u32)v) & (WEIR_BUCKETS - 1);
}

#endif
