/* How large a ring is. C and C++. */
#ifndef WEIR_RING_SIZE_H_
#define WEIR_RING_SIZE_H_

#include <stddef.h>

/* Room for `wanted` bytes as both kinds of rings take it: a power of two of whole pages (a page has
 * 4, 16 or 64 KiB), a page at least, `most` at most (a power of two of pages itself). */
static inline size_t weir_ring_bytes(size_t wanted, size_t page_bytes, size_t most) {
  size_t bytes = page_bytes;

  while (bytes < wanted && bytes < most) bytes *= 2;
  return bytes;
}

/* The same of what is only mapped: whole pages. */
static inline size_t weir_whole_pages(size_t bytes, size_t page_bytes) {
  return (bytes + page_bytes - 1) / page_bytes * page_bytes;
}

#endif
