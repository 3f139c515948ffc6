// Landlock: the program and its loader may be executed, the given paths read, /dev/null and the loader's
// cache too; nothing else of the file system exists, /proc and /sys included. No TCP; no signals and no
// abstract sockets out of the jail.
//
// The ABI grew with the kernel: 1 files (5.13), 2 refer, 3 truncate, 4 TCP (6.7), 5 device ioctl, 6 scopes
// (6.12). Debian 12's headers know ABI 2, so the rest is defined here, from the kernel's
// include/uapi/linux/landlock.h.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jail.h"

#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule 445
#define __NR_landlock_restrict_self 446
#endif

enum { CREATE_RULESET_VERSION = 1, RULE_PATH_BENEATH = 1, ABI_TCP = 4, ABI_SCOPES = 6 };
enum { FS_EXECUTE = 1 << 0, FS_READ_FILE = 1 << 2, FS_READ_DIR = 1 << 3 };
enum { NET_BIND_TCP = 1 << 0, NET_CONNECT_TCP = 1 << 1, SCOPE_ABSTRACT_UNIX = 1 << 0, SCOPE_SIGNAL = 1 << 1 };

struct ruleset {
  uint64_t fs, net, scoped;
};

struct path_rule {
  uint64_t allowed;
  int32_t parent_fd;
} __attribute__((packed));

// Every file right of that ABI: refused unless a rule gives it.
static uint64_t all_file_rights(long abi) {
  if (abi >= 5) return (1 << 16) - 1;
  if (abi >= 3) return (1 << 15) - 1;
  return abi == 2 ? (1 << 14) - 1 : (1 << 13) - 1;
}

// A path that is not there, or that we cannot reach, needs no rule. Rights on folders are refused for files.
static bool allow(int ruleset, const char *path, uint64_t rights) {
  int fd = open(path, O_PATH | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT || errno == EACCES;
  struct stat status;
  bool folder = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
  struct path_rule rule = {.allowed = folder ? rights : rights & ~(uint64_t)FS_READ_DIR, .parent_fd = fd};
  bool done = syscall(__NR_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0) == 0;
  int error = errno;
  close(fd);
  errno = error;
  return done;
}

// The loader that the program asks for (PT_INTERP); false when it needs none or cannot be read.
static bool find_loader(const char *program, char *loader) {
  int fd = open(program, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  Elf64_Ehdr header;
  bool found = false;
  if (pread(fd, &header, sizeof header, 0) == sizeof header && memcmp(header.e_ident, ELFMAG, SELFMAG) == 0) {
    for (unsigned index = 0; index < header.e_phnum && !found; index++) {
      Elf64_Phdr segment;
      off_t at = (off_t)(header.e_phoff + (uint64_t)index * sizeof segment);
      if (pread(fd, &segment, sizeof segment, at) != sizeof segment) break;
      if (segment.p_type != PT_INTERP || segment.p_filesz == 0 || segment.p_filesz >= PATH_MAX) continue;
      found = pread(fd, loader, segment.p_filesz, (off_t)segment.p_offset) == (ssize_t)segment.p_filesz;
      loader[segment.p_filesz] = '\0';
    }
  }
  close(fd);
  return found;
}

static bool add_rules(const struct config *config, int ruleset) {
  char loader[PATH_MAX];
  if (!allow(ruleset, config->argv[0], FS_EXECUTE | FS_READ_FILE)) return false;
  if (find_loader(config->argv[0], loader) && !allow(ruleset, loader, FS_EXECUTE | FS_READ_FILE))
    return false;
  if (!allow(ruleset, "/etc/ld.so.cache", FS_READ_FILE) || !allow(ruleset, "/dev/null", FS_READ_FILE))
    return false;
  for (int index = 0; index < config->reads; index++) {
    if (!allow(ruleset, config->read[index], FS_READ_FILE | FS_READ_DIR)) return false;
  }
  return true;
}

void restrict_with_landlock(const struct config *config) {
  if (!config->enabled[LAYER_LANDLOCK]) return;
  long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
  if (abi < 1) {
    layer_unavailable(LAYER_LANDLOCK, "%s",
                      errno == EOPNOTSUPP ? "not switched on at boot: add landlock to lsm="
                                          : "the kernel has none (5.13 or later, CONFIG_SECURITY_LANDLOCK)");
    return;
  }
  struct ruleset attributes = {.fs = all_file_rights(abi)};
  size_t size = sizeof attributes.fs;
  if (abi >= ABI_TCP) {
    attributes.net = NET_BIND_TCP | NET_CONNECT_TCP;
    size += sizeof attributes.net;
  }
  if (abi >= ABI_SCOPES) {
    attributes.scoped = SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL;
    size += sizeof attributes.scoped;
  }
  int ruleset = (int)syscall(__NR_landlock_create_ruleset, &attributes, size, 0);
  bool done =
      ruleset >= 0 && add_rules(config, ruleset) && syscall(__NR_landlock_restrict_self, ruleset, 0) == 0;
  if (!done) {
    layer_unavailable(LAYER_LANDLOCK, "%s", strerror(errno));
  } else if (abi < ABI_TCP) {
    layer_partial(LAYER_LANDLOCK, "files only: TCP needs Linux 6.7, signals and abstract sockets 6.12");
  } else if (abi < ABI_SCOPES) {
    layer_partial(LAYER_LANDLOCK, "files and TCP: signals and abstract sockets need Linux 6.12");
  } else {
    layer_on(LAYER_LANDLOCK);
  }
  if (ruleset >= 0) close(ruleset);
}
