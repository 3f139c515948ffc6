// weir-jail [options] -- PROGRAM [ARG…]
//
// Puts up every wall this machine offers around PROGRAM (Node, running a plugin host or the vetting child),
// writes a report of which of them stand, and becomes PROGRAM. Started by src/plugins/jail.ts; jail.h
// explains the options.
//
// The order matters:
//   descriptors, environment   nothing of the agent's is within reach of what follows
//   oom, cgroups               while the files that control them can still be written
//   network (privileged)       a namespace of our own needs CAP_SYS_ADMIN, which goes next
//   rlimits                    before the uid, so that NPROC never counts against the agent's
//   bounding set, securebits   need CAP_SETPCAP; the securebits keep a uid of 0 from meaning anything
//   uid                        the groups first: changing them needs the old identity
//   network (unprivileged)     the user namespace for it hands back every capability: cleared once more
//   capset, no-new-privs       nothing from here on needs a capability
//   parent                     a change of credentials clears the parent-death signal, so only now
//   landlock, seccomp          the filter last: it forbids the calls that all the others need
//   report, execve             the report's descriptor closes with the execve
//
// Not promised: protection from bugs of the kernel, from side channels of the processor, or of processor time
// (the agent's deadlines see to that). Existence, size and owner of files can still be looked at where their
// folders allow it: neither Landlock nor a filter that cannot see paths stops stat. With a layer missing,
// what it alone stops is open: the report says which.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jail.h"

extern char **environ;

static uint64_t parse_number(const char *option, const char *text) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || text[0] == '-') {
    fatal(STDERR_FILENO, "%s: not a number: %s", option, text);
  }
  return value;
}

static int parse_layer(const char *option, const char *name) {
  for (int layer = 0; layer < LAYER_COUNT; layer++) {
    if (strcmp(layer_names[layer], name) == 0) return layer;
  }
  fatal(STDERR_FILENO, "%s: no such layer: %s", option, name);
}

static void parse(int argc, char **argv, struct config *config) {
  bool only = false;
  for (int layer = 0; layer < LAYER_COUNT; layer++) config->enabled[layer] = true;
  int index = 1;
  for (; index < argc && strcmp(argv[index], "--") != 0; index += 2) {
    const char *option = argv[index];
    if (index + 1 >= argc) fatal(STDERR_FILENO, "%s: value missing", option);
    char *value = argv[index + 1];
    if (strcmp(option, "--report") == 0) {
      config->report_fd = (int)parse_number(option, value);
    } else if (strcmp(option, "--keep") == 0) {
      config->keep = (int)parse_number(option, value);
    } else if (strcmp(option, "--parent") == 0) {
      config->parent = (pid_t)parse_number(option, value);
    } else if (strcmp(option, "--uid") == 0) {
      config->uid = (uid_t)parse_number(option, value);
    } else if (strcmp(option, "--gid") == 0) {
      config->gid = (gid_t)parse_number(option, value);
    } else if (strcmp(option, "--memory") == 0) {
      config->memory = parse_number(option, value);
    } else if (strcmp(option, "--data") == 0) {
      config->data = parse_number(option, value);
    } else if (strcmp(option, "--files") == 0) {
      config->files = parse_number(option, value);
    } else if (strcmp(option, "--threads") == 0) {
      config->threads = parse_number(option, value);
    } else if (strcmp(option, "--oom") == 0) {
      config->oom_score_adj = (int)parse_number(option, value);
    } else if (strcmp(option, "--read") == 0) {
      if (config->reads == MAX_PATHS) fatal(STDERR_FILENO, "more than %d paths", MAX_PATHS);
      config->read[config->reads++] = value;
    } else if (strcmp(option, "--env") == 0) {
      if (config->envs == MAX_ENV) fatal(STDERR_FILENO, "more than %d variables", MAX_ENV);
      config->env[config->envs++] = value;
    } else if (strcmp(option, "--without") == 0) {
      config->enabled[parse_layer(option, value)] = false;
    } else if (strcmp(option, "--only") == 0) {
      if (!only) memset(config->enabled, 0, sizeof config->enabled);
      only = true;
      config->enabled[parse_layer(option, value)] = true;
    } else {
      fatal(STDERR_FILENO, "unknown option: %s", option);
    }
  }
  config->argv = argv + index + 1;
  if (index + 1 >= argc || config->argv[0][0] != '/')
    fatal(STDERR_FILENO, "no absolute path of a program after --");
  if (config->report_fd < config->keep || fcntl(config->report_fd, F_SETFD, FD_CLOEXEC) != 0) {
    fatal(STDERR_FILENO, "--report: needs an open descriptor behind those of --keep");
  }
}

int main(int argc, char **argv) {
  struct config config = {.report_fd = -1, .keep = 3, .data = UINT64_MAX, .files = 256, .threads = 256};
  parse(argc, argv, &config);
  for (int layer = 0; layer < LAYER_COUNT; layer++) {
    if (!config.enabled[layer]) layer_off(layer);
  }
  umask(077);

  close_descriptors(&config);
  char **environment = environ;
  if (config.enabled[LAYER_ENVIRONMENT]) {
    environment = config.env;
    layer_on(LAYER_ENVIRONMENT);
  }
  set_oom_score(&config);
  enter_cgroups(&config);
  bool isolated = isolate_network(&config);
  bool own_uid = uid_is_usable(&config);
  set_rlimits(&config, own_uid);
  clear_bounding_set(&config);
  if (own_uid) become_uid(&config);
  if (!isolated && isolate_network_unprivileged(&config)) clear_bounding_set(&config);
  drop_capabilities(&config);
  set_no_new_privs(&config);
  die_with_parent(&config);
  restrict_with_landlock(&config);

  struct exec_call call = {.path = config.argv[0], .argv = config.argv, .envp = environment};
  if (config.enabled[LAYER_SECCOMP]) {
    hide_exec_call(&call);
    install_filter(&config, &call);
  }
  report_write(config.report_fd);
  execve(call.path, call.argv, call.envp);
  fatal(config.report_fd, "execve %s: %s", config.argv[0], strerror(errno));
}
