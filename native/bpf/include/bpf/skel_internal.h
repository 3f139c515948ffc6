/* What the light skeletons that `bpftool gen skeleton -L` writes need from libbpf-dev's header of
 * the same name, so that a machine without libbpf can compile them: they call the functions below
 * and nothing else. User space only; needs the C library's <linux/bpf.h> and no libbpf.
 *
 * `struct bpf_map_desc`, `bpf_prog_desc`, `bpf_loader_ctx` are an agreement with the generated
 * loader program, not with the kernel. scripts/gen-skeletons.mjs pins the bpftool whose agreement
 * this is.
 *
 * Where a load stops is kept in `weir_skel_step`, which the generated code has no way to hand on.
 */
#ifndef WEIR_SKEL_INTERNAL_H
#define WEIR_SKEL_INTERNAL_H

#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct bpf_map_desc {
	int map_fd;	   /* out */
	__u32 max_entries; /* in; 0 keeps the object's own */
	__aligned_u64 initial_value;
};

struct bpf_prog_desc {
	int prog_fd; /* out */
};

struct bpf_loader_ctx {
	__u32 sz;
	__u32 flags;
	__u32 log_level;
	__u32 log_size;
	__u64 log_buf;
};

struct bpf_load_and_run_opts {
	struct bpf_loader_ctx *ctx;
	const void *data;
	const void *insns;
	__u32 data_sz;
	__u32 insns_sz;
	const char *errstr;
};

static __thread const char *weir_skel_step;

#define WEIR_ATTR_SIZE(member)                                                                     \
	(offsetof(union bpf_attr, member) + sizeof(((union bpf_attr *)0)->member))

/* Returns a descriptor or 0, or -errno. */
static inline int skel_sys_bpf(enum bpf_cmd cmd, union bpf_attr *attr, unsigned int size)
{
	long ret = syscall(__NR_bpf, cmd, attr, size);

	return ret < 0 ? -errno : (int)ret;
}

static inline void *skel_alloc(size_t size)
{
	return calloc(1, size);
}

static inline void skel_free(void *p)
{
	free(p);
}

static inline int skel_closenz(int fd)
{
	return fd > 0 ? close(fd) : -EINVAL;
}

static inline int skel_raw_tracepoint_open(const char *name, int prog_fd)
{
	union bpf_attr attr = {};

	attr.raw_tracepoint.name = (unsigned long)name;
	attr.raw_tracepoint.prog_fd = prog_fd;
	weir_skel_step = "attach to the tracepoint";
	return skel_sys_bpf(BPF_RAW_TRACEPOINT_OPEN, &attr, WEIR_ATTR_SIZE(raw_tracepoint.prog_fd));
}

/* For iterators: `target_fd` is not used by theirs. */
static inline int skel_link_create(int prog_fd, int target_fd, enum bpf_attach_type attach_type)
{
	union bpf_attr attr = {};

	attr.link_create.prog_fd = prog_fd;
	attr.link_create.target_fd = target_fd;
	attr.link_create.attach_type = attach_type;
	weir_skel_step = "attach the iterator";
	return skel_sys_bpf(BPF_LINK_CREATE, &attr, WEIR_ATTR_SIZE(link_create.iter_info_len));
}

/* Loads the loader program with its data and runs it once; it creates the maps and loads the
 * programs. */
static inline int bpf_load_and_run(struct bpf_load_and_run_opts *opts)
{
	union bpf_attr create = {}, update = {}, load = {}, run = {};
	int map_fd, prog_fd = -1, key = 0, err;

	weir_skel_step = "create the loader's map";
	create.map_type = BPF_MAP_TYPE_ARRAY;
	create.key_size = sizeof(key);
	create.value_size = opts->data_sz;
	create.max_entries = 1;
	memcpy(create.map_name, "__loader.map", sizeof("__loader.map"));
	err = map_fd = skel_sys_bpf(BPF_MAP_CREATE, &create, WEIR_ATTR_SIZE(map_extra));
	if (map_fd < 0)
		return err;

	weir_skel_step = "fill the loader's map";
	update.map_fd = map_fd;
	update.key = (unsigned long)&key;
	update.value = (unsigned long)opts->data;
	err = skel_sys_bpf(BPF_MAP_UPDATE_ELEM, &update, WEIR_ATTR_SIZE(flags));
	if (err < 0)
		goto out;

	weir_skel_step = "load the loader program";
	load.prog_type = BPF_PROG_TYPE_SYSCALL;
	load.insns = (unsigned long)opts->insns;
	load.insn_cnt = opts->insns_sz / sizeof(struct bpf_insn);
	load.license = (unsigned long)"Dual BSD/GPL";
	load.fd_array = (unsigned long)&map_fd;
	load.prog_flags = BPF_F_SLEEPABLE;
	memcpy(load.prog_name, "__loader.prog", sizeof("__loader.prog"));
	err = prog_fd = skel_sys_bpf(BPF_PROG_LOAD, &load, WEIR_ATTR_SIZE(fd_array));
	if (prog_fd < 0)
		goto out;

	weir_skel_step = "create the maps and load the programs";
	run.test.prog_fd = prog_fd;
	run.test.ctx_in = (unsigned long)opts->ctx;
	run.test.ctx_size_in = opts->ctx->sz;
	err = skel_sys_bpf(BPF_PROG_RUN, &run, WEIR_ATTR_SIZE(test));
	if (err >= 0)
		err = (int)run.test.retval < 0 ? (int)run.test.retval : 0;
out:
	close(map_fd);
	if (prog_fd >= 0)
		close(prog_fd);
	return err;
}

#endif
