#define _GNU_SOURCE
#include "connections.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "connections.lskel.h"

struct table {
	struct weir_connections *skel;
	uint64_t seen;
	uint64_t unkept;
};

int weir_load_connections(struct weir_probe *probe, char *log, size_t log_size, const char **step)
{
	struct table *table = calloc(1, sizeof(*table));
	int err = -ENOMEM;

	*step = "allocate the table";
	if (!table)
		return err;
	table->skel = weir_connections__open();
	if (!table->skel)
		goto failed;
	table->skel->ctx.log_level = log_size ? 1 : 0;
	table->skel->ctx.log_buf = (unsigned long)log;
	table->skel->ctx.log_size = log_size;
	err = weir_connections__load(table->skel);
	if (!err)
		err = weir_connections__attach(table->skel);
	*step = weir_skel_step;
	if (err)
		goto failed;
	probe->skeleton = table;
	probe->program_count = 1;
	probe->program_fds[0] = table->skel->progs.on_connection.prog_fd;
	return 0;
failed:
	weir_destroy_connections(table);
	return err;
}

void weir_destroy_connections(void *at)
{
	struct table *table = at;

	weir_connections__destroy(table->skel);
	free(table);
}

void weir_count_connections(const void *at, uint64_t *words)
{
	const struct table *table = at;

	words[0] = table->seen;
	words[1] = table->unkept;
}

int64_t weir_read_connections(const struct weir_probe *probe, struct weir_connection *into,
			      size_t room, size_t *seen)
{
	struct table *table = probe->skeleton;
	struct weir_connection rest[64]; /* what has no room is only counted */
	union bpf_attr attr = {};
	size_t bytes = 0, kept = room * sizeof(*into);
	ssize_t got;
	int fd;

	attr.iter_create.link_fd = table->skel->links.on_connection_fd;
	fd = skel_sys_bpf(BPF_ITER_CREATE, &attr, WEIR_ATTR_SIZE(iter_create));
	if (fd < 0)
		return fd;
	for (;;) {
		got = bytes < kept ? read(fd, (uint8_t *)into + bytes, kept - bytes)
				   : read(fd, rest, sizeof(rest));
		if (got > 0)
			bytes += got;
		/* EAGAIN: the kernel paused after a million that it had nothing to say of. */
		else if (got == 0 || (errno != EINTR && errno != EAGAIN))
			break;
	}
	got = got < 0 ? -errno : 0;
	close(fd);
	if (got < 0)
		return got;
	*seen = bytes / sizeof(*into);
	if (*seen < room)
		room = *seen;
	table->seen += *seen;
	table->unkept += *seen - room;
	return (int64_t)room;
}
