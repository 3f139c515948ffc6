// Limits on memory and on the number of threads, in cgroups of our own: below our v1 hierarchies where the
// controllers are mounted so, otherwise in the v2 tree. Controller files: kernel
// Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
//
// A group is named weir-jail-<pid>-<random>. Whoever started us removes it (the report names it); what a
// killed agent left behind is removed here, at the next start beside it: rmdir takes empty groups only.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jail.h"

#define PREFIX "weir-jail-"

enum { TRIES = 3 };  // a launcher beside us may sweep our group away before we are in it

static int open_file(const char *folder, const char *name, int flags) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path)
    return open(path, flags | O_CLOEXEC);
  errno = ENAMETOOLONG;
  return -1;
}

static bool write_file(const char *folder, const char *name, const char *value) {
  int fd = open_file(folder, name, O_WRONLY);
  if (fd < 0) return false;
  bool done = write(fd, value, strlen(value)) == (ssize_t)strlen(value);
  int error = errno;
  close(fd);
  errno = error;
  return done;
}

static bool write_number(const char *folder, const char *name, uint64_t value) {
  char text[24];
  snprintf(text, sizeof text, "%" PRIu64, value);
  return write_file(folder, name, text);
}

// Whether `list` (its items parted by any of `separators`) has `word`.
static bool has_word(const char *list, const char *separators, const char *word) {
  size_t length = strlen(word);
  while (*list != '\0') {
    size_t item = strcspn(list, separators);
    if (item == length && strncmp(list, word, length) == 0) return true;
    list += item + strspn(list + item, separators);
  }
  return false;
}

static bool file_has_word(const char *folder, const char *name, const char *word) {
  char text[512];
  int fd = open_file(folder, name, O_RDONLY);
  if (fd < 0) return false;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length < 0) return false;
  text[length] = '\0';
  return has_word(text, " \n", word);
}

// Where a hierarchy is mounted, and which folder of it is its root there. `controller` NULL: the v2 one.
static bool find_mount(const char *controller, char *mount, char *root) {
  FILE *file = fopen("/proc/self/mountinfo", "re");
  if (file == NULL) return false;
  char line[4096];
  bool found = false;
  while (!found && fgets(line, sizeof line, file) != NULL) {
    char type[32], options[1024];
    const char *tail = strstr(line, " - ");
    if (tail == NULL || sscanf(tail, " - %31s %*s %1023s", type, options) != 2) continue;
    if (strcmp(type, controller == NULL ? "cgroup2" : "cgroup") != 0) continue;
    if (controller != NULL && !has_word(options, ",", controller)) continue;
    found = sscanf(line, "%*s %*s %*s %1023s %1023s", root, mount) == 2;
  }
  fclose(file);
  return found;
}

// Our own folder in a hierarchy; false when there is no such hierarchy.
static bool own_folder(const char *controller, char *mount, char *folder) {
  char root[1024];
  if (!find_mount(controller, mount, root)) return false;
  FILE *file = fopen("/proc/self/cgroup", "re");
  if (file == NULL) return false;
  char line[4096];
  bool found = false;
  while (!found && fgets(line, sizeof line, file) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *path = controllers == NULL ? NULL : strchr(++controllers, ':');
    if (path == NULL) continue;
    *path++ = '\0';
    if (controller == NULL ? *controllers != '\0' : !has_word(controllers, ",", controller)) continue;
    // In a container the mount may show a part of the tree only, and our path may lie outside it ("/..").
    size_t skip = strcmp(root, "/") == 0 ? 0 : strlen(root);
    bool inside = strncmp(path, root, skip) == 0 && strncmp(path, "/..", 3) != 0;
    snprintf(folder, PATH_MAX, "%s%s", mount, inside ? path + skip : "");
    size_t length = strlen(folder);
    if (length > 1 && folder[length - 1] == '/') folder[length - 1] = '\0';
    found = true;
  }
  fclose(file);
  return found;
}

// Removes empty groups of ours in `parent`, then makes a new one there.
static bool make_group(const char *parent, char *group) {
  DIR *folder = opendir(parent);
  if (folder == NULL) return false;
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0)
      unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR);
  }
  closedir(folder);
  uint32_t random;
  if (getrandom(&random, sizeof random, 0) != sizeof random) return false;
  return snprintf(group, PATH_MAX, "%s/" PREFIX "%d-%08" PRIx32, parent, (int)getpid(), random) < PATH_MAX &&
         mkdir(group, 0755) == 0;
}

// The limits of one controller in a new group, and us in it. "0" means the writer.
static bool limit_v1(const struct config *config, enum layer layer, const char *group) {
  if (layer == LAYER_PIDS_CGROUP) return write_number(group, "pids.max", config->threads);
  if (!write_number(group, "memory.limit_in_bytes", config->memory)) return false;
  // Absent when the kernel does not account swap; then the limit is on memory alone.
  return write_number(group, "memory.memsw.limit_in_bytes", config->memory) || errno == ENOENT;
}

static void enter_v1(const struct config *config, enum layer layer, const char *parent) {
  char group[PATH_MAX] = "";
  for (int try = 0; try < TRIES; try++) {
    if (!make_group(parent, group)) {
      layer_unavailable(layer, "no group in %.200s: %s", parent, strerror(errno));
      return;
    }
    if (limit_v1(config, layer, group) && write_file(group, "cgroup.procs", "0")) {
      layer_on(layer);
      report_group(group);
      return;
    }
    layer_unavailable(layer, "%.200s: %s", group, strerror(errno));
    rmdir(group);
  }
}

static bool limit_v2(const struct config *config, enum layer layer, const char *group) {
  if (layer == LAYER_PIDS_CGROUP) return write_number(group, "pids.max", config->threads);
  write_file(group, "memory.swap.max", "0");
  write_file(group, "memory.oom.group", "1");
  return write_number(group, "memory.max", config->memory);
}

// One candidate parent in the v2 tree. True once we are in a group of it, with every wanted layer that it
// could give.
static bool enter_v2(const struct config *config, const bool *wanted, const char *parent) {
  const enum layer layers[] = {LAYER_MEMORY_CGROUP, LAYER_PIDS_CGROUP};
  const char *const names[] = {"memory", "pids"};
  bool given[2] = {false, false};
  for (int index = 0; index < 2; index++) {
    if (!wanted[index]) continue;
    char enable[16];
    snprintf(enable, sizeof enable, "+%s", names[index]);
    if (!file_has_word(parent, "cgroup.subtree_control", names[index])) {
      write_file(parent, "cgroup.subtree_control", enable);
    }
    given[index] = file_has_word(parent, "cgroup.subtree_control", names[index]);
  }
  if (!given[0] && !given[1]) return false;
  char group[PATH_MAX];
  for (int try = 0; try < TRIES && make_group(parent, group); try++) {
    bool limited[2];
    for (int index = 0; index < 2; index++)
      limited[index] = given[index] && limit_v2(config, layers[index], group);
    if ((limited[0] || limited[1]) && write_file(group, "cgroup.procs", "0")) {
      for (int index = 0; index < 2; index++) {
        if (limited[index]) layer_on(layers[index]);
      }
      report_group(group);
      return true;
    }
    rmdir(group);
  }
  return false;
}

// Candidates in the v2 tree: our own group (the root of a container, or one without members), the one around
// it (a service with Delegate= and a subgroup), and the top (root). A group that has members itself cannot
// have limited children.
static void enter_v2_somewhere(const struct config *config, const bool *wanted) {
  char mount[1024], folder[PATH_MAX];
  const char *reason =
      "no controller can be enabled for a group of ours (start as root, or systemd Delegate= and "
      "DelegateSubgroup=)";
  if (wanted[0]) layer_unavailable(LAYER_MEMORY_CGROUP, "%s", reason);
  if (wanted[1]) layer_unavailable(LAYER_PIDS_CGROUP, "%s", reason);
  if (!own_folder(NULL, mount, folder)) return;
  if (enter_v2(config, wanted, folder)) return;
  char *slash = strrchr(folder, '/');
  if (strlen(folder) > strlen(mount) && slash != NULL) {
    *slash = '\0';
    if (enter_v2(config, wanted, folder)) return;
  }
  if (strcmp(folder, mount) != 0) enter_v2(config, wanted, mount);
}

void enter_cgroups(const struct config *config) {
  const enum layer layers[] = {LAYER_MEMORY_CGROUP, LAYER_PIDS_CGROUP};
  const char *const names[] = {"memory", "pids"};
  bool wanted[2];
  for (int index = 0; index < 2; index++) {
    wanted[index] = config->enabled[layers[index]];
    if (wanted[index] && layers[index] == LAYER_MEMORY_CGROUP && config->memory == 0) {
      layer_unavailable(layers[index], "no --memory was given");
      wanted[index] = false;
    }
    char mount[1024], folder[PATH_MAX];
    if (!wanted[index] || !own_folder(names[index], mount, folder)) continue;
    enter_v1(config, layers[index], folder);
    wanted[index] = false;
  }
  if (wanted[0] || wanted[1]) enter_v2_somewhere(config, wanted);
}
