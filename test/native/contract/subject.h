// What the contract tests work on: an engine, the kernel below it (real or fake), and the far end.
// `variants()` is the list of all of them; a test runs once with each.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "fake_wire.h"

namespace contract {

inline constexpr size_t kKiB = 1024;

struct Settings {
  fixture::Faults faults{};  // without effect where the kernel is real
  uint64_t seed = 1;
  size_t high_bytes = 1024 * kKiB;
  size_t low_bytes = 0;
  bool stalled = false;  // the far end does not read; a little is taken all the same
};

class Subject {
 public:
  explicit Subject(const Settings& settings);
  virtual ~Subject() = default;
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;

  [[nodiscard]] virtual multifd::Engine& engine() = 0;
  // Ends the stream after a full flush; every byte that came out at the far end.
  virtual std::vector<uint8_t> received() = 0;
  // The far end, stalled, resets the connection.
  virtual void break_connection() = 0;
  // Any thread: what a channel does to get its thread back.
  virtual void interrupt() = 0;
  // Engine::reset(), with a kernel that lets go.
  virtual bool reset() = 0;
  // Fakes only: whether the kernel still reads these bytes, and the most it ever held.
  [[nodiscard]] virtual bool reads(const void*, size_t) const { return false; }
  [[nodiscard]] virtual size_t held_high_bytes() const { return 0; }

  // Stands for guest memory: page-aligned, on the heap, so that a sanitizer sees its end.
  [[nodiscard]] uint8_t* payload() const { return payload_.get(); }
  static constexpr size_t kPayloadBytes = 512 * kKiB;

  multifd::WaterMarks marks;
  std::atomic<bool> stop{false};

 protected:
  // Two ranges that meet: a record may cross from one registered buffer into the next.
  [[nodiscard]] std::vector<iovec> payload_ranges();

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> payload_;
};

struct Variant {
  std::string name;
  bool zero_copy;
  bool fake;
  bool by_reference;  // what was sent is read when the far end reads it, and may not change before
  // Throws check::Skipped where this machine has not got it.
  std::function<std::unique_ptr<Subject>(const Settings&)> make;
  // Records in the pool: a plain engine has one, which is free as soon as it is sent.
  [[nodiscard]] uint32_t records() const { return zero_copy ? 64 : 1; }
};

const std::vector<Variant>& variants();

// Sends random records through a subject and knows what must come out.
class Driver {
 public:
  Driver(const Variant& variant, const Settings& settings);
  multifd::SendRecord& acquire();
  // A header that is different each time, and `size` bytes in up to `parts` pieces.
  void fill(multifd::SendRecord& record, size_t size, size_t parts = 1);
  void send(size_t size, size_t parts = 1);
  void flush(size_t target_bytes = 0);
  // After a full flush: what was sent may be overwritten, for nobody reads it any more.
  void overwrite_payload();
  // After a full flush: every record of the pool is free, and each is there once.
  void check_pool();
  // The end of most tests: full flush, pool, and all bytes in order.
  void check_all();
  [[nodiscard]] const multifd::EngineCounters& counters() { return engine.counters(); }

  const Variant& variant;
  const std::unique_ptr<Subject> subject;
  multifd::Engine& engine;
  std::vector<uint8_t> expected;
  check::Random random;
};

}  // namespace contract
