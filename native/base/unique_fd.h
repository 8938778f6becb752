// The one owner of a file descriptor. Nothing else in native/ calls close().
#pragma once

#include <unistd.h>

#include <utility>

#include "base/census.h"

namespace multifd {

class UniqueFd {
 public:
  UniqueFd() = default;
  UniqueFd(int fd, Resource resource) : fd_(fd), resource_(resource) {
    if (fd_ >= 0) census(resource_).fetch_add(1, std::memory_order_relaxed);
  }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)),
                                        resource_(other.resource_) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
      resource_ = other.resource_;
    }
    return *this;
  }
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

  void reset() {
    if (const int fd = release(); fd >= 0) ::close(fd);
  }
  // Gives the fd to another owner (libuv takes the main channel's).
  [[nodiscard]] int release() {
    if (fd_ >= 0) census(resource_).fetch_sub(1, std::memory_order_relaxed);
    return std::exchange(fd_, -1);
  }

 private:
  int fd_ = -1;
  Resource resource_ = Resource::kSocket;
};

}  // namespace multifd
