// The harness behind check.h, and main().
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"

namespace check {

namespace {

struct Test {
  std::string name;
  std::function<void()> body;
};

// A function's static: tests register before main(), in an order nobody knows.
std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

const std::thread::id test_thread = std::this_thread::get_id();

enum class Outcome { kPassed, kFailed, kSkipped };

Outcome run(const Test& test) {
  std::printf("     %s\n", test.name.c_str());
  try {
    test.body();
    return Outcome::kPassed;
  } catch (const Failed&) {
    std::printf("FAIL %s\n", test.name.c_str());
    return Outcome::kFailed;
  } catch (const Skipped& skipped) {
    std::printf("SKIP %s: %s\n", test.name.c_str(), skipped.reason.c_str());
    return Outcome::kSkipped;
  }
}

}  // namespace

bool add(std::string name, std::function<void()> body) {
  tests().push_back({std::move(name), std::move(body)});
  return true;
}

uint64_t seed() {
  static const uint64_t value = [] {
    const char* const given = std::getenv("MULTIFD_TEST_SEED");
    if (given != nullptr) return static_cast<uint64_t>(std::strtoull(given, nullptr, 0));
    return static_cast<uint64_t>(std::random_device()());
  }();
  return value;
}

void fail(const char* file, int line, const std::string& what) {
  std::printf("     %s:%d: %s\n", file, line, what.c_str());
  std::fflush(stdout);
  if (std::this_thread::get_id() != test_thread) std::abort();
  throw Failed{};
}

int run_all(int argument_count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const char* const wanted = argument_count > 1 ? arguments[1] : "";
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed()));
  int passed = 0;
  int failed = 0;
  for (const Test& test : tests()) {
    if (test.name.find(wanted) == std::string::npos) continue;
    const Outcome outcome = run(test);
    if (outcome == Outcome::kPassed) ++passed;
    if (outcome == Outcome::kFailed) ++failed;
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace check

int main(int argument_count, char** arguments) {
  return check::run_all(argument_count, arguments);
}
