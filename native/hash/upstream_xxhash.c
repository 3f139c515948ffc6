// xxHash as upstream wrote it (BSD-2-Clause), compiled from the sources that the package xxhash-addon
// carries: binding.gyp names their folder. NEON on arm64; on x86-64 upstream_dispatch.c chooses at run time.
#include <xxhash.c>
