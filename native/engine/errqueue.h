// Reads zero-copy notifications out of a control message buffer. A parser without sockets: tests
// forge what a kernel could never be asked to say. Facts: Linux Documentation/networking/
// msg_zerocopy.rst; a socket may carry several control messages in one recvmsg.
#pragma once

#include <sys/socket.h>

#include <cstdint>

namespace multifd {

// Completion of the sends with ids first..last, inclusive; last < first means that it wrapped.
struct Notification {
  uint32_t first = 0;
  uint32_t last = 0;
  bool copied = false;  // the kernel copied after all
};

// Walks the control messages of one message. Anything that is not a zero-copy notification (ICMP
// errors, time stamps, truncated or foreign messages) is skipped.
class NotificationReader {
 public:
  explicit NotificationReader(msghdr& message);
  // The next notification, or false when there are no more.
  bool next(Notification& out);

 private:
  msghdr& message_;
  cmsghdr* at_;
};

}  // namespace multifd
