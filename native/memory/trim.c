#define _GNU_SOURCE
#include "trim.h"

#include <link.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

// A segment that can't be written is as the file has it: relocations go to those that can (PT_GNU_RELRO lies
// in one of them). A debugger's breakpoints are the exception: it has to set them again.
static int unmap_text(struct dl_phdr_info *object, size_t size, void *page_size) {
  (void)size;
  const uintptr_t inside = *(const uintptr_t *)page_size - 1;
  for (size_t i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
    if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) != 0) continue;
    const uintptr_t start = (uintptr_t)object->dlpi_addr + segment->p_vaddr;
    const uintptr_t from = start & ~inside;
    const uintptr_t to = (start + segment->p_filesz) & ~inside;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
  }
  return 0;
}

void weir_trim_memory(void) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  uintptr_t page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
  dl_iterate_phdr(unmap_text, &page_size);
}
