// Entry point of weir.node. Node calls it once for each environment that loads the addon, worker threads
// included.
#include "binding/module.h"

namespace {
using WeirModule = weir::Module;
}  // namespace

NODE_API_NAMED_ADDON(weir, WeirModule)
