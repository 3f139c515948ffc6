// Giving up capabilities in every thread of the process: they are a thread's own (capabilities(7)).
#ifndef WEIR_SERVICE_CAPABILITIES_H_
#define WEIR_SERVICE_CAPABILITIES_H_

#include <cstdint>

namespace weir {

// Takes `mask` (bits of capabilities) out of the effective, permitted and inheritable sets of every thread,
// and with the permitted also out of the ambient set. A signal asks each thread to do it, so this may take a
// while; threads that are slower than half a second, or that block it, are left. Returns how many threads
// still hold one of them, or a negative errno.
int DropCapabilities(uint64_t mask);

}  // namespace weir

#endif  // WEIR_SERVICE_CAPABILITIES_H_
