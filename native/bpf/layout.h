/* What the probes and their readers agree on; included by the BPF objects and by user space.
 *
 * Every probe has a map `cpus`: an mmapable array with one element per possible CPU, so that a CPU
 * only ever writes its own cache lines. An element is a head, the probe's histograms, and its
 * slots; in words of 64 bits:
 *
 *   0         produced  events that were to be counted or sent
 *   1         lost      of these, the ones that could not be
 *   2 + k     sum_ns    sum of histogram k, in nanoseconds
 *   8 + 64k   bucket    of histogram k: bucket b counts (2^(b-1), 2^b] ns, bucket 0 up to 1 ns
 *
 * Slots, where there are any, count by label: an open-addressed table of a power of two of them and
 * one more, the last, for what found no place. User space adds the CPUs' tables up by id.
 *
 * Counters only grow while the probe is loaded and start at 0 with each load.
 */
#ifndef WEIR_BPF_LAYOUT_H
#define WEIR_BPF_LAYOUT_H

#include <linux/types.h>

#define WEIR_BUCKETS	64
#define WEIR_CACHE_LINE 64
#define WEIR_COMM_LEN	16

struct weir_head {
	__u64 produced;
	__u64 lost;
	__u64 sum_ns[6];
};

struct weir_hist {
	__u64 bucket[WEIR_BUCKETS];
};

#define WEIR_SLOT_READY (1ULL << 63)

struct weir_slot {
	__u64 id;	/* hash of the labels; 0: free, or the one for all others */
	__u64 label[3]; /* as the probe says; the last one has WEIR_SLOT_READY once all are there */
	__u64 value[4];
};

enum weir_event_kind {
	WEIR_EVENT_EXEC = 1,
	WEIR_EVENT_EXIT = 2,
	WEIR_EVENT_OPEN = 3,
	WEIR_EVENT_TEXT = 4,
};

/* A ring record is 64 bytes: the kernel's 8-byte header and this. */
struct weir_event {
	__u64 time_ns; /* CLOCK_BOOTTIME */
	/* exit: since the process was forked; exec: 0 */
	__u64 lifetime_ns;
	__u32 kind;   /* enum weir_event_kind */
	__u32 pid;    /* of the process, in the initial pid namespace */
	__u32 ppid;   /* open: of the thread */
	__u32 status; /* exit: as wait(2) reports it; exec: 0; open: the result */
	__u32 uid;    /* real user */
	__u32 zero;
	char comm[WEIR_COMM_LEN]; /* NUL-padded */
};

#define WEIR_TEXT_BYTES 32

/* Part of a text that belongs to the event of the same thread and time. */
struct weir_text {
	__u64 time_ns;
	__u64 part;
	__u32 kind; /* WEIR_EVENT_TEXT */
	__u32 tid;
	char text[WEIR_TEXT_BYTES];
};

/* A TCP connection, as the table of connections has it (connections.bpf.c, net/connections.cc). */
struct weir_connection {
	__u64 local[2]; /* addresses, IPv4 mapped into IPv6, in network byte order */
	__u64 peer[2];
	__u16 local_port; /* host byte order */
	__u16 peer_port;
	__u8 state; /* TCP_ESTABLISHED (1) and so on */
	__u8 zero[3];
	__u32 receive_queue; /* bytes not read; of one that listens: connections that wait */
	__u32 send_queue;    /* bytes not acknowledged; of one that listens: how many may wait */
	__u32 retransmits;   /* segments sent again since it began */
	__u32 rtt_us;	     /* smoothed; 0: not known */
	__u32 uid;
	__u32 last; /* zero */
};

#define WEIR_RECORD_HEADER 8
#define WEIR_RECORD_STRIDE 64

#ifndef __cplusplus /* the C that loads the probes checks it */
_Static_assert(sizeof(struct weir_head) == WEIR_CACHE_LINE, "the head fills one cache line");
_Static_assert(sizeof(struct weir_slot) == WEIR_CACHE_LINE, "a slot fills one cache line");
_Static_assert(sizeof(struct weir_connection) == WEIR_CACHE_LINE, "a connection fills one, too");
_Static_assert(sizeof(struct weir_text) == sizeof(struct weir_event), "one size of records");
_Static_assert(sizeof(struct weir_event) + WEIR_RECORD_HEADER == WEIR_RECORD_STRIDE,
	       "a record fills one cache line");
#endif

#endif
