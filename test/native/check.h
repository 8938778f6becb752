// The native tests' own harness: register, check, run, count. One executable per room links all of
// its *_test.cc files with check_main.cc. A failed check ends its test; the others still run.
//
//   TEST("a clean bitmap has no dirty word") { CHECK_EQ(bitmap.next_dirty_word(0, 4), 4U); }
//   [binary] [part of a name]        runs the tests whose name contains it
//   MULTIFD_TEST_SEED=n [binary]     repeats the random tests of a run that printed n
#pragma once

#include <cstdint>
#include <functional>
#include <sstream>
#include <string>

namespace check {

// Adds a test at start-up; parametrised suites call it in a loop. Always returns true.
bool add(std::string name, std::function<void()> body);
// Runs what was added; the return value is main's.
int run_all(int argument_count, char** arguments);
// Of this run: from MULTIFD_TEST_SEED, or drawn; printed at the start.
uint64_t seed();

// What a test is ended with. The code under test is built without exceptions, the tests are not.
struct Failed {};
struct Skipped {
  std::string reason;
};
// Prints the failure and throws Failed; on any thread but the test's own, it ends the program.
[[noreturn]] void fail(const char* file, int line, const std::string& what);

template <typename T>
std::string show(const T& value) {
  std::ostringstream out;
  out << std::boolalpha;
  if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(a value that cannot be printed)";
  }
  return out.str();
}

// For the random tests: small, fast, the same everywhere (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  // 0 .. limit - 1
  uint64_t below(uint64_t limit) { return next() % limit; }

 private:
  uint64_t state_;
};

}  // namespace check

#define CHECK_JOIN_2(a, b) a##b
#define CHECK_JOIN(a, b) CHECK_JOIN_2(a, b)
#define TEST(name) CHECK_TEST_AT(name, CHECK_JOIN(test_body_, __COUNTER__))
#define CHECK_TEST_AT(name, body)                                              \
  static void body();                                                          \
  [[maybe_unused]] static const bool CHECK_JOIN(body, _added) = check::add(name, body); \
  static void body()

#define CHECK(condition)                                                 \
  do {                                                                   \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition);       \
  } while (false)

#define CHECK_EQ(actual, expected)                                                         \
  do {                                                                                     \
    const auto check_actual = (actual);                                                    \
    const auto check_expected = (expected);                                                \
    if (!(check_actual == check_expected)) {                                               \
      check::fail(__FILE__, __LINE__,                                                      \
                  std::string(#actual " is ") + check::show(check_actual) + ", expected " + \
                      check::show(check_expected));                                        \
    }                                                                                      \
  } while (false)

// For Result<T>: shows the error's sentence.
#define CHECK_OK(result)                                                                     \
  do {                                                                                       \
    if (const auto& check_result = (result); !check_result) {                                \
      check::fail(__FILE__, __LINE__,                                                        \
                  std::string(#result " failed: ") + check_result.error().detail + " (errno " + \
                      std::to_string(check_result.error().errno_value) + ")");               \
    }                                                                                        \
  } while (false)

#define SKIP(reason) throw check::Skipped { reason }
