// Everything that reads guest pages in user space. Guest memory is racy by nature: the guest, or
// its WebAssembly thread, writes while we read. These functions are the only ones that touch it,
// and are annotated for ThreadSanitizer here; there is no other suppression.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "guest/page.h"

namespace multifd {

// True when all kPageSize bytes are zero. Exits soon after the first byte that is not.
bool is_zero_page(const uint8_t* page);
// The scalar reference that the SIMD versions are tested against.
bool is_zero_page_scalar(const uint8_t* page);
using ZeroTest = bool (*)(const uint8_t* page);
// Those that this processor can run, for that test; the first and widest is is_zero_page().
std::vector<ZeroTest> zero_tests();
// A private copy of a page that may change while it is copied.
void copy_page(uint8_t* to, const uint8_t* from);
// Writes any bytes to any place in guest memory.
void copy_bytes(uint8_t* to, const uint8_t* from, size_t size);
// Writes zeros, unless the page is zero already (so that it is not dirtied or made resident).
void zero_page_if_needed(uint8_t* page);
// 64-bit hash of a private copy (never of guest memory), keyed: a guest must not be able to
// construct two pages with one hash. Never returns 0, which means "absent" to the hash tracker.
uint64_t hash_page(const uint8_t* copy, uint64_t key);

}  // namespace multifd
