// One record, or what is left of it, as a chain of linked io_uring requests: cut, written into the
// ring, and read back. The kernel runs the members of a chain one after the other and cancels the
// rest when one comes short, so that bytes never overtake each other. Knows neither ring nor
// engine.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/registered_memory.h"

namespace multifd {

struct ChainRules {
  bool zero_copy = false;
  const FixedBuffers* buffers = nullptr;  // null: nothing is registered
  bool fixed_sendmsg = false;  // a request from a registered buffer may have several parts
};

class UringChain {
 public:
  // At most two packets, a header and a body each; a body may cross from one buffer into the next.
  static constexpr uint32_t kMax = 8;

  struct Link {
    uint32_t first_part = 0;
    uint32_t part_count = 0;
    size_t bytes = 0;
    uint32_t buffer = 0;
    bool fixed = false;
    bool zero_copy = false;
    int32_t result = 0;  // of its completion, set by the engine
  };
  struct Outcome {
    size_t bytes = 0;            // accepted, from the front
    int error = 0;               // errno that broke the chain; 0: whole, or merely short
    const Link* link = nullptr;  // the one that failed, when error is not 0 or EINTR
  };

  // Cuts at most `limit` bytes from the front of `rest` into at most kMax requests: one, or with
  // registered memory one per stretch that lies in the same buffer or in none.
  void plan(const msghdr& rest, size_t limit, const ChainRules& rules);
  // All of a zeroed request but the file and user_data. The chain stays as it is until every
  // result is in.
  void fill(io_uring_sqe& request, uint32_t position);
  // From the results. Fails if the kernel sent something behind a request that came short.
  [[nodiscard]] Result<Outcome> outcome() const;

  [[nodiscard]] uint32_t size() const { return link_count_; }
  Link& operator[](uint32_t position) { return links_[position]; }

 private:
  std::array<Link, kMax> links_;
  uint32_t link_count_ = 0;
  std::array<msghdr, kMax> msghdrs_;
  std::array<iovec, kRecordIovMax + kMax> parts_;  // each link may cut one part in two
  uint32_t part_count_ = 0;
};

}  // namespace multifd
