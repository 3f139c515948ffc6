// The layers that need no more than a few calls each. launcher.c has their order.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jail.h"

#ifndef __NR_close_range
#define __NR_close_range 436
#endif

// One range of descriptors; kernels before 5.9 have no call for it.
static void close_from(unsigned first, unsigned last) {
  if (first > last || syscall(__NR_close_range, first, last, 0) == 0) return;
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  for (unsigned fd = first; fd <= last && fd < limit.rlim_max && fd < 1U << 20; fd++) close((int)fd);
}

void close_descriptors(const struct config *config) {
  if (!config->enabled[LAYER_DESCRIPTORS]) return;
  close_from((unsigned)config->keep, (unsigned)config->report_fd - 1);
  close_from((unsigned)config->report_fd + 1, ~0U);
  layer_on(LAYER_DESCRIPTORS);
}

// Makes the kernel choose this process before the agent when memory runs out.
void set_oom_score(const struct config *config) {
  if (!config->enabled[LAYER_OOM]) return;
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  bool done = fd >= 0 && dprintf(fd, "%d", config->oom_score_adj) > 0;
  if (done) {
    layer_on(LAYER_OOM);
  } else {
    layer_unavailable(LAYER_OOM, "/proc/self/oom_score_adj: %s", strerror(errno));
  }
  if (fd >= 0) close(fd);
}

// An empty network namespace, when privileged. False: not yet.
bool isolate_network(const struct config *config) {
  if (!config->enabled[LAYER_NETWORK]) return true;
  if (unshare(CLONE_NEWNET) != 0) return false;
  layer_on(LAYER_NETWORK);
  return true;
}

// The same without privileges, inside a user namespace of our own without any mapping; true when that one was
// made.
bool isolate_network_unprivileged(const struct config *config) {
  (void)config;
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
    layer_unavailable(LAYER_NETWORK,
                      "no namespace: %s (start as root, or allow unprivileged user namespaces)",
                      strerror(errno));
    return false;
  }
  layer_on(LAYER_NETWORK);
  return true;
}

// Limits are only ever lowered. NPROC counts every process of a uid, so without a uid of its own it would
// count the agent's; the uid's other jailed processes (the vetting child, a host that takes over) share it:
// four times one process's threads.
void set_rlimits(const struct config *config, bool own_uid) {
  if (!config->enabled[LAYER_RLIMITS]) return;
  const struct {
    int resource;
    uint64_t value;
    const char *name;
    bool wanted;
  } limits[] = {
      {RLIMIT_DATA, config->data, "DATA", true},
      {RLIMIT_FSIZE, 0, "FSIZE", true},
      {RLIMIT_CORE, 0, "CORE", true},
      {RLIMIT_NOFILE, config->files, "NOFILE", true},
      {RLIMIT_MEMLOCK, 0, "MEMLOCK", true},
      {RLIMIT_MSGQUEUE, 0, "MSGQUEUE", true},
      {RLIMIT_RTPRIO, 0, "RTPRIO", true},
      {RLIMIT_NPROC, config->threads * 4, "NPROC", own_uid},
  };
  char failed[128] = "";
  for (size_t index = 0; index < sizeof limits / sizeof limits[0]; index++) {
    struct rlimit limit;
    if (!limits[index].wanted || getrlimit(limits[index].resource, &limit) != 0) continue;
    if (limits[index].value < limit.rlim_max) limit.rlim_max = limits[index].value;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(limits[index].resource, &limit) == 0) continue;
    size_t used = strlen(failed);
    snprintf(failed + used, sizeof failed - used, " %s", limits[index].name);
  }
  if (failed[0] != '\0') {
    layer_partial(LAYER_RLIMITS, "not set:%s", failed);
  } else if (!own_uid) {
    layer_partial(LAYER_RLIMITS,
                  "no limit on threads: it would count the agent's own, for want of another uid");
  } else {
    layer_on(LAYER_RLIMITS);
  }
}

// Empties the bounding and ambient sets and makes uid 0 an ordinary one. Fails harmlessly when not
// privileged: drop_capabilities looks at what remains.
void clear_bounding_set(const struct config *config) {
  if (!config->enabled[LAYER_CAPABILITIES]) return;
  for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
    prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  const unsigned long bits = SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_CAP_AMBIENT_RAISE;
  prctl(PR_SET_SECUREBITS, bits | SECURE_ALL_LOCKS, 0, 0, 0);
}

static int clear_capabilities(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  struct __user_cap_data_struct data[2] = {{0, 0, 0}, {0, 0, 0}};
  return (int)syscall(SYS_capset, &header, data);
}

void drop_capabilities(const struct config *config) {
  if (!config->enabled[LAYER_CAPABILITIES]) return;
  if (clear_capabilities() != 0) {
    layer_unavailable(LAYER_CAPABILITIES, "capset: %s", strerror(errno));
    return;
  }
  for (unsigned long capability = 0;; capability++) {
    int bound = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (bound < 0) break;
    if (bound == 0) continue;
    layer_partial(LAYER_CAPABILITIES,
                  "none held; the bounding set stays, clearing it needs root or a user namespace");
    return;
  }
  layer_on(LAYER_CAPABILITIES);
}

// The whole change of identity. SECBIT_NO_SETUID_FIXUP may be set: capabilities are cleared by someone else.
static bool change_ids(uid_t uid, gid_t gid) {
  return setgroups(0, NULL) == 0 && setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0;
}

// Tries in a child of our own whether that uid reaches the program and every readable path (a home of mode
// 0700 is the usual obstacle), since there is no way back from the change. A path that isn't there at all is
// no obstacle.
bool uid_is_usable(const struct config *config) {
  if (!config->enabled[LAYER_UID]) return false;
  if (geteuid() != 0) {
    layer_unavailable(LAYER_UID, "only root may change it: shares the agent's uid %d", (int)geteuid());
    return false;
  }
  if (config->uid == 0 || config->gid == 0) {
    layer_unavailable(LAYER_UID, "none was chosen");
    return false;
  }
  enum { USABLE = 0, NO_CHANGE = 255, NO_PROGRAM = 254 };
  _Static_assert(NO_PROGRAM - MAX_PATHS > 0, "a path's number plus one is an exit status");
  pid_t child = fork();
  if (child == 0) {
    if (!change_ids(config->uid, config->gid) || clear_capabilities() != 0) _exit(NO_CHANGE);
    if (access(config->argv[0], X_OK) != 0) _exit(NO_PROGRAM);
    for (int index = 0; index < config->reads; index++) {
      if (access(config->read[index], R_OK) != 0 && errno == EACCES) _exit(index + 1);
    }
    _exit(USABLE);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) {
    layer_unavailable(LAYER_UID, "could not be tried");
    return false;
  }
  int result = WEXITSTATUS(status);
  if (result == USABLE) return true;
  if (result == NO_CHANGE) {
    layer_unavailable(LAYER_UID, "uid %u gid %u cannot be taken here", config->uid, config->gid);
  } else {
    const char *path = result == NO_PROGRAM ? config->argv[0] : config->read[result - 1];
    layer_unavailable(LAYER_UID, "%s is not reachable by uid %u: install it outside private folders", path,
                      config->uid);
  }
  return false;
}

// After uid_is_usable; a change that stops half-way is no state to go on in.
void become_uid(const struct config *config) {
  if (!change_ids(config->uid, config->gid))
    fatal(config->report_fd, "uid %u: %s", config->uid, strerror(errno));
  layer_on(LAYER_UID);
}

void set_no_new_privs(const struct config *config) {
  if (!config->enabled[LAYER_NO_NEW_PRIVS]) return;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) {
    layer_on(LAYER_NO_NEW_PRIVS);
  } else {
    layer_unavailable(LAYER_NO_NEW_PRIVS, "%s", strerror(errno));
  }
}

// The signal follows the thread that started us, not its process. A parent that went before the call never
// sends it.
void die_with_parent(const struct config *config) {
  if (!config->enabled[LAYER_PARENT]) return;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) {
    layer_unavailable(LAYER_PARENT, "%s", strerror(errno));
    return;
  }
  if (config->parent != 0 && getppid() != config->parent) fatal(config->report_fd, "the parent is gone");
  layer_on(LAYER_PARENT);
}
