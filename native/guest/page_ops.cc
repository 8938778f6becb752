// See page_ops.h. Vectors are the compiler's own (vector_size): one body gives AVX-512, AVX2, SSE2
// and NEON.
// Guest memory is read and written through volatile, once per vector: neither is the memory looked
// at twice, nor can the compiler turn a loop into a memcpy, which ThreadSanitizer would intercept.
#include "guest/page_ops.h"

#include <array>
#include <bit>
#include <cstring>

#define MULTIFD_RACY __attribute__((no_sanitize("thread")))
#define MULTIFD_RACY_INLINE __attribute__((no_sanitize("thread"), always_inline)) inline

namespace multifd {

namespace {

using Word = uint64_t __attribute__((may_alias, aligned(1)));
using Vector16 = uint64_t __attribute__((vector_size(16), may_alias, aligned(1)));
using Vector32 = uint64_t __attribute__((vector_size(32), may_alias, aligned(1)));
using Vector64 = uint64_t __attribute__((vector_size(64), may_alias, aligned(1)));

constexpr size_t kWordsPerPage = kPageSize / sizeof(uint64_t);

template <typename Vector>
MULTIFD_RACY_INLINE bool is_zero(const uint8_t* page) {
  // Most pages that are not zero show it in their first word, the others in the middle or the last
  // one. One after the other: each look is a cache miss, and a page of random data costs only one.
  const volatile Word* const words = reinterpret_cast<const volatile Word*>(page);
  if (words[0] != 0 || words[kWordsPerPage / 2] != 0 || words[kWordsPerPage - 1] != 0) return false;
  // Taking a vector apart costs as much as several loads: done once in eight cache lines.
  constexpr size_t kVectorsPerStep = 512 / sizeof(Vector);
  constexpr size_t kLanes = sizeof(Vector) / sizeof(uint64_t);
  const volatile Vector* vectors = reinterpret_cast<const volatile Vector*>(page);
  for (size_t i = 0; i < kPageSize / sizeof(Vector); i += kVectorsPerStep) {
    Vector even = vectors[i];
    Vector odd = vectors[i + 1];
#pragma GCC unroll 32
    for (size_t step = 2; step < kVectorsPerStep; step += 2) {
      even |= vectors[i + step];
      odd |= vectors[i + step + 1];
    }
    const Vector any = even | odd;
    uint64_t folded = 0;
    for (size_t lane = 0; lane < kLanes; ++lane) folded |= any[lane];
    if (folded != 0) return false;
  }
  return true;
}

template <typename Vector>
MULTIFD_RACY_INLINE void copy(uint8_t* to, const uint8_t* from) {
  const volatile Vector* const source = reinterpret_cast<const volatile Vector*>(from);
  Vector* const target = reinterpret_cast<Vector*>(to);
  for (size_t i = 0; i < kPageSize / sizeof(Vector); i += 4) {
    const Vector a = source[i];
    const Vector b = source[i + 1];
    const Vector c = source[i + 2];
    const Vector d = source[i + 3];
    target[i] = a;
    target[i + 1] = b;
    target[i + 2] = c;
    target[i + 3] = d;
  }
}

MULTIFD_RACY bool is_zero_16(const uint8_t* page) { return is_zero<Vector16>(page); }
MULTIFD_RACY void copy_16(uint8_t* to, const uint8_t* from) { copy<Vector16>(to, from); }

using Copy = void (*)(uint8_t*, const uint8_t*);

#if defined(__x86_64__)
__attribute__((no_sanitize("thread"), target("avx2"))) bool is_zero_avx2(const uint8_t* page) {
  return is_zero<Vector32>(page);
}
__attribute__((no_sanitize("thread"), target("avx2"))) void copy_avx2(uint8_t* to,
                                                                      const uint8_t* from) {
  copy<Vector32>(to, from);
}
__attribute__((no_sanitize("thread"), target("avx512f"))) bool is_zero_avx512(const uint8_t* page) {
  return is_zero<Vector64>(page);
}

Copy choose_copy() {
  __builtin_cpu_init();  // this may run before libgcc's own constructor
  return __builtin_cpu_supports("avx2") ? copy_avx2 : copy_16;
}
#else
Copy choose_copy() { return copy_16; }
#endif

const ZeroTest kIsZero = zero_tests().front();
const Copy kCopy = choose_copy();

// Arithmetic modulo the prime 2^61 - 1: a product folds with one shift and one addition.
__extension__ using Wide = unsigned __int128;
constexpr uint64_t kPrime = (1ULL << 61) - 1;

// For a product below 2^124; the result is below 2^61 + 8, congruent, not yet fully reduced.
uint64_t fold(Wide value) {
  const uint64_t once =
      static_cast<uint64_t>(value & kPrime) + static_cast<uint64_t>(value >> 61);
  return (once & kPrime) + (once >> 61);
}

uint64_t reduce(uint64_t value) {
  value = (value & kPrime) + (value >> 61);
  return value >= kPrime ? value - kPrime : value;
}

uint64_t multiply(uint64_t a, uint64_t b) {
  return reduce(fold(static_cast<Wide>(a) * b));
}

}  // namespace

std::vector<ZeroTest> zero_tests() {
  std::vector<ZeroTest> tests;
#if defined(__x86_64__)
  __builtin_cpu_init();  // this may run before libgcc's own constructor
  if (__builtin_cpu_supports("avx512f")) tests.push_back(is_zero_avx512);
  if (__builtin_cpu_supports("avx2")) tests.push_back(is_zero_avx2);
#endif
  tests.push_back(is_zero_16);
  return tests;
}

bool is_zero_page(const uint8_t* page) { return kIsZero(page); }

MULTIFD_RACY bool is_zero_page_scalar(const uint8_t* page) {
  const volatile uint8_t* const bytes = page;
  for (size_t i = 0; i < kPageSize; ++i) {
    if (bytes[i] != 0) return false;
  }
  return true;
}

void copy_page(uint8_t* to, const uint8_t* from) { kCopy(to, from); }

MULTIFD_RACY void copy_bytes(uint8_t* to, const uint8_t* from, size_t size) {
  volatile uint8_t* const bytes = to;
  for (size_t i = 0; i < size; ++i) bytes[i] = from[i];
}

MULTIFD_RACY void zero_page_if_needed(uint8_t* page) {
  if (is_zero_page(page)) return;
  volatile Word* const words = reinterpret_cast<volatile Word*>(page);
  for (size_t i = 0; i < kWordsPerPage; ++i) words[i] = 0;
}

// A polynomial over the field of 2^61 - 1 elements whose coefficients are the page, seven bytes
// each, evaluated at the secret key: two different pages agree for at most 586 of the keys, so who
// does not know the key cannot do better than a chance of 2^-51. Four interleaved evaluations (at
// the key's fourth power) keep the multiplier busy.
uint64_t hash_page(const uint8_t* copy, uint64_t key) {
  constexpr size_t kBytesPerTerm = 7;
  constexpr size_t kLanes = 4;
  constexpr size_t kTerms = (kPageSize + kBytesPerTerm - 1) / kBytesPerTerm;
  constexpr size_t kWholeTerms = (kPageSize - 1) / kBytesPerTerm;  // an 8-byte load fits
  constexpr uint64_t kTermMask = (1ULL << (8 * kBytesPerTerm)) - 1;
  static_assert(std::endian::native == std::endian::little);
  static_assert(kTerms - kWholeTerms == 1);
  const uint64_t point = key % (kPrime - 2) + 2;  // never 0 or 1
  const uint64_t square = multiply(point, point);
  const uint64_t fourth = multiply(square, square);
  const auto term = [copy](size_t index) {
    uint64_t value;
    std::memcpy(&value, copy + index * kBytesPerTerm, sizeof value);
    return value & kTermMask;
  };
  std::array<uint64_t, kLanes> lanes{};  // each below 2^62
  for (size_t i = 0; i + kLanes <= kWholeTerms; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = fold(static_cast<Wide>(lanes[lane]) * fourth) + term(i + lane);
    }
  }
  uint64_t hash = 0;
  for (const uint64_t lane : lanes) hash = reduce(multiply(hash, point) + reduce(lane));
  for (size_t i = kWholeTerms - kWholeTerms % kLanes; i < kWholeTerms; ++i) {
    hash = reduce(multiply(hash, point) + term(i));
  }
  uint64_t last = 0;
  std::memcpy(&last, copy + kWholeTerms * kBytesPerTerm, kPageSize - kWholeTerms * kBytesPerTerm);
  return reduce(multiply(hash, point) + last) + 1;
}

}  // namespace multifd
