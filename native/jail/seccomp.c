// The system calls a jailed Node needs; any other answers EPERM. Classic BPF by hand: per call a compare, for
// some a look at the arguments, so pointers' targets are out of its sight (paths are Landlock's affair).
//
// A call of another architecture ends the process. ENOSYS, which C libraries answer with an older call, for
// clone3, io_uring, x32 and everything newer than this file.
//
// The one execve. A filter that allowed execve would let hostile native code start programs, one that forbids
// it forbids Node's own start. So the filter lets a single call through: the one whose path, argv and envp
// pointers all are addresses drawn at random for it (hide_exec_call). Those addresses die with the launcher's
// address space, nothing hands them on, and the compare takes the same time however much of a guess is right,
// so making the call again is a guess at about 100 bits.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jail.h"

#if defined(__x86_64__)
#define JAIL_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define JAIL_ARCH AUDIT_ARCH_AARCH64
#else
#define JAIL_ARCH 0
#endif

#ifndef __NR_mseal
#define __NR_mseal 462
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

// Allowed whatever the arguments; the hot ones first (before Linux 5.11 each call walks the list).
// clang-format off
static const int allowed_calls[] = {
    // memory and threads
    __NR_futex, __NR_madvise, __NR_mmap, __NR_munmap, __NR_mprotect, __NR_mremap, __NR_brk, __NR_membarrier,
    __NR_pkey_alloc, __NR_pkey_free, __NR_pkey_mprotect, __NR_mseal, __NR_mincore, __NR_set_robust_list,
    __NR_get_robust_list, __NR_rseq, __NR_set_tid_address, __NR_sched_yield, __NR_sched_getaffinity,
    __NR_sched_getparam, __NR_sched_getscheduler, __NR_getcpu, __NR_exit, __NR_exit_group,
    // time
    __NR_clock_gettime, __NR_clock_getres, __NR_clock_nanosleep, __NR_nanosleep, __NR_gettimeofday,
    // the loop, and descriptors that are already open
    __NR_read, __NR_write, __NR_readv, __NR_writev, __NR_pread64, __NR_preadv, __NR_lseek, __NR_close,
    __NR_dup, __NR_dup3, __NR_epoll_create1, __NR_epoll_ctl, __NR_epoll_pwait, __NR_ppoll, __NR_eventfd2,
    __NR_pipe2, __NR_recvmsg, __NR_sendmsg, __NR_recvfrom, __NR_shutdown, __NR_getsockopt, __NR_getsockname,
    __NR_getpeername,
    // looking at files
    __NR_fstat, __NR_newfstatat, __NR_statx, __NR_statfs, __NR_fstatfs, __NR_faccessat, __NR_faccessat2,
    __NR_readlinkat, __NR_getcwd, __NR_getdents64, __NR_fadvise64,
    // its own signals and identity
    __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_rt_sigreturn, __NR_rt_sigpending, __NR_rt_sigsuspend,
    __NR_rt_sigtimedwait, __NR_sigaltstack, __NR_restart_syscall, __NR_getpid, __NR_getppid, __NR_gettid,
    __NR_getuid, __NR_geteuid, __NR_getgid, __NR_getegid, __NR_getresuid, __NR_getresgid, __NR_getgroups,
    __NR_capget, __NR_uname, __NR_sysinfo, __NR_getrusage, __NR_times, __NR_getrandom,
#if defined(__x86_64__)
    // calls that newer architectures never had
    __NR_stat, __NR_lstat, __NR_access, __NR_readlink, __NR_poll, __NR_epoll_wait, __NR_epoll_create,
    __NR_eventfd, __NR_dup2, __NR_pipe, __NR_time, __NR_getrlimit, __NR_getdents,
#endif
};
// clang-format on

// Allowed when the low 32 bits of one argument, masked, are one of a few values. Those bits are all that the
// kernel uses of it.
struct argument_rule {
  int call;
  int argument;
  uint32_t mask;
  uint32_t values[10];
  int count;
};

#define TMPFILE_BIT 020000000  // O_TMPFILE without O_DIRECTORY, which is harmless alone
#define WRITES (O_ACCMODE | O_CREAT | O_TRUNC | TMPFILE_BIT)

static const struct argument_rule argument_rules[] = {
    {__NR_clone, 0, CLONE_THREAD, {CLONE_THREAD}, 1},
    {__NR_openat, 2, WRITES, {O_RDONLY}, 1},
    {__NR_fcntl, 1, ~0U, {F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC}, 5},
    {__NR_ioctl, 1, ~0U, {FIONBIO, FIOCLEX, FIONREAD, TCGETS, TIOCGWINSZ}, 5},
    {__NR_prctl, 0, ~0U, {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA}, 3},
#if defined(__x86_64__)
    {__NR_open, 1, WRITES, {O_RDONLY}, 1},
    {__NR_arch_prctl, 0, ~0U, {0x1002 /* ARCH_SET_FS */, 0x1003 /* ARCH_GET_FS */}, 2},
#endif
};

// Answered with ENOSYS, like every number from FIRST_UNKNOWN on (x32's begin at 0x40000000).
static const int unknown_calls[] = {
    435 /* clone3 */,
    425 /* io_uring_setup */,
    426 /* io_uring_enter */,
    427 /* io_uring_register */,
};
enum { FIRST_UNKNOWN = 470 };

enum { MAX_INSTRUCTIONS = 512 };

struct program {
  struct sock_filter code[MAX_INSTRUCTIONS];
  unsigned short length;
};

static void emit(struct program *program, uint16_t code, uint32_t value, uint8_t if_true, uint8_t if_false) {
  if (program->length == MAX_INSTRUCTIONS) fatal(STDERR_FILENO, "the filter is too long");
  program->code[program->length++] = (struct sock_filter)BPF_JUMP(code, value, if_true, if_false);
}

static void load(struct program *program, size_t offset) {
  emit(program, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void answer(struct program *program, uint32_t action) { emit(program, BPF_RET | BPF_K, action, 0, 0); }

// `if A == value: answer(action)`, and on.
static void answer_if(struct program *program, uint32_t value, uint32_t action) {
  emit(program, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
  answer(program, action);
}

static size_t low_half(int argument) { return offsetof(struct seccomp_data, args) + 8 * (size_t)argument; }

#define REFUSE (SECCOMP_RET_ERRNO | EPERM)
#define UNKNOWN (SECCOMP_RET_ERRNO | ENOSYS)

// `if nr == call: { … }`: the block must end in answers; the jump over it is set when it is complete.
static unsigned short begin_block(struct program *program, int call) {
  emit(program, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 0);
  return (unsigned short)(program->length - 1);
}

static void end_block(struct program *program, unsigned short start) {
  answer(program, REFUSE);
  program->code[start].jf = (uint8_t)(program->length - start - 1);
}

static void add_argument_rule(struct program *program, const struct argument_rule *rule) {
  unsigned short start = begin_block(program, rule->call);
  load(program, low_half(rule->argument));
  emit(program, BPF_ALU | BPF_AND | BPF_K, rule->mask, 0, 0);
  for (int index = 0; index < rule->count; index++)
    answer_if(program, rule->values[index], SECCOMP_RET_ALLOW);
  end_block(program, start);
}

// Signals to the process itself only: the launcher's pid stays Node's.
static void add_own_pid_rule(struct program *program, int call) {
  struct argument_rule rule = {call, 0, ~0U, {(uint32_t)getpid()}, 1};
  add_argument_rule(program, &rule);
}

// M[0] |= the given half of an argument - value; 0 at the end when all were equal.
static void collect_difference(struct program *program, size_t offset, uint32_t value) {
  load(program, offset);
  emit(program, BPF_ALU | BPF_SUB | BPF_K, value, 0, 0);
  emit(program, BPF_LDX | BPF_MEM, 0, 0, 0);
  emit(program, BPF_ALU | BPF_OR | BPF_X, 0, 0, 0);
  emit(program, BPF_ST, 0, 0, 0);
}

// Allows `call` when the listed arguments have exactly these 64-bit values; every half is looked at, always.
static void add_exact_rule(struct program *program, int call, int first, const uint64_t *values, int count) {
  unsigned short start = begin_block(program, call);
  emit(program, BPF_LD | BPF_IMM, 0, 0, 0);
  emit(program, BPF_ST, 0, 0, 0);
  for (int index = 0; index < count; index++) {
    collect_difference(program, low_half(first + index), (uint32_t)values[index]);
    collect_difference(program, low_half(first + index) + 4, (uint32_t)(values[index] >> 32));
  }
  emit(program, BPF_LD | BPF_MEM, 0, 0, 0);
  answer_if(program, 0, SECCOMP_RET_ALLOW);
  end_block(program, start);
}

static void build(struct program *program, const struct exec_call *call) {
  load(program, offsetof(struct seccomp_data, arch));
  emit(program, BPF_JMP | BPF_JEQ | BPF_K, JAIL_ARCH, 1, 0);
  answer(program, SECCOMP_RET_KILL_PROCESS);
  load(program, offsetof(struct seccomp_data, nr));
  emit(program, BPF_JMP | BPF_JGE | BPF_K, FIRST_UNKNOWN, 0, 1);
  answer(program, UNKNOWN);

  for (size_t index = 0; index < sizeof allowed_calls / sizeof allowed_calls[0]; index++) {
    answer_if(program, (uint32_t)allowed_calls[index], SECCOMP_RET_ALLOW);
  }
  for (size_t index = 0; index < sizeof argument_rules / sizeof argument_rules[0]; index++) {
    add_argument_rule(program, &argument_rules[index]);
  }
  add_own_pid_rule(program, __NR_kill);
  add_own_pid_rule(program, __NR_tgkill);
  const uint64_t reads_limit_only = 0;  // prlimit64(pid, resource, new == NULL, old)
  add_exact_rule(program, __NR_prlimit64, 2, &reads_limit_only, 1);
  const uint64_t secret[] = {(uintptr_t)call->path, (uintptr_t)call->argv, (uintptr_t)call->envp};
  add_exact_rule(program, __NR_execve, 0, secret, 3);
  for (size_t index = 0; index < sizeof unknown_calls / sizeof unknown_calls[0]; index++) {
    answer_if(program, (uint32_t)unknown_calls[index], UNKNOWN);
  }
  answer(program, REFUSE);
}

void install_filter(const struct config *config, const struct exec_call *call) {
  (void)config;
  if (JAIL_ARCH == 0) {
    layer_unavailable(LAYER_SECCOMP, "there is no filter for this architecture");
    return;
  }
  static struct program program;
  build(&program, call);
  struct sock_fprog loaded = {.len = program.length, .filter = program.code};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &loaded) == 0) {
    layer_on(LAYER_SECCOMP);
  } else {
    layer_unavailable(LAYER_SECCOMP, "%s", strerror(errno));
  }
  explicit_bzero(&program, sizeof program);
}

// `size` bytes copied to an address that nobody can guess: 38 bits of it even where address spaces have
// only 39.
static void *copy_to_secret(const void *bytes, size_t size) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t mapped = (size + 2 * page - 1) / page * page;
  for (int try = 0; try < 64; try++) {
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random) break;
    const uint64_t bits = try < 32 ? 46 : 38;
    const uint64_t address = (random >> (64 - bits)) & ~(uint64_t)(page - 1);
    if (address < 1U << 20) continue;
    char *base = mmap((void *)(uintptr_t)address, mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (base == MAP_FAILED) continue;
    // Somewhere on the page too, aligned as pointers must be.
    char *place = base + (random % (mapped - size + 1) & ~(uint64_t)(sizeof(void *) - 1));
    return memcpy(place, bytes, size);
  }
  return NULL;
}

static size_t array_size(char *const *array) {
  size_t count = 0;
  while (array[count] != NULL) count++;
  return (count + 1) * sizeof *array;
}

// Moves what execve will point at to three random places.
void hide_exec_call(struct exec_call *call) {
  call->path = copy_to_secret(call->path, strlen(call->path) + 1);
  call->argv = copy_to_secret(call->argv, array_size(call->argv));
  call->envp = copy_to_secret(call->envp, array_size(call->envp));
  if (call->path == NULL || call->argv == NULL || call->envp == NULL) {
    fatal(STDERR_FILENO, "no memory for the execve");
  }
}
