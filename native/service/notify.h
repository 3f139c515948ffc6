// What a service says to its manager (sd_notify(3)): one datagram to the socket that NOTIFY_SOCKET names.
// Node has no datagram sockets in the file system or the abstract namespace.
#ifndef WEIR_SERVICE_NOTIFY_H_
#define WEIR_SERVICE_NOTIFY_H_

#include <string_view>

namespace weir {

// Sends `message` ("READY=1", "WATCHDOG=1") to `address`: an absolute path, or "@name" in the abstract
// namespace. Never waits. Returns 0 or a positive errno.
int NotifyService(std::string_view address, std::string_view message);

}  // namespace weir

#endif  // WEIR_SERVICE_NOTIFY_H_
