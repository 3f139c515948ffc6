// weir-jail: what its parts share. launcher.c has the order in which they run and why.
//
// Every layer degrades alone: a part that cannot put its layer up records the reason and returns, and the
// next one runs. Only a state that is neither the old nor the new one (a half-changed identity) ends the
// launcher.
#ifndef WEIR_JAIL_H_
#define WEIR_JAIL_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// Must match `jailLayers` in src/plugins/jail.ts ("permission" there is Node's own).
enum layer {
  LAYER_DESCRIPTORS,
  LAYER_ENVIRONMENT,
  LAYER_OOM,
  LAYER_MEMORY_CGROUP,
  LAYER_PIDS_CGROUP,
  LAYER_NETWORK,
  LAYER_RLIMITS,
  LAYER_CAPABILITIES,
  LAYER_UID,
  LAYER_NO_NEW_PRIVS,
  LAYER_PARENT,
  LAYER_LANDLOCK,
  LAYER_SECCOMP,
  LAYER_COUNT
};

enum { MAX_PATHS = 250, MAX_ENV = 64 };

// What the command line asked for; strings point into argv.
struct config {
  int report_fd;  // --report: the JSON report goes here; closed by the execve
  int keep;       // --keep: descriptors 0 … keep-1 stay open
  pid_t parent;   // --parent: who must still be there; 0 = not given
  uid_t uid;      // --uid, --gid: who to become when started as root; 0 = stay
  gid_t gid;
  uint64_t memory;              // --memory: bytes for the memory cgroup; 0 = not given
  uint64_t data;                // --data: RLIMIT_DATA in bytes
  uint64_t files;               // --files: RLIMIT_NOFILE
  uint64_t threads;             // --threads: pids.max, and a quarter of RLIMIT_NPROC
  int oom_score_adj;            // --oom
  const char *read[MAX_PATHS];  // --read: files and folders that may be read
  int reads;
  char *env[MAX_ENV + 1];  // --env NAME=VALUE: the whole environment
  int envs;
  char **argv;                // after "--"; argv[0] is the absolute path of the program
  bool enabled[LAYER_COUNT];  // --without, --only
};

// The arguments of the one execve that the filter lets through; see seccomp.c.
struct exec_call {
  const char *path;
  char **argv;
  char **envp;
};

// report.c
extern const char *const layer_names[LAYER_COUNT];
void layer_on(enum layer layer);
void layer_off(enum layer layer);
__attribute__((format(printf, 2, 3))) void layer_partial(enum layer layer, const char *format, ...);
__attribute__((format(printf, 2, 3))) void layer_unavailable(enum layer layer, const char *format, ...);
void report_group(const char *path);
void report_write(int fd);
__attribute__((noreturn, format(printf, 2, 3))) void fatal(int fd, const char *format, ...);

// layers.c, in the order of their use
void close_descriptors(const struct config *config);
void set_oom_score(const struct config *config);
bool isolate_network(const struct config *config);
void set_rlimits(const struct config *config, bool own_uid);
void clear_bounding_set(const struct config *config);
bool uid_is_usable(const struct config *config);
void become_uid(const struct config *config);
bool isolate_network_unprivileged(const struct config *config);
void drop_capabilities(const struct config *config);
void set_no_new_privs(const struct config *config);
void die_with_parent(const struct config *config);

// cgroup.c
void enter_cgroups(const struct config *config);

// landlock.c
void restrict_with_landlock(const struct config *config);

// seccomp.c
void hide_exec_call(struct exec_call *call);
void install_filter(const struct config *config, const struct exec_call *call);

#endif  // WEIR_JAIL_H_
