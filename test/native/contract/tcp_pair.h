// A real connection over loopback, with somebody who reads it.
#pragma once

#include <thread>
#include <vector>

#include "base/unique_fd.h"

namespace contract {

struct Pair {
  multifd::UniqueFd sender;
  multifd::UniqueFd receiver;
};

// TCP over 127.0.0.1; skips the test where zero-copy is asked for and not to be had.
Pair tcp_pair(bool zero_copy);
Pair unix_pair();

// Collects what arrives until the stream ends.
class Reader {
 public:
  explicit Reader(int fd);
  ~Reader();
  std::vector<uint8_t> join();

 private:
  std::vector<uint8_t> arrived_;
  std::thread thread_;
};

}  // namespace contract
