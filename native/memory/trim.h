// Memory that a process needs at its start and not later, given back to the system.
#ifndef WEIR_MEMORY_TRIM_H_
#define WEIR_MEMORY_TRIM_H_

#ifdef __cplusplus
extern "C" {
#endif

// Gives back what malloc has free, and unmaps the pages of the program and its libraries that are as the
// files have them: whichever is used again is mapped again, from the page cache, in microseconds. Node
// touches 50 MB of its binary to start, and a fifth of that later. Takes some milliseconds; any thread may
// call it.
void weir_trim_memory(void);

#ifdef __cplusplus
}
#endif

#endif  // WEIR_MEMORY_TRIM_H_
