// The numbers of the wire: big-endian, at any address. Pure bytes.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace multifd {

static_assert(std::endian::native == std::endian::little, "x86-64 and arm64 Linux only");

inline void put32(uint8_t* at, uint32_t value) {
  value = __builtin_bswap32(value);
  std::memcpy(at, &value, sizeof value);
}
inline void put64(uint8_t* at, uint64_t value) {
  value = __builtin_bswap64(value);
  std::memcpy(at, &value, sizeof value);
}
inline uint32_t get32(const uint8_t* at) {
  uint32_t value;
  std::memcpy(&value, at, sizeof value);
  return __builtin_bswap32(value);
}
inline uint64_t get64(const uint8_t* at) {
  uint64_t value;
  std::memcpy(&value, at, sizeof value);
  return __builtin_bswap64(value);
}

}  // namespace multifd
