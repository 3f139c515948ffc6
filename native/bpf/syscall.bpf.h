/* System calls on x64 and arm64 with one object. SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
 *
 * Which of the two it is, the kernel's own pt_regs says when the program is loaded; the other
 * branch is then dead code. Calls of 32-bit programs have other numbers and are not told apart.
 */
#ifndef WEIR_SYSCALL_BPF_H
#define WEIR_SYSCALL_BPF_H

#include "common.bpf.h"

struct pt_regs___x64 {
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
} __attribute__((preserve_access_index));

struct pt_regs___arm64 {
	__u64 regs[31];
	int syscallno;
} __attribute__((preserve_access_index));

#define ON_ARM64 bpf_core_field_exists(struct pt_regs___arm64, syscallno)

/* The number of the call that ends. */
static __always_inline long syscall_number(const void *regs)
{
	if (ON_ARM64)
		return BPF_CORE_READ((const struct pt_regs___arm64 *)regs, syscallno);
	return BPF_CORE_READ((const struct pt_regs___x64 *)regs, orig_ax);
}

#endif
