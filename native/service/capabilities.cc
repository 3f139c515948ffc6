#include "capabilities.h"

#include <dirent.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

namespace weir {
namespace {

// One at a time: the signal's handler has no other way to know what to drop.
std::mutex dropping;
std::atomic<uint64_t> wanted = 0;

// Async-signal-safe: two system calls and the stack.
void DropOwn() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return;
  const uint64_t mask = wanted.load();
  for (int i = 0; i < 2; ++i) {
    const uint32_t part = static_cast<uint32_t>(mask >> (32 * i));
    data[i].effective &= ~part;
    data[i].permitted &= ~part;
    data[i].inheritable &= ~part;
  }
  syscall(SYS_capset, &header, data);
}

void OnSignal(int) {
  const int saved = errno;
  DropOwn();
  errno = saved;
}

std::vector<pid_t> Threads() {
  std::vector<pid_t> found;
  DIR* folder = opendir("/proc/self/task");
  if (!folder) return found;
  while (const dirent* entry = readdir(folder)) {
    const int tid = std::atoi(entry->d_name);
    if (tid > 0) found.push_back(tid);
  }
  closedir(folder);
  return found;
}

bool Holds(pid_t tid, uint64_t mask) {
  const std::string path = "/proc/self/task/" + std::to_string(tid) + "/status";
  FILE* file = std::fopen(path.c_str(), "re");
  if (!file) return false;  // it has ended
  char line[256];
  uint64_t held = 0;
  while (std::fgets(line, sizeof(line), file)) {
    uint64_t set = 0;
    if (std::sscanf(line, "CapPrm: %" SCNx64, &set) == 1 || std::sscanf(line, "CapEff: %" SCNx64, &set) == 1)
      held |= set;
  }
  std::fclose(file);
  return (held & mask) != 0;
}

}  // namespace

int DropCapabilities(uint64_t mask) {
  const std::lock_guard<std::mutex> lock(dropping);
  const int signal = SIGRTMAX - 1;
  struct sigaction action = {};
  struct sigaction before = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  if (sigaction(signal, &action, &before) != 0) return -errno;
  wanted.store(mask);
  DropOwn();

  int left = 0;
  // Again and again: a thread that still had them may have started another one meanwhile.
  for (int round = 0; round < 50; ++round) {
    left = 0;
    for (const pid_t tid : Threads()) {
      if (!Holds(tid, mask)) continue;
      ++left;
      syscall(SYS_tgkill, getpid(), tid, signal);
    }
    if (left == 0) break;
    const timespec pause = {0, 10'000'000};
    nanosleep(&pause, nullptr);
  }
  // What is still on its way would end the process if nobody handled it.
  if (left == 0) sigaction(signal, &before, nullptr);
  return left;
}

}  // namespace weir
