// weir-trim.node, preloaded into what weir-jail starts: a process that can load nothing native by itself
// gives back memory, too (native/memory/trim.h). A thread looks every ten seconds: after the start, and
// whenever the process has worked for a tenth of a second and then rests, it trims. The thread has no signals
// and the smallest of stacks.
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "../memory/trim.h"

enum { LOOK_S = 10, STACK_BYTES = 64 * 1024 };
// Processor time in seconds. The same as in src/addon/memory-trim.ts.
static const double worked_s = 0.1;
static const double rests_s = 0.5;

static double cpu_seconds(void) {
  struct timespec time = {0};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void *trim_at_rest(void *unused) {
  double trimmed = 0;
  for (double before = 0;;) {
    nanosleep(&(struct timespec){.tv_sec = LOOK_S}, NULL);
    const double now = cpu_seconds();
    const bool rests = before == 0 || now - before < rests_s;
    if (rests && now - trimmed >= worked_s) {
      weir_trim_memory();
      trimmed = now;
    }
    before = now;
  }
  return unused;
}

__attribute__((constructor)) static void start(void) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return;
  pthread_attr_setstacksize(&attributes, STACK_BYTES > PTHREAD_STACK_MIN ? STACK_BYTES : PTHREAD_STACK_MIN);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  // Without it, memory stays as it is.
  pthread_t thread;
  (void)!pthread_create(&thread, &attributes, trim_at_rest, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
}
