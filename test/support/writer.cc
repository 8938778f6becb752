// The guest of the tests: a native thread that writes into memory at full speed until it is told to
// stop. Test-only, built by scripts/build-test-addon.mjs; knows nothing of multifd. Memory comes
// from JavaScript as a Uint8Array, whose owner must keep it mapped until stop() has returned.
#include <node_api.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>

namespace {

constexpr uint64_t kPageSize = 4096;
// The writer stays in a window for a while, as guests do, and then moves to another.
constexpr uint64_t kWindowPages = 512;
constexpr uint64_t kWritesPerWindow = 1 << 18;

struct Writer {
  uint8_t* memory = nullptr;
  uint64_t pages = 0;
  uint64_t random = 0;
  std::atomic<uint64_t> confined_pages{0};  // 0: everywhere
  std::atomic<uint64_t> writes{0};
  std::atomic<bool> stopping{false};
  std::thread thread;

  ~Writer() { stop(); }
  void stop() {
    stopping = true;
    if (thread.joinable()) thread.join();
  }

  uint64_t next() {  // xorshift64*
    random ^= random >> 12;
    random ^= random << 25;
    random ^= random >> 27;
    return random * 0x2545F4914F6CDD1DULL;
  }

  void write_one(uint64_t page, uint64_t value) {
    uint8_t* const at = memory + page * kPageSize + (value >> 55) * 8;
    auto* const cell = reinterpret_cast<volatile uint64_t*>(at);
    const uint64_t before = *cell;
    *cell = value;
    if ((value & 3) == 0) *cell = before;  // A, B, A
    // Now and then a whole page becomes zero, or stops being so.
    if ((value & 0xffff) == 1) std::memset(memory + page * kPageSize, 0, kPageSize);
  }

  void run() {
    uint64_t done = 0;
    while (!stopping.load(std::memory_order_relaxed)) {
      const uint64_t confined = confined_pages.load(std::memory_order_relaxed);
      const uint64_t span = confined != 0 && confined < pages ? confined : pages;
      const uint64_t window = span < kWindowPages ? span : kWindowPages;
      const uint64_t base = next() % (span - window + 1);
      for (uint64_t i = 0; i < kWritesPerWindow; ++i) {
        if ((i & 1023) == 0 && stopping.load(std::memory_order_relaxed)) break;
        const uint64_t value = next();
        write_one(base + (value >> 8) % window, value);
        ++done;
      }
      writes.store(done, std::memory_order_relaxed);
    }
    writes.store(done, std::memory_order_relaxed);
  }
};

Writer* writer_of(napi_env env, napi_callback_info info, size_t count, napi_value* values) {
  napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
  void* data = nullptr;
  napi_get_value_external(env, values[0], &data);
  return static_cast<Writer*>(data);
}

// start(memory: Uint8Array, seed: number): writer
napi_value start(napi_env env, napi_callback_info info) {
  napi_value values[2];
  size_t count = 2;
  napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
  void* data = nullptr;
  size_t length = 0;
  napi_get_typedarray_info(env, values[0], nullptr, &length, &data, nullptr, nullptr);
  double seed = 1;
  napi_get_value_double(env, values[1], &seed);
  if (data == nullptr || length < kPageSize) {
    napi_throw_range_error(env, nullptr, "the writer needs at least a page");
    return nullptr;
  }
  auto writer = std::make_unique<Writer>();
  writer->memory = static_cast<uint8_t*>(data);
  writer->pages = length / kPageSize;
  writer->random = static_cast<uint64_t>(seed) * 0x9E3779B97F4A7C15ULL | 1;
  writer->thread = std::thread([raw = writer.get()] { raw->run(); });
  napi_value external;
  napi_create_external(
      env, writer.release(), [](napi_env, void* data, void*) { delete static_cast<Writer*>(data); },
      nullptr, &external);
  return external;
}

// stop(writer): number of writes. When it returns, nobody writes any more.
napi_value stop(napi_env env, napi_callback_info info) {
  napi_value values[1];
  Writer* const writer = writer_of(env, info, 1, values);
  writer->stop();
  napi_value result;
  napi_create_double(env, static_cast<double>(writer->writes.load()), &result);
  return result;
}

// confine(writer, pages): from now on only the first `pages` are written; 0 lifts it.
napi_value confine(napi_env env, napi_callback_info info) {
  napi_value values[2];
  Writer* const writer = writer_of(env, info, 2, values);
  double pages = 0;
  napi_get_value_double(env, values[1], &pages);
  writer->confined_pages = static_cast<uint64_t>(pages);
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  const auto add = [&](const char* name, napi_callback callback) {
    napi_value function;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
    napi_set_named_property(env, exports, name, function);
  };
  add("start", start);
  add("stop", stop);
  add("confine", confine);
  return exports;
}
