// Tests of the base room: who owns a descriptor, what an error keeps, and what is left of a
// scattered transfer that came short.
#include <fcntl.h>
#include <sys/eventfd.h>

#include <array>
#include <numeric>
#include <string>
#include <string_view>

#include "base/iov.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "check.h"

namespace {

using multifd::census;
using multifd::Error;
using multifd::ErrorCode;
using multifd::Resource;
using multifd::Result;
using multifd::UniqueFd;

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

UniqueFd make_fd() { return {eventfd(0, EFD_CLOEXEC), Resource::kEventFd}; }

int64_t event_fds() { return census(Resource::kEventFd).load(); }

TEST("a descriptor is closed and counted off exactly once, by its last owner") {
  const int64_t before = event_fds();
  int number = -1;
  {
    UniqueFd first = make_fd();
    number = first.get();
    CHECK_EQ(event_fds(), before + 1);
    const UniqueFd second = std::move(first);
    CHECK_EQ(first.get(), -1);  // NOLINT: moved from, and defined to be empty
    CHECK_EQ(second.get(), number);
    CHECK_EQ(event_fds(), before + 1);
    CHECK(is_open(number));
  }
  CHECK(!is_open(number));
  CHECK_EQ(event_fds(), before);
}

TEST("assigning over a descriptor closes the one that was there") {
  const int64_t before = event_fds();
  UniqueFd kept = make_fd();
  const int old_number = kept.get();
  kept = make_fd();
  CHECK(kept.get() != old_number);
  CHECK(!is_open(old_number));
  CHECK_EQ(event_fds(), before + 1);
  kept.reset();
  kept.reset();
  CHECK_EQ(event_fds(), before);
}

TEST("a descriptor that was given away stays open, and is no longer counted") {
  const int64_t before = event_fds();
  UniqueFd owner = make_fd();
  const int number = owner.release();
  CHECK_EQ(event_fds(), before);
  owner.reset();
  CHECK(is_open(number));
  close(number);
}

TEST("a descriptor that could not be opened is not counted") {
  const int64_t before = event_fds();
  const UniqueFd none(-1, Resource::kEventFd);
  CHECK(!none);
  CHECK_EQ(event_fds(), before);
}

TEST("an error of the kernel keeps errno, and knows a peer that went away from anything else") {
  errno = ECONNRESET;
  const Error reset = Error::from_errno("sendmsg", "sending %d bytes failed", 7);
  CHECK(reset.code == ErrorCode::kPeerClosed);
  CHECK_EQ(reset.errno_value, ECONNRESET);
  CHECK_EQ(std::string_view(reset.syscall), "sendmsg");
  CHECK_EQ(std::string_view(reset.detail), "sending 7 bytes failed");
  errno = EPIPE;
  CHECK(Error::from_errno("sendmsg", "failed").code == ErrorCode::kPeerClosed);
  errno = EMFILE;
  CHECK(Error::from_errno("socket", "failed").code == ErrorCode::kChannel);
}

TEST("a sentence that is too long is cut, not written past its end") {
  const std::string name(1000, 'x');
  const Error error = Error::make(ErrorCode::kProtocol, "got %s", name.c_str());
  CHECK_EQ(std::string_view(error.detail).size(), sizeof error.detail - 1);
}

TEST("a result is its value or its error") {
  const Result<int> value = 7;
  CHECK(static_cast<bool>(value));
  CHECK_EQ(*value, 7);
  const Result<int> failed = Error::make(ErrorCode::kLimit, "too many");
  CHECK(!failed);
  CHECK(failed.error().code == ErrorCode::kLimit);
  CHECK(static_cast<bool>(Result<void>()));
  CHECK(!Result<void>(Error::make(ErrorCode::kLimit, "too many")));
}

TEST("what is left of a transfer begins where the transfer ended, however it was cut") {
  std::array<uint8_t, 64> bytes;
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  for (size_t first_step = 0; first_step <= bytes.size(); ++first_step) {
    // 10 + 1 + 0 + 53: an empty part must not stop anything.
    std::array<iovec, 4> parts = {iovec{&bytes[0], 10}, iovec{&bytes[10], 1}, iovec{&bytes[11], 0},
                                  iovec{&bytes[11], 53}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    multifd::advance(message, first_step);
    std::string left;
    for (size_t i = 0; i < message.msg_iovlen; ++i) {
      const iovec& part = message.msg_iov[i];
      left.append(static_cast<const char*>(part.iov_base), part.iov_len);
    }
    const std::string all(bytes.begin(), bytes.end());
    CHECK(left == all.substr(first_step));
  }
}

}  // namespace
