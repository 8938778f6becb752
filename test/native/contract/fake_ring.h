// A kernel behind an io_uring, as far as the engine sees it: chains that break, results late,
// notifications in any order or none, memory refused. It insists on what the real one needs:
// MSG_WAITALL in a chain, and parts that lie in the buffer they name.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "base/io_uring.h"
#include "base/syscalls.h"
#include "engine/registered_memory.h"
#include "fake_wire.h"

namespace fixture {

class FakeRing : public FakeWire {
 public:
  FakeRing(Faults faults, uint64_t seed) : FakeWire(faults, seed) {}
  // What an engine owns; refers to this.
  std::unique_ptr<multifd::Ring> view();

  // Posts the notification of the pending send with this index in order of age.
  void complete(size_t index = 0) { notify(finish(index)); }
  void complete_all() {
    while (pending_sends() > 0) complete();
  }
  void forge(uint64_t user_data, int32_t result, uint32_t flags) {
    posted_.push_back({user_data, result, flags});
  }
  [[nodiscard]] size_t fixed_bytes() const { return fixed_bytes_; }
  [[nodiscard]] size_t longest_chain() const { return longest_chain_; }
  // For the engine's options: a poll that does not wait.
  [[nodiscard]] static const multifd::Syscalls& polls();

  const multifd::FixedBuffers* buffers = nullptr;  // that fixed requests may name

 private:
  class View;
  struct Request {
    std::vector<iovec> parts;
    size_t bytes = 0;
    bool zero_copy = false;
    bool fixed = false;
  };
  io_uring_sqe* next_request();
  void enter(uint32_t wait_for);
  bool next_completion(multifd::Completion& out);
  void run_chain(size_t first, size_t count);
  [[nodiscard]] Request decode(const io_uring_sqe& entry) const;
  int refusal(const Request& request);
  void refuse(const io_uring_sqe& entry, const Request& request, int error);
  void notify(const Pending& send);
  void post(uint64_t user_data, int32_t result, uint32_t flags);

  std::array<io_uring_sqe, 8> entries_;
  size_t filled_ = 0;
  std::vector<uint64_t> armed_;  // requests that wait for room that does not come
  std::deque<multifd::Completion> posted_;
  std::deque<multifd::Completion> held_back_;  // posted by the next enter
  size_t fixed_bytes_ = 0;
  size_t longest_chain_ = 0;
};

}  // namespace fixture
