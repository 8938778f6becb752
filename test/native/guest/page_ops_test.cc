// The zero test against its scalar reference, the copy, the keyed hash.
#include "guest/page_ops.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "check.h"

namespace {

using namespace multifd;

struct alignas(4096) Page {
  uint8_t bytes[kPageSize] = {};
};

void check_zero_tests(const uint8_t* page, bool expected) {
  CHECK_EQ(is_zero_page(page), expected);
  for (const ZeroTest is_zero : zero_tests()) CHECK_EQ(is_zero(page), expected);
  CHECK_EQ(is_zero_page_scalar(page), expected);
}

TEST("the zero test finds a non-zero byte at every position") {
  Page page;
  check_zero_tests(page.bytes, true);
  for (size_t i = 0; i < kPageSize; ++i) {
    for (const uint8_t value : {uint8_t{0x01}, uint8_t{0x80}, uint8_t{0xff}}) {
      page.bytes[i] = value;
      check_zero_tests(page.bytes, false);
    }
    page.bytes[i] = 0;
  }
  check_zero_tests(page.bytes, true);
}

TEST("the zero test does not look beyond its page") {
  std::vector<Page> pages(3);
  std::memset(pages[0].bytes, 0xff, kPageSize);
  std::memset(pages[2].bytes, 0xff, kPageSize);
  check_zero_tests(pages[1].bytes, true);
}

TEST("the zero test and its reference agree on random sparse pages") {
  check::Random random(check::seed());
  Page page;
  for (int round = 0; round < 2000; ++round) {
    std::memset(page.bytes, 0, kPageSize);
    const uint64_t touched = random.below(4);
    for (uint64_t i = 0; i < touched; ++i) {
      page.bytes[random.below(kPageSize)] = static_cast<uint8_t>(random.below(3));
    }
    check_zero_tests(page.bytes, is_zero_page_scalar(page.bytes));
  }
}

TEST("a copy equals its page and touches nothing else") {
  check::Random random(check::seed());
  std::vector<uint8_t> target(kPageSize + 64 + 16, 0xa5);
  Page page;
  for (uint8_t& byte : page.bytes) byte = static_cast<uint8_t>(random.next());
  for (const size_t shift : {0, 1, 16}) {
    std::fill(target.begin(), target.end(), 0xa5);
    copy_page(target.data() + 32 + shift, page.bytes);
    CHECK(std::memcmp(target.data() + 32 + shift, page.bytes, kPageSize) == 0);
    CHECK_EQ(target[31 + shift], 0xa5);
    CHECK_EQ(target[32 + shift + kPageSize], 0xa5);
  }
}

TEST("zeroing clears a page whatever byte of it is set") {
  Page page;
  for (size_t i = 0; i < kPageSize; i += 511) {
    std::memset(page.bytes, 0, kPageSize);
    page.bytes[i] = 7;
    zero_page_if_needed(page.bytes);
    CHECK(is_zero_page_scalar(page.bytes));
  }
}

TEST("the page hash changes with every single bit and with the key, and is never 0") {
  Page page;
  std::set<uint64_t> seen{hash_page(page.bytes, 42)};
  CHECK(!seen.contains(0));
  for (size_t i = 0; i < kPageSize; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      page.bytes[i] = static_cast<uint8_t>(1 << bit);
      CHECK(seen.insert(hash_page(page.bytes, 42)).second);
    }
    page.bytes[i] = 0;
  }
  page.bytes[0] = 1;
  CHECK(hash_page(page.bytes, 42) != hash_page(page.bytes, 43));
  check::Random random(check::seed());
  for (int round = 0; round < 1000; ++round) {
    for (size_t at = 0; at < kPageSize; at += 8) {
      const uint64_t value = random.below(4) == 0 ? ~0ULL : random.next();
      std::memcpy(page.bytes + at, &value, sizeof value);
    }
    const uint64_t key = random.next();
    const uint64_t hash = hash_page(page.bytes, key);
    CHECK(hash != 0);
    CHECK_EQ(hash_page(page.bytes, key), hash);
    const size_t at = random.below(kPageSize);
    page.bytes[at] = static_cast<uint8_t>(page.bytes[at] + 1 + random.below(255));
    CHECK(hash_page(page.bytes, key) != hash);
  }
}

// The field's own arithmetic, slowly: Horner's rule with a remainder per step.
TEST("the page hash is the polynomial it says it is") {
  check::Random random(check::seed());
  constexpr uint64_t kPrime = (1ULL << 61) - 1;
  const auto multiply = [](uint64_t a, uint64_t b) {
    uint64_t product = 0;  // both below the prime: doubling stays below 2^62
    for (int bit = 60; bit >= 0; --bit) {
      product = (product * 2) % kPrime;
      if ((b >> bit) & 1) product = (product + a) % kPrime;
    }
    return product;
  };
  for (int round = 0; round < 20; ++round) {
    Page page;
    for (uint8_t& byte : page.bytes) {
      byte = round % 2 == 0 ? 0xff : static_cast<uint8_t>(random.next());
    }
    const uint64_t key = round < 2 ? kPrime - 3 : random.next();
    const uint64_t point = key % (kPrime - 2) + 2;
    uint64_t expected = 0;
    for (size_t at = 0; at < kPageSize; at += 7) {
      uint64_t term = 0;
      std::memcpy(&term, page.bytes + at, std::min<size_t>(7, kPageSize - at));
      expected = (multiply(expected, point) + term) % kPrime;
    }
    CHECK_EQ(hash_page(page.bytes, key), expected + 1);
  }
}

}  // namespace
