// Tests of the notification parser with control messages that a kernel could never be asked for.
// Every buffer is on the heap and of the exact size: AddressSanitizer sees a byte too far.
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/kernel_compat.h"
#include "check.h"
#include "engine/errqueue.h"

namespace {

using multifd::Notification;
using multifd::NotificationReader;

sock_extended_err completion(uint32_t first, uint32_t last) {
  sock_extended_err error{};
  error.ee_origin = SO_EE_ORIGIN_ZEROCOPY;
  error.ee_info = first;
  error.ee_data = last;
  return error;
}

class Forged {
 public:
  Forged& add(int level, int type, const sock_extended_err& error, size_t extra_bytes = 0) {
    return add_raw(level, type, &error, sizeof error, CMSG_LEN(sizeof error + extra_bytes),
                   CMSG_SPACE(sizeof error + extra_bytes));
  }
  Forged& ipv4(const sock_extended_err& error) { return add(SOL_IP, IP_RECVERR, error); }
  Forged& ipv6(const sock_extended_err& error) { return add(SOL_IPV6, IPV6_RECVERR, error); }
  Forged& add_raw(int level, int type, const void* data, size_t data_size, size_t claimed_length,
                  size_t space) {
    const size_t at = bytes_.size();
    bytes_.resize(at + space);
    cmsghdr header{};
    header.cmsg_len = claimed_length;
    header.cmsg_level = level;
    header.cmsg_type = type;
    std::memcpy(&bytes_[at], &header, sizeof header);
    if (data_size > 0) std::memcpy(&bytes_[at + sizeof header], data, data_size);
    return *this;
  }
  // Parses the first `size` bytes.
  [[nodiscard]] std::vector<Notification> parse(size_t size = SIZE_MAX) const {
    std::vector<uint8_t> exact(bytes_);
    exact.resize(std::min(size, exact.size()));
    exact.shrink_to_fit();
    msghdr message{};
    message.msg_control = exact.data();
    message.msg_controllen = exact.size();
    NotificationReader reader(message);
    std::vector<Notification> found;
    for (Notification next; reader.next(next);) found.push_back(next);
    return found;
  }
  [[nodiscard]] size_t size() const { return bytes_.size(); }

 private:
  std::vector<uint8_t> bytes_;
};

TEST("a completion is read from IPv4 and from IPv6") {
  for (const auto& found :
       {Forged().ipv4(completion(3, 9)).parse(), Forged().ipv6(completion(3, 9)).parse()}) {
    CHECK_EQ(found.size(), 1U);
    CHECK_EQ(found[0].first, 3U);
    CHECK_EQ(found[0].last, 9U);
    CHECK(!found[0].copied);
  }
}

TEST("the copied flag belongs to its own range") {
  sock_extended_err copied = completion(5, 5);
  copied.ee_code = SO_EE_CODE_ZEROCOPY_COPIED;
  const auto found = Forged().ipv4(copied).ipv4(completion(6, 6)).parse();
  CHECK_EQ(found.size(), 2U);
  CHECK(found[0].copied);
  CHECK(!found[1].copied);
}

TEST("a range that wraps at 2^32 is passed on as it is") {
  const auto found = Forged().ipv4(completion(0xFFFFFFFE, 1)).parse();
  CHECK_EQ(found.size(), 1U);
  CHECK_EQ(found[0].first, 0xFFFFFFFEU);
  CHECK_EQ(found[0].last, 1U);
}

TEST("several control messages are all read, and foreign ones between them skipped") {
  const uint64_t stamp[2] = {1, 2};
  const auto found = Forged()
                         .ipv6(completion(1, 1))
                         .add_raw(SOL_SOCKET, SO_TIMESTAMP, stamp, sizeof stamp,
                                  CMSG_LEN(sizeof stamp), CMSG_SPACE(sizeof stamp))
                         .ipv4(completion(2, 4))
                         .add(SOL_IP, IP_RECVERR, completion(5, 5), sizeof(sockaddr_in))
                         .parse();
  CHECK_EQ(found.size(), 3U);
  CHECK_EQ(found[1].last, 4U);
  CHECK_EQ(found[2].first, 5U);
}

TEST("an error of another origin, or with an errno, is no completion") {
  sock_extended_err icmp = completion(1, 1);
  icmp.ee_origin = SO_EE_ORIGIN_ICMP;
  sock_extended_err failed = completion(1, 1);
  failed.ee_errno = ENOBUFS;
  CHECK_EQ(Forged().ipv4(icmp).ipv4(failed).parse().size(), 0U);
  // The right content under the wrong level or type.
  CHECK_EQ(Forged().add(SOL_IP, IPV6_RECVERR, completion(1, 1)).parse().size(), 0U);
  CHECK_EQ(Forged().add(SOL_SOCKET, IP_RECVERR, completion(1, 1)).parse().size(), 0U);
}

TEST("no control message gives nothing") { CHECK_EQ(Forged().parse().size(), 0U); }

TEST("a buffer that ends anywhere gives only what is whole, and nothing is read behind its end") {
  const Forged forged = Forged().ipv4(completion(1, 1)).ipv6(completion(2, 2));
  const size_t one = CMSG_SPACE(sizeof(sock_extended_err));
  for (size_t size = 0; size <= forged.size(); ++size) {
    CHECK_EQ(forged.parse(size).size(), size / one);
  }
}

TEST("a length that is too small, or larger than the buffer, ends the walk") {
  const sock_extended_err error = completion(1, 1);
  const size_t space = CMSG_SPACE(sizeof error);
  for (const size_t length : {size_t{0}, size_t{1}, sizeof(cmsghdr) - 1, CMSG_LEN(0), CMSG_LEN(8),
                              space + 1, size_t{1} << 62, SIZE_MAX}) {
    Forged forged;
    forged.add_raw(SOL_IP, IP_RECVERR, &error, sizeof error, length, space);
    CHECK_EQ(forged.parse().size(), 0U);
  }
}

}  // namespace
