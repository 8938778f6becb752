#include "engine/errqueue.h"

#include <linux/errqueue.h>
#include <netinet/in.h>

#include <cstring>

#include "base/kernel_compat.h"

namespace multifd {

NotificationReader::NotificationReader(msghdr& message)
    : message_(message), at_(CMSG_FIRSTHDR(&message)) {}

bool NotificationReader::next(Notification& out) {
  while (at_ != nullptr) {
    const cmsghdr* const control = at_;
    // The C library checks the length of every control message but the first.
    const auto* const end = static_cast<const char*>(message_.msg_control) +
                            message_.msg_controllen;
    const auto left = static_cast<size_t>(end - reinterpret_cast<const char*>(control));
    if (control->cmsg_len > left) return false;
    at_ = CMSG_NXTHDR(&message_, at_);
    const bool ipv4 = control->cmsg_level == SOL_IP && control->cmsg_type == IP_RECVERR;
    const bool ipv6 = control->cmsg_level == SOL_IPV6 && control->cmsg_type == IPV6_RECVERR;
    if (!ipv4 && !ipv6) continue;
    if (control->cmsg_len < CMSG_LEN(sizeof(sock_extended_err))) continue;
    sock_extended_err error;
    std::memcpy(&error, CMSG_DATA(control), sizeof error);
    if (error.ee_origin != SO_EE_ORIGIN_ZEROCOPY || error.ee_errno != 0) continue;
    out = {error.ee_info, error.ee_data, (error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0};
    return true;
  }
  return false;
}

}  // namespace multifd
